"""A variant replaces values of a section; wrong names are reported before anything runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from isoflop.compression.variants import onnx_files
from isoflop.project.checking import check, stage_schemas
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import load_params, variant_keys
from isoflop.runtime.stage_code import checkout, code_text
from stages.prune import Params
from tests.conftest import ROOT, run_command


def checked(folder: Path, **variants: Any) -> str:
    """The error that `check` reports for params.yaml with keys of ``variants`` changed; empty if there is none."""
    content = yaml.safe_load((ROOT / "presets" / "smoke.yaml").read_text())
    content["variants"] |= variants
    content["data"] |= {"path": str(folder)}
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    try:
        check(stage_schemas(ROOT).values(), folder / "params.yaml")
    except UserError as error:
        return str(error).replace(f"{folder}/", "")
    return ""


def test_a_variant_replaces_values_of_its_section(tmp_path: Path) -> None:
    assert variant_keys(Params) == {"prune": "variants.prune"}
    grid = {"pruned": {"of": "base"}, "slim": {"of": "distilled", "ratio": 0.75, "epochs": 9}}
    assert checked(tmp_path, prune=grid) == ""
    plain, slim = (load_params(Params, tmp_path / "params.yaml", name).prune for name in grid)
    assert (slim.ratio, slim.epochs) == (0.75, 9) != (plain.ratio, plain.epochs)
    assert slim.round_to == plain.round_to


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ({"prune": {"pruned": {"of": "base", "rato": 1}}},
         "variants.prune.pruned.rato: unknown key; did you mean 'ratio'?"),
        ({"prune": {"pruned": {"of": "base", "ratio": 2.0}}},
         "variants.prune.pruned.ratio: got 2.0 (number), expected less than 1"),
        ({"prune": {"pruned": {"ratio": 0.5}}},
         "variants.prune.pruned: got {'ratio': 0.5}, expected a mapping with `of`, the model to start from"),
        ({"distill": {"distilled": {"of": "nothing"}}},
         "variants.distill.distilled.of: got 'nothing', expected one of base, pruned, sparse, qat"),
        ({"distill": {"distilled": {"of": "distilled"}}},
         "variants.distill.distilled.of: got 'distilled', expected one of base, pruned, sparse, qat"),
        ({"distill": {"distilled": {"of": "base"}, "qat": {"of": "base"}}},
         "variants.qat.qat: got a name that stage distill makes already, expected another one"),
        ({"distill": {"distilled": {"of": "base"}, "base": {"of": "pruned"}}},
         "variants.distill.base: got a name that stage train makes already, expected another one"),
        ({"candidates": ["base", "distiled"]},
         "variants.candidates: got 'distiled', expected one of base, distilled, pruned, sparse, qat"),
        ({"candidates": ["qat", "base"]},
         "variants.candidates: got ['qat', 'base'] (list), expected base as the first name, "
         "because the others are compared with it"),
        ({"candidates": ["base", "qat", "qat"]},
         "variants.candidates: got ['base', 'qat', 'qat'] (list), expected distinct names"),
        ({"float16": ["base", "base"]}, "variants.float16: got ['base', 'base'] (list), expected distinct names"),
        ({"distill": {"distilled": {"of": "base"}, "conditions": {"of": "base"}}},
         "variants.distill.conditions.[key]: got 'conditions' (string), expected a name that is not conditions and "
         "does not end with -int8 or -float16"),
        ({"distill": {"distilled": {"of": "pruned"}}, "prune": {"pruned": {"of": "distilled"}}},
         "variants.distill.distilled.of: got a cycle, expected a chain of models that starts at base; "
         "params.yaml: variants.prune.pruned.of: got a cycle, expected a chain of models that starts at base; "
         "params.yaml: variants.sparsify.sparse.of: got a cycle, expected a chain of models that starts at base"),
        ({"qat": {"qat": {"of": "sparse"}}},
         "variants.qat.qat.of: got 'sparse', whose zeros qat would not keep, expected a dense model; "
         "fix: make sparsify the last step"),
        ({"prune": {"pruned": {"of": "base", "macs_ratio": 0.4}}},
         "variants.prune.pruned: got ratio, macs_ratio of ratio, macs_ratio, target_speedup, expected one"),
        ({"candidates": ["base"], "float16": ["qat"]},
         "variants.float16: got 'qat', expected one of variants.candidates"),
    ],
)  # fmt: skip
def test_names_that_do_not_fit_are_said(tmp_path: Path, variants: dict[str, Any], said: str) -> None:
    assert checked(tmp_path, **variants) == f"params.yaml: {said}"


@pytest.mark.parametrize("name", ["a-int8", "a-float16", "A", "a.b", "../a", ""])
def test_a_name_that_would_be_no_file_of_its_own_is_refused(tmp_path: Path, name: str) -> None:
    said = checked(tmp_path, distill={"distilled": {"of": "base"}, name: {"of": "base"}})
    assert said.startswith(f"params.yaml: variants.distill.{name}") and said.count("expected") == 1


def test_the_stage_names_the_variant_that_fails(tmp_path: Path) -> None:
    checked(tmp_path, prune={"slim": {"of": "base", "ratio": 2.0}})
    options = ["--of", "b", "--train", "t", "--val", "v", "--views", "w", "--model", "m", "--metrics", "j.json"]
    command = [sys.executable, "-m", "stages.prune", "--variant", "slim", *options]
    (tmp_path / "code.yaml").write_text(code_text(checkout(ROOT)))
    done = run_command(*command, cwd=tmp_path, check=False, PYTHONPATH=f"{ROOT / 'src'}{os.pathsep}{ROOT}")
    said = "error: prune@slim: params.yaml: variants.prune.slim.ratio: got 2.0 (number), expected less than 1\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_the_files_of_the_candidates() -> None:
    files = onnx_files(Path("onnx"), ["base", "slim"], ["slim"])
    names = ["base", "slim", "base-int8", "slim-int8", "slim-float16"]
    assert [str(file) for file in files] == [f"onnx/{name}.onnx" for name in names]
