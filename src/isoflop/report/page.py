"""Write the report: one self-contained HTML page with its figures inline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isoflop.compression.variants import INT8
from isoflop.report import sections
from isoflop.report.compression_words import controls_in_words
from isoflop.report.contradictions import Evidence, contradictions
from isoflop.report.facts import Facts, read_curves, read_facts, read_rows, variants
from isoflop.report.glossary import GLOSSARY
from isoflop.report.montages import read_montage
from isoflop.report.rendering import read_picture, render

_METRICS = ("data", "train", "throughput", "evaluate", "variants", "latency", "sessions")
STUDY = ("scaling", "forecast", "score")
_PICTURES = ("confusion", "reliability")
_MONTAGES = ("dropped", "augmentation", "mistakes", "saliency", "changed_predictions")


def write_report(
    metrics: Path, plots: Path, choice: Path, dropped: Path, params: Facts, report: Path, scaling: Path | None = None
) -> None:
    """Write ``index.html`` to the new folder ``report``. The same inputs give the same bytes.

    Args:
        metrics: folder of the metrics files (JSON).
        plots: folder of the pictures (SVG), the tables (CSV) and the training curves.
        choice: choice.json of the stage ``ship``.
        dropped: CSV of the images that cleaning dropped.
        params: content of params.yaml.
        scaling: folder of the study's results; None: the page is written without the study.

    Raises:
        UserError: a file is missing or cannot be read.
    """
    facts = {name: read_facts(metrics / f"{name}.json") for name in _METRICS}
    facts |= {name: read_facts(scaling / f"{name}.json") for name in STUDY} if scaling else {}
    runs = read_rows(scaling / "scaling.csv") if scaling else []
    chosen = read_facts(choice)
    int8 = [name.removesuffix(INT8) for name in facts["variants"] if name.endswith(INT8)]
    quantized = {name: read_facts(metrics / f"quantize-{name}.json") for name in int8}
    trained = {
        block["network"]: read_facts(metrics / f"{block['made_by']}-{block['network']}.json")
        for block in facts["variants"].values()
        if block["made_by"] != "train"
    }
    rows = variants(facts["variants"], facts["latency"], chosen["chosen"])
    controls = controls_in_words(trained, facts["variants"])
    curves = read_curves(plots / "training")
    evidence = Evidence(facts, params, rows, read_rows(plots / "reliability.csv"), curves)
    content: dict[str, Any] = {
        "pictures": {name: read_picture(plots / f"{name}.svg") for name in _PICTURES},
        "montages": {name: read_montage(plots / f"{name}.svg") for name in _MONTAGES},
        "glossary": GLOSSARY,
        "controls": controls,
        "width": params["train"]["width"],
        "shipped_control": controls.get(facts["variants"][chosen["chosen"]]["network"]),
        "findings": contradictions(evidence),
        **sections.answer(facts, chosen, rows),
        **sections.data(facts["data"], read_rows(dropped)),
        **sections.training(facts, curves),
        **sections.quality(facts["evaluate"], read_rows(plots / "confusion.csv")),
        **sections.study(facts, scaling and scaling / "pictures"),
        **sections.compression(facts, rows, quantized, read_rows(plots / "changed_predictions.csv")),
        **sections.provenance(facts, trained, runs, params),
    }
    page = render("page.html", **content)
    report.mkdir(parents=True)
    # class names that are not valid Unicode are shown escaped; dropped.csv escapes file names itself
    (report / "index.html").write_text(page, encoding="utf-8", errors="backslashreplace")
