"""Pictures of the stage evaluate: confusion matrix, reliability diagram, worst mistakes, saliency."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from isoflop.data.arrays import Labels, Split
from isoflop.evaluation.scores import Bin, Floats, expected_calibration_error, probabilities
from isoflop.plotting import COLOURS, new_figure, save, shortened

_MOST_NAMES = 30  # with more classes there is no room for their names
_DPI = 110


def draw_confusion(labels_N: Labels, predicted_N: Labels, classes: list[str], file: Path) -> None:
    """Rows are the true classes, columns the predicted ones; the color is the share of the row."""
    from sklearn.metrics import confusion_matrix

    count = len(classes)
    counts = confusion_matrix(labels_N, predicted_N, labels=range(count))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(12.0, 2.5 + 0.5 * count)
    figure = new_figure(side, side, _DPI)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if count <= _MOST_NAMES:
        axes.set_xticks(range(count), map(shortened, classes), rotation=90, parse_math=False)
        axes.set_yticks(range(count), map(shortened, classes), parse_math=False)
        for row, column in np.argwhere(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    save(figure, file)


def draw_reliability(bins: list[Bin], file: Path) -> None:
    """Accuracy over confidence; the area of a point is its share of the images."""
    figure = new_figure(5.2, 5, _DPI)
    axes = figure.add_subplot()
    total = sum(found.images for found in bins)
    confidence, accuracy = [found.confidence for found in bins], [found.accuracy for found in bins]
    axes.plot([0, 1], [0, 1], color="#888888", linestyle="--", label="perfectly calibrated")
    axes.plot(confidence, accuracy, color=COLOURS[0], linewidth=1)
    sizes = [20 + 400 * found.images / total for found in bins]
    axes.scatter(confidence, accuracy, s=sizes, color=COLOURS[0], alpha=0.7, label="area: share of the images")
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.03), ylim=(-0.03, 1.03))
    axes.set_title(f"expected calibration error {expected_calibration_error(bins):.4f}", fontsize=10)
    axes.legend(loc="upper left", fontsize=8)
    save(figure, file)


def draw_mistakes(split: Split, logits_NK: Floats, indices: list[int], maps_MHW: Floats, file: Path) -> None:
    """The images ``indices`` with their label, predicted class and confidence; next to each, its saliency map."""
    shares_NK = probabilities(logits_NK)
    columns = min(4, max(1, len(indices)))
    rows = max(1, -(-len(indices) // columns))
    figure = new_figure(2.5 * columns + 0.4, 1.75 * rows + 0.3, _DPI)
    grid = figure.subplots(rows, 2 * columns, squeeze=False).reshape(-1, 2)
    for axes in grid.ravel():
        axes.set_axis_off()
    if not indices:
        grid[0, 0].text(0.5, 0.5, "no mistakes", ha="center", va="center")
    for (image, saliency), index, map_HW in zip(grid, indices, maps_MHW, strict=False):
        _show(image, split, index)
        _show_map(saliency, map_HW)
        predicted = int(shares_NK[index].argmax())
        names = split.input_spec.classes
        title = f"label: {shortened(names[split.labels[index]])}\npredicted: {shortened(names[predicted])}"
        image.set_title(title, fontsize=8, loc="left", parse_math=False)
        saliency.set_title(f"confidence {100 * shares_NK[index, predicted]:.0f} %", fontsize=8, loc="left")
    save(figure, file)


def draw_saliency(split: Split, indices: list[int], maps_MHW: Floats, file: Path) -> None:
    """Each image above its saliency map of the predicted class."""
    figure = new_figure(1.3 * len(indices) + 0.8, 3.2, _DPI)
    grid = figure.subplots(2, len(indices), squeeze=False)
    for column, (index, map_HW) in enumerate(zip(indices, maps_MHW, strict=True)):
        _show(grid[0, column], split, index)
        name = split.input_spec.classes[split.labels[index]]
        grid[0, column].set_title(shortened(name), fontsize=8, parse_math=False)
        _show_map(grid[1, column], map_HW)
        for row in range(2):
            grid[row, column].set_axis_off()
    save(figure, file)


def _show(axes: Any, split: Split, index: int) -> None:
    axes.imshow(split.images[index].squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")


def _show_map(axes: Any, map_HW: Floats) -> None:
    axes.imshow(map_HW, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
