"""``isoflop probe``: measure a few image sizes in a project, and choose one."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from isoflop.cli.apply import write_values
from isoflop.new_project.image_size_probe import (
    PROBE,
    candidate_sizes,
    chosen_size,
    probe_image_sizes,
    probe_lines,
    write_probe,
)
from isoflop.new_project.starting_values import image_size_step
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import PARAMS_FILE, read_params


def run_probe(project: Path, sizes: Sequence[int] | None, minutes: float, *, apply: bool, as_json: bool) -> None:
    """Probe image sizes of ``project``, write probe.json, print the measurements; ``apply``: change params.yaml.

    Raises:
        UserError: fewer than two sizes, or the images cannot be read.
    """
    params = read_params(project / PARAMS_FILE)
    size = params["prepare"]["image_size"]
    wanted = sorted(set(sizes or candidate_sizes(size, 2 * size, image_size_step(params))))
    if len(wanted) < 2:
        raise UserError(f"--sizes: got {wanted}, expected at least two different image sizes")
    with contextlib.chdir(project):
        found = probe_image_sizes(params, wanted, 60 * minutes)
    if len(found) < 2:
        raise UserError(f"--minutes: got {minutes:g}, in which only {found[0].image_size} pixels fit; fix: allow more")
    chosen = chosen_size(found)
    write_probe(found, chosen, project / PROBE)
    if apply and chosen.image_size != size:
        write_values(project / PARAMS_FILE, {("prepare", "image_size"): chosen.image_size})
    if as_json:
        print((project / PROBE).read_text(), end="")
        return
    print(*probe_lines(found, chosen), sep="\n")
    if left_out := sorted(set(wanted) - {one.image_size for one in found}):
        print(f"not measured within {minutes:g} minutes: {', '.join(map(str, left_out))}; --minutes allows more time")
    if chosen.image_size == size:
        print(f"prepare.image_size: {size} is the chosen size")
    elif apply:
        print(f"params.yaml: prepare.image_size is now {chosen.image_size}; run `dvc repro`")
    else:
        print(f"next: dvc exp run -S prepare.image_size={chosen.image_size}")
