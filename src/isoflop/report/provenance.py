"""Where the results come from: parameters, data and code by their hashes, versions, what the trainings cost.

Nothing here depends on when or in which workspace the page is made: the code is named by a hash, not by a commit, and
what a cache spared is left to ``isoflop savings``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from isoflop.report.facts import Facts, Row
from isoflop.runtime.stage_code import project_code_sha256


def provenance(
    facts: Mapping[str, Facts], trained: Mapping[str, Facts], runs: Sequence[Row], params: Facts
) -> dict[str, Any]:
    """What the section shows.

    Args:
        trained: the metrics of each model that a stage of compression made.
        runs: the study's runs that the law was fitted to.
    """
    costs = [{"what": "base", "epochs": facts["train"]["epochs"], "flops": facts["train"]["training_flops"],
              "seconds": facts["throughput"]["seconds"]}]  # fmt: skip
    costs += [
        {"what": name, "epochs": found["epochs"], "flops": found["training_flops"], "seconds": None}
        for name, found in trained.items()
    ]
    study = sum(float(run["flops"]) for run in runs)
    costs.append({"what": f"the study’s {len(runs)} runs", "epochs": None, "flops": study, "seconds": None})
    return {
        "params": as_yaml(params),
        "data_md5": facts["data"]["md5"],
        "code_sha256": project_code_sha256(Path()),
        "versions": facts["throughput"]["versions"] | {"ONNX Runtime": facts["latency"]["conditions"]["onnxruntime"]},
        "costs": costs,
        "total_flops": sum(float(cost["flops"]) for cost in costs),
    }


def as_yaml(params: Facts) -> str:
    """Parameters as params.yaml has them: lists of values on a line."""
    return yaml.dump(params, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=1000)


class _Dumper(yaml.SafeDumper):
    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        plain = not any(isinstance(item, dict | list) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=plain)
