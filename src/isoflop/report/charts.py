"""Draw the report's own figures as SVG: training curves, trade-offs, quantization sensitivity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import product
from typing import TYPE_CHECKING, Any

from isoflop.plotting import COLOURS, new_figure, svg
from isoflop.report import formats
from isoflop.report.facts import Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_LAYERS = 12
_MOST_LABELS = 12  # with more points, only those shipped and those on the front have a label
_LONGEST = 28  # characters of a label
_LETTER = 7.2  # pixels: width of an average character of a label
_RADII = (8.0, 14.0, 22.0, 32.0, 44.0, 58.0)  # pixels from a point to its label
_ANGLES = tuple(math.radians(degrees) for degrees in (0, 180, 45, -45, 135, -135, 90, -90))
_QUANTITIES = {"nll": "Validation loss (NLL)", "loss": "Training loss", "accuracy": "Validation accuracy"}


@dataclass(frozen=True)
class Figure:
    """An SVG with its title and its text alternative."""

    svg: str
    title: str
    alt: str


@dataclass(frozen=True)
class Point:
    """A variant in a trade-off. ``run`` selects the color; within a single run, only the shipped variant has one."""

    label: str
    accuracy: float
    low: float  # 95 % CI of the accuracy
    high: float
    latency_ms: float
    bytes: int
    run: int
    shipped: bool


def draw_curves(quantity: str, series: Mapping[str, Points]) -> Figure:
    """Draw the curves of one quantity over epochs."""
    figure = new_figure(3.7, 2.6)
    axes = figure.subplots()
    for index, (name, points) in enumerate(series.items()):
        axes.plot(*zip(*points, strict=True), color=COLOURS[index % 6], lw=1.6, label=name or quantity,
                  marker="o" if len(points) == 1 else None)  # fmt: skip
    _plain(axes)
    axes.set_xlabel("epoch")
    if len(series) > 1:
        axes.legend(fontsize=8, frameon=False)
    title = _QUANTITIES.get(quantity, quantity)
    values = "; ".join(
        f"{name + ': ' if name and len(series) > 1 else ''}from {points[0][1]:.4g} to {points[-1][1]:.4g}"
        for name, points in series.items()
    )
    return Figure(svg(figure), title, f"{title} over epochs; {values}")


def draw_tradeoff(points: Sequence[Point], by: str) -> Figure:
    """Draw accuracy with its 95 % CI against ``latency_ms`` or ``bytes`` (logarithmic), with the Pareto front.

    Labels stand where they cover nothing. Of many points only those shipped and those on the front have one; a pointer
    over any point shows its values.
    """
    cost = {point: getattr(point, by) / (1 if by == "latency_ms" else 1000) for point in points}
    several = len({point.run for point in points}) > 1
    figure = new_figure(4.2, 3.4)
    axes = figure.subplots()
    front = pareto_front(points, by)
    steps = [cost[point] for point in front], [100 * point.accuracy for point in front]
    axes.plot(*steps, color="#888888", drawstyle="steps-post", ls="--", lw=1.2, zorder=1)
    for index, point in enumerate(points):
        color = _color(point, several)
        axes.plot([cost[point]] * 2, [100 * point.low, 100 * point.high], color=color, lw=1, alpha=0.3, zorder=1)
        axes.plot(cost[point], 100 * point.accuracy, "D" if point.shipped else "o", ms=6, color=color, zorder=3,
                  gid=f"point-{index}")  # fmt: skip
    _log_costs(axes, list(cost.values()))
    axes.set_ylim(top=min(axes.get_ylim()[1], 100.4))
    _plain(axes)
    noun = "median latency, ms" if by == "latency_ms" else "file size, kB"
    axes.set(xlabel=noun, ylabel="test accuracy, %")
    first = [point for point in points if point.shipped] + [point for point in front if not point.shipped]
    rest = [] if len(points) > _MOST_LABELS else [point for point in points if point not in first]
    _label(axes, [*first, *rest], {point: (cost[point], 100 * point.accuracy) for point in points}, several)
    texts = [f"{point.label}: {formats.percent(point.accuracy)} at {cost[point]:.3g}" for point in points]
    drawn = svg(figure)
    for index, text in enumerate(texts):
        tag = f'<g id="point-{index}">'
        drawn = drawn.replace(tag, f"{tag}<title>{escape(text)}</title>")
    best = ", ".join(point.label for point in front)
    title = f"Accuracy vs. {noun}"
    return Figure(drawn, title, f"Test accuracy vs. {noun}. {'; '.join(texts)}. Pareto front: {best}")


def pareto_front(points: Sequence[Point], by: str) -> list[Point]:
    """Return the points for which no other is both more accurate and cheaper by ``by``, cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (getattr(point, by), -point.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front


def draw_sensitivity(network: str, layers: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the error that one layer alone in INT8 adds to its output, most sensitive layer first."""
    ordered = sorted(layers, key=lambda layer: -layer["error"])
    shown = ordered[:_MOST_LAYERS]
    figure = new_figure(3.9, 0.9 + 0.26 * len(shown))
    axes = figure.subplots()
    for index, layer in enumerate(shown):
        axes.barh(-index, 100 * layer["error"], height=0.7, color=COLOURS[0] if layer["int8"] else "#bbbbbb")
    names = [_layer(layer["name"]) + ("" if layer["int8"] else " (FP32)") for layer in shown]
    axes.set_yticks([-index for index in range(len(shown))], names, fontsize=8, parse_math=False)
    _plain(axes)
    axes.set_xlabel("relative RMS error of the output of the layer, %")
    more = f" ({len(ordered) - len(shown)} less sensitive layers not shown)" if len(ordered) > len(shown) else ""
    values = "; ".join(f"{layer['name']}: {formats.percent(layer['error'])}" for layer in shown)
    title = f"{network}: one layer in INT8 at a time{more}"
    return Figure(svg(figure), title, f"{title}. Relative RMS error of its output: {values}")


def _layer(name: str) -> str:
    name = name.encode("utf-8", "backslashreplace").decode().removesuffix(".weight")
    return name if len(name) <= 24 else "…" + name[-23:]


def _plain(axes: Axes) -> None:
    axes.grid(color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def _log_costs(axes: Axes, costs: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.margins(0.12, 0.12)
    spread = max(costs) / min(costs)
    fine, middle, coarse = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0), (1.0, 2.0, 5.0), (1.0,)
    subs: tuple[float, ...] = fine if spread < 4 else middle if spread < 100 else coarse
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:.3g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _label(axes: Axes, points: Sequence[Point], places: Mapping[Point, tuple[float, float]], several: bool) -> None:
    """Label the points in order, each at the nearest free place inside the axes; a far one gets a line to its point."""
    figure = axes.figure
    figure.canvas.draw()  # computes the layout, on which the places below depend
    frame = axes.get_window_extent()
    taken = [_box(axes.transData.transform(place), 7.0, 7.0) for place in places.values()]
    for point in points:
        text = point.label if len(point.label) <= _LONGEST else point.label[: _LONGEST - 1] + "…"
        color = _color(point, several) if several or point.shipped else "#000000"
        wide, high = 0.5 * _LETTER * len(text), 6.0
        x, y = axes.transData.transform(places[point])
        for radius, angle in product(_RADII, _ANGLES):
            right, up = math.cos(angle), math.sin(angle)
            at = (x + right * (radius + wide), y + up * (radius + high))
            box = _box(at, wide, high)
            if frame.containsx(box[0]) and frame.containsx(box[2]) and frame.containsy(box[1]) \
                    and frame.containsy(box[3]) and not any(_overlap(box, other) for other in taken):  # fmt: skip
                break
        else:
            continue
        taken.append(box)
        line = {"arrowstyle": "-", "color": "#aaaaaa", "linewidth": 0.6} if radius > _RADII[1] else None
        side = "left" if right > 0.5 else "right" if right < -0.5 else "center"  # of the text; the width is an estimate
        at = (at[0] - wide * {"left": 1, "right": -1, "center": 0}[side], at[1])
        axes.annotate(text, places[point], xytext=tuple(axes.transData.inverted().transform(at)), ha=side, va="center",
                      fontsize=9, color=color, arrowprops=line, parse_math=False)  # fmt: skip


def _box(center: Any, wide: float, high: float) -> tuple[float, float, float, float]:
    return center[0] - wide, center[1] - high, center[0] + wide, center[1] + high


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _color(point: Point, several: bool) -> str:
    return COLOURS[point.run % 6] if several else COLOURS[1] if point.shipped else "#888888"
