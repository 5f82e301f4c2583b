"""Export a trained network to a TFLite file with litert-torch, and check the file in LiteRT against the network.

The batch is 1, as usual on microcontrollers and phones: input ``images`` uint8 [1, H, W, C], raw pixels; outputs
``logits`` and ``probabilities``, float32 [1, K]. litert-torch is large (it depends on JAX): it is the extra ``tflite``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from isoflop.data.arrays import Images
from isoflop.inference.onnx_files import INPUT, LOGITS, PROBABILITIES, Floats
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_json
from isoflop.runtime.progress import tracked

if TYPE_CHECKING:
    from isoflop.models.model_files import Model

_MOST_PARITY_IMAGES = 1024
_PACKAGES = ("litert_torch", "ai_edge_litert")


def write_tflite(model: Model, images_NHWC: Images, tolerance: float, file: Path, metrics: Path) -> None:
    """Write ``model`` as TFLite, and to ``metrics`` how its logits differ from torch's on at most 1,024 of the images.

    Args:
        tolerance: the largest allowed difference of a logit, as a share of the largest logit.

    Raises:
        UserError: litert-torch is not installed or cannot convert the network, there are no images, or the logits
            differ by more than ``tolerance``.
    """
    from isoflop.inference.onnx_export import torch_logits

    lacking = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if lacking:
        raise UserError(
            f"params.yaml: variants.tflite: requires {' and '.join(lacking)}, not installed; "
            "fix: `pip install 'isoflop[tflite]'` (without -c requirements.lock, see docs/tflite.md)"
        )
    if not len(images_NHWC):
        raise UserError("tflite: got no validation images, expected some to compare LiteRT with torch")
    sample_NHWC = images_NHWC[:: -(-len(images_NHWC) // _MOST_PARITY_IMAGES)]
    expected_NK = torch_logits(model, sample_NHWC)
    _convert(model, file)
    actual_NK = tflite_logits(file, sample_NHWC)
    difference = float(np.abs(actual_NK - expected_NK).max())
    largest = max(float(np.abs(expected_NK).max()), 1e-6)
    changed = int((actual_NK.argmax(1) != expected_NK.argmax(1)).sum())
    if not difference <= tolerance * largest:  # written so that NaN fails, too
        raise UserError(
            f"export.tolerance: got logits from LiteRT that differ from torch's by {difference / largest:.2g} of the "
            f"largest logit ({changed} of {len(sample_NHWC)} predictions changed), expected at most {tolerance}"
        )
    facts = {
        "bytes": file.stat().st_size,
        "images": len(sample_NHWC),
        "max_logit_difference": float(f"{difference:.3g}"),
        "largest_logit": round(largest, 4),
        "flips": changed,
    }
    write_json(metrics, facts)


def tflite_logits(file: Path, images_NHWC: Images) -> Floats:
    """Compute logits float32 [N, K] of a TFLite file for images uint8 [N, H, W, C], one image at a time."""
    with _quiet():
        from ai_edge_litert.interpreter import Interpreter

        run = Interpreter(model_path=str(file), num_threads=1).get_signature_runner()
    images = tracked(range(len(images_NHWC)), "comparing LiteRT with torch", "images")
    logits = [run(**{INPUT: np.ascontiguousarray(images_NHWC[at : at + 1])})[LOGITS] for at in images]
    joined: Floats = np.concatenate(logits)
    return joined


def _convert(model: Model, file: Path) -> None:
    import torch
    from torch import Tensor, nn

    from isoflop.inference.onnx_export import classifier

    class Named(nn.Module):
        """Returns a dictionary, because its keys become the names of the file's outputs."""

        def __init__(self) -> None:
            super().__init__()
            self.whole = classifier(model)

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            logits_BK, probabilities_BK = self.whole(images)
            return {LOGITS: logits_BK, PROBABILITIES: probabilities_BK}

    size, channels = model.architecture.image_size, model.architecture.channels
    example = {INPUT: torch.zeros(1, size, size, channels, dtype=torch.uint8)}
    try:
        with _quiet():
            import litert_torch

            litert_torch.convert(Named().eval(), sample_kwargs=example).export(str(file))
    except Exception as error:  # torch.export, MLIR and LiteRT have no narrower common base
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"tflite: litert-torch cannot convert this {model.architecture.family}: {why}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress litert-torch's output, logs and warnings. Errors are still raised."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GLOG_minloglevel", "3")
    nowhere = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        yield
