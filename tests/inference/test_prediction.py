"""``isoflop predict`` with real ONNX Runtime sessions, on a graph so small that its predictions are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isoflop.inference.prediction import Failure, Prediction, open_model, predict
from tests.exports import write_model
from tests.pictures import QUARTERS, write_image


def predicted(model: Path, *images: Path, top: int = 1) -> list[Prediction]:
    """Predictions for images that can all be read."""
    found = list(predict(open_model(model), images, top))
    assert not [one for one in found if isinstance(one, Failure)]
    return [one for one in found if isinstance(one, Prediction)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.onnx", QUARTERS)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "png"), ("1", "png"), ("P", "gif"), ("RGB", "jpg"), ("RGBA", "png"), ("CMYK", "jpg"), ("I;16", "png")],
)
def test_images_of_any_mode_and_size(tmp_path: Path, mode: str, suffix: str, channels: int) -> None:
    model = write_model(tmp_path / "model.onnx", QUARTERS, channels)
    images = [write_image(tmp_path / f"{n}.{suffix}", n, mode, side) for n, side in enumerate((2, 8, 31, 400))]
    predictions = predicted(model, *images)
    assert [prediction.image for prediction in predictions] == images
    assert [prediction.top[0][0] for prediction in predictions] == QUARTERS


def test_probabilities_are_those_of_the_model_best_first(tmp_path: Path, model: Path) -> None:
    Image.fromarray(np.array([[64, 32], [96, 0]], np.uint8)).save(tmp_path / "image.png")
    ((first, second, third, fourth),) = [
        prediction.top for prediction in predicted(model, tmp_path / "image.png", top=9)
    ]
    expected = np.exp([3.0, 2.0, 1.0, 0.0]) / np.exp([3.0, 2.0, 1.0, 0.0]).sum()
    assert [name for name, _ in (first, second, third, fourth)] == [QUARTERS[n] for n in (2, 0, 1, 3)]
    np.testing.assert_allclose([value for _, value in (first, second, third, fourth)], expected, rtol=1e-5)


@pytest.mark.parametrize(("resize", "expected"), [("crop", "top left"), ("stretch", "top right")])
def test_the_model_says_how_to_make_a_square(tmp_path: Path, resize: str, expected: str) -> None:
    model = write_model(tmp_path / "model.onnx", QUARTERS, resize=resize)
    pixels = np.zeros((4, 12), np.uint8)  # the outer thirds are cropped, or squeezed into the square
    pixels[:, 8:] = 255
    pixels[:, 4:6] = 60
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert predicted(model, tmp_path / "wide.png")[0].top[0][0] == expected


def test_more_images_than_a_batch_stay_in_order(tmp_path: Path, model: Path) -> None:
    images = [write_image(tmp_path / f"{n}.png", n % 4) for n in range(150)]
    assert [prediction.top[0][0] for prediction in predicted(model, *images)] == [QUARTERS[n % 4] for n in range(150)]


def test_what_is_run_is_what_was_looked_at(tmp_path: Path, model: Path) -> None:
    """ONNX Runtime reads files that start like this in its own format, which onnx cannot check."""
    named = b"\x12\x08" + b"__ORTM__"  # a producer_name; a later one overrides it
    (tmp_path / "two.onnx").write_bytes(named + model.read_bytes())
    assert (tmp_path / "two.onnx").read_bytes()[4:8] == b"ORTM"
    image = write_image(tmp_path / "good.png", 2)
    assert predicted(tmp_path / "two.onnx", image)[0].top[0][0] == "bottom left"


def test_an_exported_network_answers_as_torch_does(tmp_path: Path) -> None:
    """`predict` turns an image into the same network input as the prepared splits."""
    import torch

    from isoflop.data.arrays import InputSpec
    from isoflop.data.images import decode, fit_to_square
    from isoflop.data.normalization import normalize
    from isoflop.inference.onnx_export import export
    from isoflop.models.architecture import Architecture
    from isoflop.models.families import build
    from isoflop.models.model_files import Model

    shape = Architecture("mlp", 8, 1, 1, 1, 0.0, image_size=8, channels=3, num_classes=3)
    torch.manual_seed(0)
    net = build(shape).eval()
    input_spec = InputSpec(["a", "b", "c"], [0.4, 0.5, 0.6], [0.2, 0.3, 0.1], "pad")
    export(Model(net, shape, input_spec), "base", tmp_path / "model.onnx", 20)
    rng = np.random.default_rng(0)
    picture = tmp_path / "picture.jpg"
    Image.fromarray(rng.integers(0, 256, (20, 33, 3), np.uint8)).save(picture)
    found = dict(predicted(tmp_path / "model.onnx", picture, top=3)[0].top)
    pixels = fit_to_square(decode(picture.read_bytes(), "picture"), 8, 3, "pad")
    with torch.inference_mode():
        expected = net(normalize(torch.from_numpy(pixels[None].copy()), input_spec)).softmax(1)[0]
    np.testing.assert_allclose([found[name] for name in "abc"], expected.numpy(), atol=1e-5)


def test_the_range_of_deep_samples_is_that_of_training(tmp_path: Path) -> None:
    from isoflop.data.arrays import InputSpec
    from isoflop.inference.onnx_export import export
    from isoflop.models.architecture import Architecture
    from isoflop.models.families import build
    from isoflop.models.model_files import Model

    shape = Architecture("mlp", 8, 1, 1, 1, 0.0, image_size=8, channels=1, num_classes=3)
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (8, 8))
    Image.fromarray((29_000 + 2 * levels).astype(np.uint16)).save(tmp_path / "thermal.png")
    Image.fromarray(levels.astype(np.uint8)).save(tmp_path / "levels.png")
    spec = InputSpec(["a", "b", "c"], [0.4], [0.2], "crop", [29_000.0, 29_510.0])
    export(Model(build(shape).eval(), shape, spec), "base", tmp_path / "model.onnx", 20)
    thermal, plain = (dict(predicted(tmp_path / "model.onnx", tmp_path / name, top=3)[0].top)
                      for name in ("thermal.png", "levels.png"))  # fmt: skip
    assert thermal == plain
