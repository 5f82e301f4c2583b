"""Which results of ``dvc repro`` were computed in this workspace and what the cache saved (``isoflop savings``)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from isoflop.project.graph import read_graph
from isoflop.runtime.damage import check_outputs
from isoflop.runtime.errors import UserError, unmade
from isoflop.runtime.executions import executions
from isoflop.runtime.files import json_text
from isoflop.runtime.params import read_mapping


@dataclass(frozen=True)
class StageCost:
    """Cost of a stage of dvc.lock.

    Attributes:
        seconds: time that it took in this workspace; None: its outputs were restored from a cache.
        training_flops: FLOPs of its trainings, wherever they ran; 0: it trains nothing.
    """

    stage: str
    seconds: float | None
    training_flops: int


def stage_costs(project: Path) -> list[StageCost]:
    """Return the stages of dvc.lock whose outputs are in the workspace, in the order of dvc.lock.

    Raises:
        UserError: dvc.lock is missing or has no stages.
    """
    lock = project / "dvc.lock"
    if not lock.is_file():
        raise unmade(lock)
    stages = read_mapping(lock).get("stages")
    if not isinstance(stages, dict) or not stages:
        raise UserError(f"{lock}: got no stages, expected those that `dvc repro` ran")
    here = executions(project)
    current = read_graph(project).parents  # dvc.lock keeps entries of stages that dvc.yaml no longer has
    costs = []
    for name, stage in stages.items():
        outs = stage.get("outs", [])
        if name not in current or not all((project / out["path"]).exists() for out in outs):
            continue
        made = {out["path"]: out["md5"] for out in outs}
        seconds = [took for outputs, took in reversed(here) if outputs and outputs.items() <= made.items()]
        flops = sum(_training_flops(project / out["path"]) for out in outs if out["path"].endswith(".json"))
        costs.append(StageCost(str(name), seconds[0] if seconds else None, flops))
    return costs


def show(project: Path, costs: list[StageCost], *, as_json: bool) -> None:
    """Print the costs as a table with totals, or as JSON."""
    restored = [cost for cost in costs if cost.seconds is None]
    ran = [cost.seconds for cost in costs if cost.seconds is not None]
    flops = sum(cost.training_flops for cost in restored)
    rate = _facts(project / "metrics" / "throughput.json").get("flops_per_s")
    if as_json:
        totals = {
            "ran_here": len(ran),
            "seconds": round(sum(ran), 1),
            "restored": len(restored),
            "training_flops_spared": flops,
            "training_seconds_spared": round(flops / rate, 1) if rate else None,
        }
        print(json_text({"stages": [asdict(cost) for cost in costs], **totals}))
        return
    _print_table(costs)
    print(f"{len(ran)} of {len(costs)} stages ran here, in {sum(ran):.0f} s; {len(restored)} restored from a cache")
    if flops:
        time = f", about {flops / rate:.0f} s at the {rate:.3g} FLOP/s of metrics/throughput.json" if rate else ""
        print(f"saved: {flops:.3g} training FLOPs{time}")


def _print_table(costs: list[StageCost]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for title, side in (("stage", "left"), ("source", "left"), ("seconds", "right"), ("training FLOPs", "right")):
        table.add_column(title, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for cost in costs:
        source = ("cache", "") if cost.seconds is None else ("ran here", f"{cost.seconds:.1f}")
        table.add_row(cost.stage, *source, f"{cost.training_flops:.3g}" if cost.training_flops else "")
    Console().print(table)


def _training_flops(file: Path) -> int:
    """Return the FLOPs in a metrics file of a training stage, or their sum over the runs of a study."""
    facts = _facts(file)
    runs = facts.get("runs")
    if isinstance(runs, list):
        return sum(int(run.get("flops") or 0) for run in runs if isinstance(run, dict))
    return int(facts.get("training_flops") or 0)


def _facts(file: Path) -> dict[str, Any]:
    check_outputs(file)
    try:
        facts = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
