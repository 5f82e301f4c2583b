"""The report's own figures (curves, trade-offs, sensitivity) and inlining SVGs into a page."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from isoflop.report.charts import Point, draw_curves, draw_sensitivity, draw_tradeoff, pareto_front
from isoflop.report.facts import read_curves, thin
from isoflop.report.svg import inline
from isoflop.runtime.errors import UserError


def point(name: str, latency_ms: float, accuracy: float, size: int = 1000, shipped: bool = False) -> Point:
    return Point(name, accuracy, accuracy - 0.01, min(1, accuracy + 0.01), latency_ms, size, 0, shipped)


def test_series_of_one_quantity_are_grouped(tmp_path: Path) -> None:
    root = tmp_path / "plots" / "metrics"
    for name in ("train/loss", "val/loss", "lr"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.tsv").write_text(f"step\t{name.split('/')[-1]}\n0\t1.0\n1\tnan\n2\t0.5\n")
    points = [(0.0, 1.0), (2.0, 0.5)]
    assert read_curves(tmp_path) == {"loss": {"train": points, "val": points}, "lr": {"": points}}
    (root / "lr.tsv").write_text("step\tlr\n0\thello\n")
    with pytest.raises(UserError, match=r"lr\.tsv: line 2: got .*hello.*, expected numbers"):
        read_curves(tmp_path)


def test_long_curves_are_thinned_and_keep_their_last_point() -> None:
    points = [(float(step), float(step % 7)) for step in range(12_345)]
    thinned = thin(points)
    assert len(thinned) <= 300 and thinned[-1] == points[-1]
    assert all(first[0] < second[0] for first, second in pairwise(thinned))


@pytest.mark.parametrize("values", [[1.0], [0.5, 0.5], [0.0, 0.0], [-3.0, 1e6], [1e-9, 2e-9]])
def test_any_curve_can_be_drawn(values: list[float]) -> None:
    figure = draw_curves("nll", {"": [(float(step), value) for step, value in enumerate(values)]})
    assert figure.alt == f"Validation loss (NLL) over epochs; from {values[0]:.4g} to {values[-1]:.4g}"
    assert figure.svg == draw_curves("nll", {"": [(float(step), value) for step, value in enumerate(values)]}).svg


def test_the_pareto_front() -> None:
    points = [point("a", 1, 0.9, 9), point("b", 2, 0.95, 8), point("c", 3, 0.93, 7), point("d", 1, 0.8, 6),
              point("e", 4, 0.96, 5)]  # fmt: skip
    assert [item.label for item in pareto_front(points, "latency_ms")] == ["a", "b", "e"]
    assert [item.label for item in pareto_front(points, "bytes")] == ["e"]


@pytest.mark.parametrize("by", ["latency_ms", "bytes"])
def test_a_tradeoff_names_every_point_and_the_front(by: str) -> None:
    points = [point("base", 1.0, 0.99, 4000), point("$small$ <one>", 0.5, 0.98, 1000, shipped=True)]
    figure = draw_tradeoff(points, by)
    assert "base: 99.0\u202f% at" in figure.alt and figure.alt.endswith("Pareto front: $small$ <one>, base")
    assert "$small$ &lt;one&gt;" in figure.svg and ">base<" in figure.svg
    assert draw_tradeoff(points[:1], by).svg


def test_labels_of_a_tradeoff_do_not_overlap_and_every_point_has_a_tooltip() -> None:
    names = ["base", "distilled", "pruned", "qat", "base-int8", "distilled-int8", "pruned-int8", "qat-int8"]
    points = [point(name, 1 + 0.02 * (index // 2), 0.99 - 0.001 * (index % 3)) for index, name in enumerate(names)]
    drawn = draw_tradeoff(points, "latency_ms").svg
    assert all(f"<title>{name}: 9" in drawn for name in names)
    places = {name: (float(x), float(y)) for x, y, name in re.findall(
        r'<text style="[^"]*" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</text>', drawn) if name in names}  # fmt: skip
    assert len(places) >= 6, "a label without room is left to its tooltip"
    for (one, (left, top)), (other, (right, bottom)) in combinations(places.items(), 2):
        assert abs(top - bottom) > 7 or abs(left - right) > 8, f"{one} covers {other}"
    many = [point(f"variant {index}", 1 + index, 0.9 + 0.001 * (index % 7)) for index in range(40)]
    drawn = draw_tradeoff(many, "latency_ms").svg
    assert drawn.count("<title>variant") == 40 and len(re.findall(r">variant \d+</text>", drawn)) <= 8  # the front


def test_layers_are_ordered_by_error_and_the_rest_is_counted() -> None:
    layers = [{"name": f"layer.{number}.weight", "error": number / 1000, "int8": number != 19} for number in range(20)]
    figure = draw_sensitivity("base", layers)
    assert "8 less sensitive layers not shown" in figure.title
    shown = re.findall(r">(layer\.\d+[^<]*)<", figure.svg)
    assert shown == [f"layer.{number}{' (FP32)' if number == 19 else ''}" for number in range(19, 7, -1)]


def test_an_inline_svg_is_isolated_and_uses_the_colors_of_the_page() -> None:
    drawn = str(inline(draw_tradeoff([point("base", 1.0, 0.99), point("other", 2.0, 0.9)], "bytes").svg, "mine"))
    assert drawn.startswith("<svg viewBox=") and "<style" not in drawn and "<metadata" not in drawn
    assert "http" not in drawn and not re.findall(r"#(?:000000|ffffff)", drawn)
    ids = re.findall(r'\bid="([^"]+)"', drawn)
    assert ids and all(name.startswith("mine-") for name in ids)
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', drawn))
    assert {name for pair in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', drawn) for name in pair if name} <= set(ids)
    assert "var(--quiet)" in drawn and "base" in drawn
