"""The imperatives of ``isoflop summary``: at most three, the most valuable first, each with what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from isoflop.cli.imperatives import Imperative, imperatives
from tests.conftest import ROOT
from tests.scaling_runs import write_runs

WIDTHS = (8, 16, 24)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Base of width 8 at 80 %; in the study, width 24 reached more, and so did twice the images."""
    params = yaml.safe_load((ROOT / "presets" / "smoke.yaml").read_text())
    params["sweep"]["widths"] = list(WIDTHS)
    params["train"]["width"] = 8
    params["prepare"]["image_size"] = 64
    params["data"].update(source="images", path="photos")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    write_runs(tmp_path / "runs", WIDTHS, spread=0.001)
    write(tmp_path / "metrics" / "data.json", {"images": {"val": 200}})
    write(tmp_path / "metrics" / "train.json", {"val_accuracy": 0.8})
    return tmp_path


def write(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))


def write_variants(project: Path, **variants: tuple[float, float]) -> None:
    """Variants with their accuracy and latency in ms, the base first."""
    blocks = {
        name: {"accuracy": share, "val_accuracy": share, "val_nll": 1 - share, "bytes": 1000, "parameters": 100}
        for name, (share, _) in variants.items()
    }
    base_ms = next(iter(variants.values()))[1]
    timed = {name: {"cell": {"p50_ms": ms, "speedup_low": base_ms / ms}} for name, (_, ms) in variants.items()}
    write(project / "metrics" / "variants.json", blocks)
    write(project / "metrics" / "latency.json", timed | {"conditions": {"headline": "cell"}})


def named(found: list[Imperative], part: str) -> Imperative:
    (one,) = [one for one in found if part in one.command]
    return one


def test_a_wider_network_and_more_images_if_the_study_measured_a_gain(project: Path) -> None:
    found = imperatives(project)
    rows = json.loads((project / "runs" / "width-24.json").read_text())["runs"]
    whole, half = (sum(row["val_accuracy"] for row in rows if row["fraction"] == part) / 2 for part in (1.0, 0.5))
    wider = named(found, "train.width=24")
    assert wider.value == pytest.approx(whole - 0.8) and "measured in the study" in wider.effect
    more = named(found, "adding images to photos")
    assert more.value == pytest.approx((whole - half) / 2) and "610 to 1220 training images" in more.effect
    write(project / "metrics" / "train.json", {"val_accuracy": whole})  # nothing is better than the base
    assert not [one for one in imperatives(project) if "train.width" in one.command]


def test_an_image_size_that_the_probe_found_better_comes_first_with_its_latency(project: Path) -> None:
    sizes = [
        {"image_size": 64, "val_accuracy": 0.7, "latency_ms": 1.0},
        {"image_size": 128, "val_accuracy": 0.9, "latency_ms": 2.0},
    ]
    write(project / "probe.json", {"chosen": 128, "val_images": 100, "sizes": sizes})
    first = imperatives(project)[0]
    assert first.command == "dvc exp run -S prepare.image_size=128"
    effect = first.effect.replace("\u202f", " ")
    assert effect == "+20.0 pp on 100 images and 2.0× the latency, measured by the probe"
    assert first.value == pytest.approx(0.2 - 0.01)
    write(project / "probe.json", {"chosen": 64, "val_images": 100, "sizes": sizes})
    assert not [one for one in imperatives(project) if "image_size" in one.command]


def test_a_limit_of_accuracy_that_would_ship_another_variant(project: Path) -> None:
    write_variants(project, base=(0.95, 1.0), distilled=(0.945, 0.5), pruned=(0.93, 0.1))
    faster = named(imperatives(project), "ship.max_accuracy_drop=0.02")
    assert "ships pruned: −1.5 pp test accuracy, 5.0× as fast, measured" in faster.effect.replace("\u202f", " ")
    write_variants(project, base=(0.95, 1.0), distilled=(0.945, 0.5), pruned=(0.93, 0.45))  # not worth 1.5 pp
    assert not [one for one in imperatives(project) if "ship" in one.command]


def test_at_most_three_and_none_without_results(project: Path, tmp_path: Path) -> None:
    write_variants(project, base=(0.95, 1.0), distilled=(0.945, 0.5), pruned=(0.93, 0.1))
    sizes = [{"image_size": size, "val_accuracy": size / 200, "latency_ms": 1.0} for size in (64, 128)]
    write(project / "probe.json", {"chosen": 128, "val_images": 100, "sizes": sizes})
    found = imperatives(project)
    assert len(found) == 3 and [one.value for one in found] == sorted((one.value for one in found), reverse=True)
    (tmp_path / "empty").mkdir()
    assert imperatives(tmp_path / "empty") == []
