"""The choice of the shipped variant, and the files that ship."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from isoflop.evaluation.comparison import compare
from isoflop.inference.benchmarking import Benchmark, benchmark
from isoflop.models.model_files import save_model
from isoflop.runtime.errors import UserError
from isoflop.shipping.choosing import Candidate, Ship, candidates, choose, ship, write_tradeoff
from tests.conftest import run_command, ship_files
from tests.exports import exported, quantized, trained
from tests.networks import digits_split


def candidate(name: str, val_accuracy: float, latency_ms: float, size: int, **changes: Any) -> Candidate:
    values = {"accuracy": 0.9, "val_nll": 0.1, "speedup_low": 1 / latency_ms, "parameters": 10} | changes
    return Candidate(name, val_accuracy=val_accuracy, latency_ms=latency_ms, bytes=size, **values)


def params(
    objective: str, max_accuracy_drop: float, max_latency_ms: float | None = None, metric: str = "accuracy"
) -> Ship:
    limits = {"max_accuracy_drop": max_accuracy_drop, "max_latency_ms": max_latency_ms}
    return Ship.model_validate({"objective": objective, "metric": metric} | limits)


MANY = 1_000_000  # validation images: every difference is significant
BASE = candidate("base", 0.98, 1.0, 1000)
SLIM = candidate("slim", 0.975, 0.5, 400)
TINY = candidate("tiny", 0.90, 0.1, 100)
DENSE = candidate("dense", 0.98, 0.9, 300, speedup_low=0.97)


@pytest.mark.parametrize(
    ("objective", "drop", "chosen"),
    [
        ("latency", 0.01, "slim"),
        ("latency", 0.005, "slim"),  # exactly max_accuracy_drop
        ("latency", 0.004, "base"),
        ("latency", 1.0, "tiny"),
        ("bytes", 0.01, "dense"),
        ("bytes", 0.0, "dense"),
        ("bytes", 0.08, "tiny"),
    ],
)
def test_the_best_within_the_accuracy_limit_is_chosen(objective: str, drop: float, chosen: str) -> None:
    assert choose([BASE, SLIM, TINY, DENSE], params(objective, drop), MANY).chosen.name == chosen


def test_every_variant_has_a_verdict() -> None:
    choice = choose([BASE, SLIM, TINY, DENSE], params("latency", 0.01), MANY)
    assert choice.why == (
        "slim is the fastest of 2 qualifying variants: 0.5 ms instead of 1 ms for base (2.00×), "
        "0.50 pp lower validation accuracy"
    )
    assert choice.verdicts == {
        "base": "base: 1 ms",
        "slim": f"chosen: {choice.why}",
        "tiny": "loses 8.00 pp of validation accuracy; max_accuracy_drop is 1 pp",
        "dense": "not significantly faster than base: 95 % CI of the speed-up starts at 0.97×",
    }
    assert choice.qualifies == {"base": True, "slim": True, "tiny": False, "dense": False}


def test_accuracy_is_not_traded_for_noise() -> None:
    twin = candidate("twin", 0.978, 0.51, 410)
    for objective in ("latency", "bytes"):
        choice = choose([BASE, SLIM, twin, candidate("slow", 0.98, 0.53, 430)], params(objective, 0.01), MANY)
        assert choice.chosen is twin
    assert "twin is the most accurate of the 2 smallest of 4 qualifying variants (size within 3 %)" in choice.why


def test_the_loss_breaks_ties_of_accuracy() -> None:
    sure = candidate("sure", 0.974, 0.49, 400, val_nll=0.05)
    poor = candidate("poor", 0.97, 0.5, 400, val_nll=0.01)
    few, some = (choose([BASE, SLIM, sure, poor], params("latency", 0.01), images) for images in (200, 20_000))
    assert few.chosen is poor and some.chosen is sure
    assert choose([BASE, SLIM, sure, poor], params("latency", 0.01), MANY).chosen is SLIM
    assert some.why == (
        "sure has the lowest validation loss of the 2 fastest of 4 qualifying variants (latency within 3 %, accuracy "
        "not significantly different): 0.49 ms instead of 1 ms for base (2.04×), 0.60 pp lower "
        "validation accuracy"
    )


def test_if_no_variant_qualifies_the_base_ships() -> None:
    larger = candidate("larger", 0.99, 2.0, 2000)
    for objective, word in (("latency", "faster"), ("bytes", "smaller")):
        choice = choose([BASE, TINY, larger], params(objective, 0.01), MANY)
        assert choice.chosen is BASE
        assert choice.why == (f"base ships because no variant is {word} and loses at most 1 pp of validation accuracy")
    assert choice.verdicts["larger"] == "not smaller than base: 2,000 bytes instead of 1,000 bytes"


def test_max_latency_excludes_variants() -> None:
    """The smallest variant within the limit ships; if none is, the base ships with a remark."""
    choice = choose([BASE, SLIM, TINY, DENSE], params("bytes", 0.01, max_latency_ms=0.6), MANY)
    assert choice.chosen is SLIM and choice.verdicts["dense"] == "latency 0.9 ms is above max_latency_ms (0.6 ms)"
    assert choice.qualifies == {"base": False, "slim": True, "tiny": False, "dense": False}
    assert "slim is the only variant that qualifies" in choice.why
    assert choice.verdicts["base"] == "base: latency 1 ms is above max_latency_ms (0.6 ms)"
    fat = candidate("fat", 0.98, 0.5, 1200)  # larger than the base, which is too slow
    assert choose([BASE, fat], params("bytes", 0.01, max_latency_ms=0.6), MANY).chosen is fat
    choice = choose([BASE, SLIM, TINY, DENSE], params("latency", 0.01, max_latency_ms=0.3), MANY)
    assert choice.chosen is BASE
    assert choice.why == (
        "base ships because no variant is faster, takes at most 0.3 ms and loses at most 1 pp of validation accuracy; "
        "its own latency 1 ms is above max_latency_ms (0.3 ms)"
    )


def test_test_accuracy_does_not_matter() -> None:
    worse = candidate("worse", 0.98, 0.5, 400, accuracy=0.1)
    assert choose([BASE, worse], params("latency", 0.0), MANY).chosen is worse


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two ONNX files, variants.json, latency.json and data.json."""
    folder = tmp_path_factory.mktemp("measured")
    train = digits_split(folder / "train", 0, 600)
    for name, bounds in (("val", (600, 800)), ("test", (800, 1000))):
        digits_split(folder / name, *bounds)
    model = trained(train)
    save_model(model, folder / "base")
    (folder / "onnx").mkdir()
    files = [exported(model, folder / "onnx" / "base.onnx")]
    files.append(quantized(files[0], train))
    variants = compare(folder / "val", folder / "test", [folder / "base"], files)[0]
    latency = benchmark(files, Benchmark(batch_sizes=[1], threads=[1], repeats=10, warmup=1))
    data = {
        "classes": [str(digit) for digit in range(9)] + ["*nine* <b>"],
        "num_classes": 10,
        "image_size": 8,
        "channels": 1,
        "resize": "crop",
        "images": {"source": 1000, "train": 600, "val": 200, "test": 200},
        "dropped": {"total": 0},
    }
    for name, facts in (("variants", variants), ("latency", latency), ("data", data)):
        (folder / f"{name}.json").write_text(json.dumps(facts))
    return folder


def shipped(measured: Path, folder: Path, **changes: Any) -> list[Candidate]:
    values = {"objective": "bytes", "metric": "accuracy", "max_accuracy_drop": 1.0, "max_latency_ms": None}
    wanted = Ship.model_validate(values | changes)
    variants, latency, data = (measured / f"{name}.json" for name in ("variants", "latency", "data"))
    return ship(variants, latency, data, measured / "onnx", wanted, "digits", **ship_files(folder))


def test_the_release_files(measured: Path, tmp_path: Path) -> None:
    first = shipped(measured, tmp_path / "ship")[0]
    assert first.name == "base-int8"
    names = sorted(path.name for path in (tmp_path / "ship").iterdir())
    assert names == ["MODEL_CARD.md", "SHA256SUMS", "choice.json", "model.onnx"]
    assert (tmp_path / "ship/model.onnx").read_bytes() == (measured / "onnx/base-int8.onnx").read_bytes()
    choice = json.loads((tmp_path / "ship/choice.json").read_text())
    assert choice["chosen"] == "base-int8" and choice["why"].startswith(
        "base-int8 is the smallest of 2 qualifying variants"
    )
    assert [item["variant"] for item in choice["candidates"]] == ["base", "base-int8"]
    variants = json.loads((measured / "variants.json").read_text())
    assert choice["candidates"][1]["accuracy"] == variants["base-int8"]["accuracy"]
    if shutil.which("sha256sum"):
        run_command("sha256sum", "--strict", "-c", "SHA256SUMS", cwd=tmp_path / "ship")


def test_the_same_metrics_give_the_same_folder(measured: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shipped(measured, tmp_path / name)
    assert (tmp_path / "a/SHA256SUMS").read_bytes() == (tmp_path / "b/SHA256SUMS").read_bytes()


def test_the_card_has_the_measurements_and_its_code_runs(measured: Path, tmp_path: Path) -> None:
    shipped(measured, tmp_path / "ship")
    card = (tmp_path / "ship/MODEL_CARD.md").read_text()
    facts = json.loads((measured / "variants.json").read_text())["base-int8"]
    latency = json.loads((measured / "latency.json").read_text())
    assert f"{100 * facts['accuracy']:.2f} %" in card and f"{facts['bytes']:,} bytes" in card
    assert latency["conditions"]["cpu"] in card and f"{latency['base-int8']['batch1_threads1']['p50_ms']:.4g}" in card
    assert "\\*nine\\* \\<b\\>" in card and str(tmp_path) not in card and str(measured) not in card
    found = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert found and len(found[1].splitlines()) == 13
    Image.fromarray(np.full((20, 30, 3), 128, np.uint8)).save(tmp_path / "ship/picture.png")
    done = subprocess.run([sys.executable, "-c", found[1]], cwd=tmp_path / "ship", capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split()[0] in [str(digit) for digit in range(10)], done.stderr


def test_the_card_has_valid_hub_metadata(measured: Path, tmp_path: Path) -> None:
    """Parsed by huggingface_hub, which rejects results without task, data set or value."""
    from huggingface_hub import ModelCard, ModelCardData

    shipped(measured, tmp_path / "ship")
    content = (tmp_path / "ship/MODEL_CARD.md").read_text()
    card = ModelCard(content)
    assert isinstance(card.data, ModelCardData)
    facts = json.loads((measured / "variants.json").read_text())["base-int8"]
    assert (card.data.library_name, card.data.pipeline_tag) == ("onnx", "image-classification")
    assert card.data.model_name == "base-int8" and card.data.license is None
    results = {result.metric_type: result for result in card.data.eval_results or []}
    assert {kind: result.metric_value for kind, result in results.items()} == {
        "accuracy": facts["accuracy"],
        "balanced_accuracy": facts["balanced_accuracy"],
        "f1": facts["macro_f1"],
        "nll": facts["nll"],
    }
    assert all((one.dataset_type, one.dataset_split) == ("digits", "test") for one in results.values())
    assert card.text.lstrip().startswith("# base-int8\n")


def test_the_tradeoff(measured: Path, tmp_path: Path) -> None:
    choices = shipped(measured, tmp_path / "ship")
    write_tradeoff(choices, tmp_path / "tradeoff.csv")
    with (tmp_path / "tradeoff.csv").open(newline="") as stream:
        rows = {row["variant"]: row for row in csv.DictReader(stream)}
    assert list(rows["base"]) == ["variant", "latency_ms", "accuracy", "bytes", "parameters", "chosen"]
    assert {name: row["chosen"] for name, row in rows.items()} == {"base-int8": "yes", "base": "no"}
    assert int(rows["base"]["bytes"]) == (measured / "onnx/base.onnx").stat().st_size


def test_inconsistent_metrics_are_refused(measured: Path, tmp_path: Path) -> None:
    variants, latency = (json.loads((measured / f"{name}.json").read_text()) for name in ("variants", "latency"))
    del variants["base-int8"]
    with pytest.raises(UserError, match=r"ship: got base-int8 in only one of .*, expected the same variants"):
        candidates(variants, latency)
    wanted, targets = params("bytes", 1.0), ship_files(tmp_path / "ship")
    files = {name: measured / f"{name}.json" for name in ("variants", "latency", "data")}
    with pytest.raises(UserError, match=r"base-int8\.onnx: not found, expected an ONNX file for each variant"):
        ship(files["variants"], files["latency"], files["data"], tmp_path, wanted, "digits", **targets)
    (tmp_path / "cut.json").write_text('{"base": ')
    with pytest.raises(UserError, match=r"cut\.json: not readable"):
        ship(tmp_path / "cut.json", files["latency"], files["data"], tmp_path, wanted, "digits", **targets)
    assert list((tmp_path / "ship").iterdir()) == []


@pytest.mark.parametrize(
    "values", [{"objective": "speed"}, {"max_accuracy_drop": -0.1}, {"max_accuracy_drop": 2}, {"max_latency_ms": 0}]
)
def test_an_invalid_section_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Ship.model_validate(params("bytes", 0.01).model_dump() | values)


def test_balanced_accuracy_chooses_by_the_recall_of_every_class() -> None:
    block = {"accuracy": 0.9, "val_nll": 0.1, "bytes": 10, "parameters": 10}
    variants = {
        "base": block | {"val_accuracy": 0.98, "val_balanced_accuracy": 0.9},
        "slim": block | {"val_accuracy": 0.99, "val_balanced_accuracy": 0.5},  # never finds the rare class
    }
    times = {name: {"one": {"p50_ms": ms, "speedup_low": 1 / ms}} for name, ms in (("base", 1.0), ("slim", 0.5))}
    latency = times | {"conditions": {"headline": "one"}}
    by_accuracy = choose(candidates(variants, latency), params("latency", 0.01), MANY)
    by_recall = choose(
        candidates(variants, latency, "balanced_accuracy"), params("latency", 0.01, metric="balanced_accuracy"), MANY
    )
    assert (by_accuracy.chosen.name, by_recall.chosen.name) == ("slim", "base")
    assert by_recall.verdicts["slim"].startswith("loses 40.00 pp of balanced validation accuracy")
