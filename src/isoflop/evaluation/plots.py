"""Pictures of the stage evaluate: confusion matrix, reliability diagram, worst mistakes, occlusion maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from isoflop.data.arrays import Labels, Split
from isoflop.evaluation.occlusion import Predict, draw, in_words, occlude
from isoflop.evaluation.scores import Bin, Floats
from isoflop.montage import NAMESPACE, Row, Tile, shortened, width_of, write_montage
from isoflop.plotting import COLOURS, new_figure, save

_MOST_NAMES = 30  # with more classes there is no room for their names
_CELL, _FEW_CELLS = 26, 480  # SVG units: a cell, and the matrix of more classes
_LEAST_WIDTH = 380  # so that few classes do not fill a page
_LETTER = 6.6  # width of an average character of 12 px


def draw_confusion(labels_N: Labels, predicted_N: Labels, classes: list[str], file: Path) -> None:
    """Write the confusion matrix as SVG: rows are the true classes, columns the predicted ones.

    The color of a cell is its share of the row. Not by matplotlib, which measures names with fonts that lack Chinese
    letters or emoji: here the reader's own fonts draw them.
    """
    from sklearn.metrics import confusion_matrix

    count = len(classes)
    counts = confusion_matrix(labels_N, predicted_N, labels=range(count))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    named = count <= _MOST_NAMES
    names = [shortened(name, 18) for name in classes] if named else []
    margin = 26 + _LETTER * max(map(width_of, names), default=0)
    cell = _CELL if named else _FEW_CELLS / count
    high = margin + cell * count + 4
    wide = max(_LEAST_WIDTH, high)
    root = ElementTree.Element("svg", {"xmlns": NAMESPACE, "viewBox": f"0 0 {wide:g} {high:g}", "width": f"{wide:g}"})
    for row, column in np.argwhere(counts):
        x, y = margin + cell * int(column), margin + cell * int(row)
        _cell(root, x, y, cell, shares[row, column], str(counts[row, column]) if named else "")
    box = {"x": f"{margin:g}", "y": f"{margin:g}", "width": f"{cell * count:g}", "height": f"{cell * count:g}"}
    ElementTree.SubElement(root, "rect", box | {"fill": "none", "stroke": "#aaaaaa"})
    for index, name in enumerate(names):
        place = margin + cell * (index + 0.5)
        _label(root, margin - 6, place + 4, name, "end")
        _label(root, place + 4, margin - 6, name, "start", turned=True)
    middle = margin + cell * count / 2
    _label(root, middle, 12, "predicted class", "middle")
    _label(root, 12, middle, "true class", "middle", turned=True)
    file.write_text(ElementTree.tostring(root, encoding="unicode"), encoding="utf-8")


def _cell(root: ElementTree.Element, x: float, y: float, side: float, share: float, text: str) -> None:
    box = {"x": f"{x:g}", "y": f"{y:g}", "width": f"{side:g}", "height": f"{side:g}"}
    ElementTree.SubElement(root, "rect", box | {"fill": COLOURS[0], "fill-opacity": f"{0.06 + 0.94 * share:.3f}"})
    if text:
        _label(root, x + side / 2, y + side / 2 + 4, text, "middle", "#ffffff" if share > 0.5 else "#000000")


def _label(
    root: ElementTree.Element,
    x: float,
    y: float,
    text: str,
    anchor: str,
    fill: str = "#000000",
    *,
    turned: bool = False,
) -> None:
    style = f"font-size:12px;font-family:system-ui,sans-serif;text-anchor:{anchor};fill:{fill}"
    place = {"x": f"{x:g}", "y": f"{y:g}", "style": style}
    if turned:
        place["transform"] = f"rotate(-90 {x:g} {y:g})"
    ElementTree.SubElement(root, "text", place).text = text


def draw_reliability(bins: list[Bin], file: Path) -> None:
    """Accuracy over confidence; the area of a point is its share of the images."""
    figure = new_figure(4.0, 3.4)
    axes = figure.add_subplot()
    total = sum(found.images for found in bins)
    confidence, accuracy = [found.confidence for found in bins], [found.accuracy for found in bins]
    axes.plot([0, 1], [0, 1], color="#888888", linestyle="--", lw=1, label="calibrated")
    axes.plot(confidence, accuracy, color=COLOURS[0], linewidth=1)
    sizes = [20 + 400 * found.images / total for found in bins]
    axes.scatter(confidence, accuracy, s=sizes, color=COLOURS[0], alpha=0.7, label="area: share of the images")
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.03), ylim=(-0.03, 1.03))
    axes.grid(color="#dddddd", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    save(figure, file)


def draw_mistakes(
    test: Split, names: Sequence[str], shares_NK: Floats, predict: Predict, indices: Sequence[int], file: Path
) -> None:
    """The images ``indices`` with file name, label, predicted class and confidence; next to each, its occlusion map."""
    classes, tiles = test.input_spec.classes, []
    for index in indices:
        image, found = test.images[index], occlude(predict, test.images[index])
        guess = int(shares_NK[index].argmax())
        lines = [names[index], f"label: {classes[test.labels[index]]}",
                 f"predicted: {classes[guess]}, {100 * shares_NK[index, guess]:.1f} %", in_words(found)]  # fmt: skip
        tiles.append(Tile([image, draw(image, found)], lines))
    write_montage([Row("", tiles)], file, nothing="no mistakes")


def draw_saliency(test: Split, names: Sequence[str], predict: Predict, indices: Sequence[int], file: Path) -> None:
    """The images ``indices`` with file name, label and confidence; next to each, its occlusion map."""
    tiles = []
    for index in indices:
        image, found = test.images[index], occlude(predict, test.images[index])
        label = f"label: {test.input_spec.classes[test.labels[index]]}"
        lines = [names[index], label, f"confidence {100 * found.probability:.1f} %", in_words(found)]
        tiles.append(Tile([image, draw(image, found)], lines))
    write_montage([Row("", tiles)], file, nothing="no images")
