"""How images enter a classifier that isoflop did not export, and what its output means.

``isoflop compress`` finds this out and writes it into the metadata of the INT8 file, so that ``isoflop predict`` and
``isoflop serve`` can use that file.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isoflop.data.arrays import Images
from isoflop.runtime.errors import UserError

METADATA_KEY = "isoflop_foreign_io"
MOST_PIXELS = 4096  # of a side

Answer = Literal["class", "above half", "above zero", "labels above half"]
Floats = npt.NDArray[np.float32]
Inputs = npt.NDArray[Any]
Number = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Name = Annotated[str, Field(max_length=1000)]


class ForeignIO(BaseModel):
    """Input: squares of ``size`` pixels, (x / ``scale`` - mean) / std by channel; uint8 takes the pixels unchanged.

    ``answer`` is what an output means: ``class``, the class with the largest score; ``above half`` and ``above zero``,
    one score of two classes, a probability or a logit; ``labels above half``, a probability per label.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    input_name: Name
    output_name: Name
    size: int = Field(ge=1, le=MOST_PIXELS)
    channels: Literal[1, 3]
    channels_last: bool
    dtype: Literal["float32", "float16", "uint8"]
    scale: Positive
    mean: list[Number] = Field(min_length=1, max_length=3)
    std: list[Positive] = Field(min_length=1, max_length=3)
    bgr: bool
    batch: int | None = Field(ge=1, le=4096)  # the fixed number of images per run; None: any
    answer: Answer
    is_probability: bool  # the outputs are probabilities, not logits
    classes: list[Name] = Field(min_length=1, max_length=100_000)

    def inputs(self, images_NHWC: Images) -> Inputs:
        """Return the model's input [N, C, H, W] or [N, H, W, C] for RGB or grayscale images uint8 [N, H, W, C]."""
        pixels = images_NHWC[..., ::-1] if self.bgr else images_NHWC
        if self.dtype != "uint8":
            shift, width = np.array(self.mean, np.float32), np.array(self.std, np.float32)
            with np.errstate(over="ignore", invalid="ignore"):  # the caller checks that the outputs are finite
                scaled = (pixels.astype(np.float32) / np.float32(self.scale) - shift) / width
                pixels = scaled.astype(self.dtype)
        ready: Inputs = np.ascontiguousarray(pixels if self.channels_last else pixels.transpose(0, 3, 1, 2))
        return ready

    def answers(self, scores_NK: Floats) -> npt.NDArray[Any]:
        """Return what the scores answer: classes [N], or the labels that hold [N, K]."""
        found: npt.NDArray[Any] = scores_NK.argmax(1)
        if self.answer == "labels above half":
            found = scores_NK > 0.5
        elif self.answer != "class":
            found = scores_NK[:, 0] > (0.5 if self.answer == "above half" else 0)
        return found

    def probabilities(self, scores_NK: Floats) -> Floats:
        """Return probabilities [N, classes] of scores [N, K]."""
        scores = scores_NK.astype(np.float64)
        if not self.is_probability:
            with np.errstate(over="ignore"):
                shifted = np.exp(scores - scores.max(1, keepdims=True))
                scores = 1 / (1 + np.exp(-scores)) if scores.shape[1] == 1 else shifted / shifted.sum(1, keepdims=True)
        if self.answer in ("above half", "above zero"):
            scores = np.concatenate([1 - scores, scores], axis=1)
        return scores.astype(np.float32)


def matching(answers: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Return the share of images whose answer is the expected one, with all of its labels."""
    same = answers == expected
    return float(same.reshape(len(same), -1).all(1).mean())


def read_foreign_io(text: str, file: object) -> ForeignIO:
    """Return what ``compress`` wrote into the metadata of ``file``.

    Raises:
        UserError: the metadata is damaged.
    """
    try:
        return ForeignIO.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or METADATA_KEY
        raise UserError(f"{file}: metadata {where}: {first['msg']}; fix: `isoflop compress` writes it") from None


def rows(output: npt.NDArray[Any], images: int) -> Floats | None:
    """Return an output [N], [N, K] or [N, K, 1, 1] of ``images`` images as [N, K], or None if it has another shape."""
    if output.dtype.kind != "f" or output.ndim < 1 or output.shape[0] != images or not output.size:
        return None
    if output.ndim > 2 and any(axis != 1 for axis in output.shape[2:]):
        return None
    flat: Floats = output.reshape(images, -1).astype(np.float32)
    return flat
