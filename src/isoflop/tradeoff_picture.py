"""A picture of what compression cost and gained: accuracy against latency, the area of a point being its bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isoflop.shipping import Candidate

_LARGEST_AREA = 900.0  # square points
_CHOSEN, _OTHER, _FRONT = "#d1495b", "#30638e", "#9aa5b1"


def write_tradeoff_picture(candidates: Sequence[Candidate], file: Path) -> None:
    """Draw a PNG of ``candidates``, of which the first one is the chosen; latency is on a logarithmic axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure = Figure(figsize=(8.5, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    largest = max(item.bytes for item in candidates)
    front = pareto_front(candidates)
    axes.plot(
        [item.latency_ms for item in front],
        [100 * item.accuracy for item in front],
        color=_FRONT,
        drawstyle="steps-post",
        linestyle="--",
        zorder=1,
        label="Pareto front",
    )
    for item in candidates:
        axes.scatter(
            item.latency_ms,
            100 * item.accuracy,
            s=max(_LARGEST_AREA * item.bytes / largest, 12),
            color=_CHOSEN if item is candidates[0] else _OTHER,
            alpha=0.75,
            linewidths=0,
            zorder=2,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(ScalarFormatter() if _within_a_decade(candidates) else NullFormatter())
    axes.margins(0.12, 0.2)
    axes.set_ylim(top=min(axes.get_ylim()[1], 100.5))
    _label(axes, candidates)
    axes.set_xlabel("median latency, ms (logarithmic)")
    axes.set_ylabel("test accuracy, %")
    axes.set_title("Accuracy against latency; area is bytes, red is shipped", fontsize=11)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.legend(loc="lower left", frameon=False, fontsize=9)
    figure.savefig(file, format="png", metadata={"Software": None})


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that no other beats in latency and accuracy both, fastest first."""
    front: list[Candidate] = []
    for item in sorted(candidates, key=lambda item: (item.latency_ms, -item.accuracy)):
        if not front or item.accuracy > front[-1].accuracy:
            front.append(item)
    return front


def _within_a_decade(candidates: Sequence[Candidate]) -> bool:
    latencies = [item.latency_ms for item in candidates]
    return max(latencies) < 10 * min(latencies)


def _label(axes: Any, candidates: Sequence[Candidate]) -> None:
    """Name and size of each point in a column at the right, as high as the points are ordered: variants often tie."""
    ordered = sorted(candidates, key=lambda item: (-item.accuracy, item.latency_ms))
    for place, item in enumerate(ordered):
        axes.annotate(
            f"{item.name}, {item.bytes / 1000:.0f} kB",
            (item.latency_ms, 100 * item.accuracy),
            xytext=(1.04, 1 - (place + 0.5) / len(ordered)),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            color=_CHOSEN if item is candidates[0] else "black",
            arrowprops={"arrowstyle": "-", "color": _FRONT, "linewidth": 0.6},
            annotation_clip=False,
            parse_math=False,
        )
