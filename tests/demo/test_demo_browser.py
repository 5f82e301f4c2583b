"""The demo in headless Chromium: its predictions match ONNX Runtime, its pixels match Pillow.

Skipped without Chromium, or if neither the npm registry nor ISOFLOP_MIRROR provides onnxruntime-web.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from filelock import FileLock
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from isoflop.data.arrays import Images, read_split
from isoflop.data.images import decode, fit_to_square
from isoflop.demo.folder import choose_samples, write_demo
from isoflop.demo.onnxruntime_web import vendor
from isoflop.demo.server import address, open_server
from isoflop.evaluation.occlusion import occlude
from isoflop.inference.onnx_files import open_classifier
from isoflop.runtime.errors import UserError
from isoflop.training.cpu import processor
from tests.conftest import run_command

IMAGES = 240  # of the test split

# Measured on x86 with VNNI: FP32 and INT8 logits differ by less than 4e-7 of the largest logit. Without VNNI, ONNX
# Runtime (not the browser) saturates sums of two products in INT8 layers; `quantize.portable` avoids that.
TOLERANCE = 1e-5
HAS_WIDE_SUMS = any("vnni" in flag or flag == "asimddp" for flag in processor()[1])

CLASSIFY_SAMPLES = """async () => {
  const { Classifier } = await import("./classifier.js");
  const { decode, fitToSquare } = await import("./pixels.js");
  const facts = await (await fetch("demo.json")).json();
  const model = new Uint8Array(await (await fetch("model.onnx")).arrayBuffer());
  const classifier = await Classifier.open(facts, model);
  const images = await Promise.all(facts.samples.map(async ({ file }) => {
    const image = await decode(await (await fetch(file)).blob(), facts.channels);
    return fitToSquare(image, facts.image_size, facts.resize);
  }));
  const [together, alone] = [await classifier.runAll(images), await classifier.run(images[0])];
  const numbers = ({ logits, probabilities }) => [Array.from(logits), Array.from(probabilities)];
  return { pixels: images.map(({ data }) => Array.from(data)), answers: together.map(numbers), alone: numbers(alone) };
}"""

FIT = """async ([content, type, size, channels, resize]) => {
  const { decode, fitToSquare } = await import("./pixels.js");
  const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
  return Array.from(fitToSquare(await decode(new Blob([bytes], { type }), channels), size, resize).data);
}"""

# A "model" whose probability is the brightness of the pixel in row 6, column 1.
EXPLAIN = """async () => {
  const { occlusionSaliency } = await import("./saliency.js");
  const data = new Uint8Array(64);
  data[6 * 8 + 1] = 255;
  const runAll = async (images) => images.map((image) => ({ probabilities: [0, image.data[6 * 8 + 1] / 255] }));
  const found = await occlusionSaliency({ runAll }, { width: 8, height: 8, channels: 1, data }, 1, 1);
  return { ...found, falls: Array.from(found.falls) };
}"""

EXPLAIN_WITH = """async ([pixels, content]) => {
  const { Classifier, best } = await import("./classifier.js");
  const { occlusionSaliency } = await import("./saliency.js");
  const facts = await (await fetch("demo.json")).json();
  const model = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
  const classifier = await Classifier.open(facts, model);
  const image = { width: 8, height: 8, channels: 1, data: Uint8Array.from(pixels) };
  const { logits, probabilities } = await classifier.run(image);
  const target = best(logits, 1)[0];
  const found = await occlusionSaliency(classifier, image, target, probabilities[target]);
  return { ...found, falls: Array.from(found.falls) };
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if program is None:
        pytest.skip("no Chromium on the PATH (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox refuses root
        with playwright.chromium.launch(executable_path=program, args=arguments) as running:
            yield running


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The real runtime, downloaded once for all test processes."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == "master" else shared.parent
    with FileLock(str(shared / "runtime.lock")):
        if not (shared / "runtime").exists():
            try:
                with contextlib.chdir(shared):  # the download goes to the current folder
                    vendor(shared / "runtime.partial")
            except UserError as error:
                if "could not be downloaded" not in str(error):
                    raise
                pytest.skip(f"neither the npm registry nor ISOFLOP_MIRROR provides onnxruntime-web: {error}")
            (shared / "runtime.partial").rename(shared / "runtime")
    return shared / "runtime"


@dataclass(frozen=True)
class Visit:
    """An open page with its problems: console messages, errors, requests to other hosts."""

    page: Page
    url: str
    wrong: list[str]

    def answer(self) -> dict[str, str]:
        """The texts of the page once the occlusion map is there."""
        self.page.locator("#saliency-words:not(:empty)").wait_for()
        return {
            name: self.page.locator(f"#{name}").inner_text() for name in ("source", "verdict", "time", "saliency-words")
        }


@contextmanager
def visiting(browser: Browser, folder: Path, **context: Any) -> Iterator[Visit]:
    with open_server(folder, 0) as server, browser.new_context(**context) as opened:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        visit = Visit(opened.new_page(), address(server), [])
        visit.page.on("console", lambda message: visit.wrong.append(message.text))
        visit.page.on("pageerror", lambda error: visit.wrong.append(str(error)))
        visit.page.on("request", lambda request: note_elsewhere(request.url, visit))
        visit.page.goto(visit.url)
        visit.page.locator("html[data-ready]").wait_for()
        yield visit
        server.shutdown()
    assert visit.wrong == []


def note_elsewhere(url: str, visit: Visit) -> None:
    if not url.startswith((visit.url, "data:", "blob:")):
        visit.wrong.append(f"asked {url}")


@pytest.fixture(scope="module")
def digits_demo(runtime: Path, smoke: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    write_demo(smoke / "ship/model.onnx", read_split(smoke / "data/prepared/test"), runtime, 24, folder)
    return folder


@pytest.mark.parametrize("variant", ["base", "base-int8"])
def test_predictions_match_onnx_runtime(
    browser: Browser, runtime: Path, smoke: Path, tmp_path: Path, variant: str
) -> None:
    test = read_split(smoke / "data/prepared/test")
    write_demo(smoke / f"onnx/{variant}.onnx", test, runtime, IMAGES, tmp_path / "demo")
    with visiting(browser, tmp_path / "demo") as visit:
        found = visit.page.evaluate(CLASSIFY_SAMPLES)
        shown_score = visit.page.locator("#score").inner_text()
    indices = choose_samples(test.labels, test.num_classes, IMAGES)
    images_NHWC = np.array(test.images[indices])
    assert len(indices) == IMAGES
    assert np.array_equal(np.array(found["pixels"], np.uint8).reshape(images_NHWC.shape), images_NHWC), "other pixels"
    logits_NK, probabilities_NK = np.array(found["answers"], np.float32).transpose(1, 0, 2)
    assert np.allclose(probabilities_NK.sum(1), 1, atol=1e-5)
    expected_NK = open_classifier(smoke / f"onnx/{variant}.onnx").logits(images_NHWC)
    check_answers(logits_NK, expected_NK, HAS_WIDE_SUMS or variant == "base")
    assert np.allclose(found["alone"][0], logits_NK[0], atol=1e-4), "a batch of one differs"
    right = int((logits_NK.argmax(1) == test.labels[indices]).sum())
    assert f"{right} of these {IMAGES} are classified correctly" in shown_score


def check_answers(logits_NK: npt.NDArray[Any], expected_NK: npt.NDArray[Any], exact: bool) -> None:
    """The same class for every image, except where the two largest logits are closer than the arithmetic error."""
    scale = np.abs(expected_NK).max()
    if exact:
        assert np.abs(logits_NK - expected_NK).max() <= TOLERANCE * scale
    second_N, first_N = np.sort(expected_NK, 1)[:, -2:].T
    tied_N = first_N - second_N <= 2 * TOLERANCE * scale
    agree_N = logits_NK.argmax(1) == expected_NK.argmax(1)
    assert tied_N.mean() < 0.02, "so many ties test nothing"
    assert agree_N[~tied_N].all() if exact else agree_N.mean() > 0.95


def png(pixels: Images) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_resized_pixels_match_pillow(browser: Browser, digits_demo: Path, resize: str) -> None:
    generator = np.random.default_rng(0)
    with visiting(browser, digits_demo) as visit:
        for height, width, size, channels in [
            (8, 8, 8, 1), (32, 32, 32, 3), (301, 200, 8, 1), (33, 77, 32, 3), (5, 3, 16, 3), (16, 31, 16, 1),
            (900, 1201, 48, 3),
        ]:  # fmt: skip
            content = png(generator.integers(0, 256, (height, width, 3), np.uint8))
            expected = fit_to_square(decode(content, "x"), size, channels, resize)
            arguments = [base64.b64encode(content).decode(), "image/png", size, channels, resize]
            found = np.array(visit.page.evaluate(FIT, arguments), np.uint8).reshape(expected.shape)
            assert np.array_equal(found, expected), f"{height}x{width} to {size}x{size}x{channels}"


def test_exif_orientation_and_transparency(browser: Browser, digits_demo: Path) -> None:
    ramp = np.linspace(0, 255, 60 * 40).reshape(60, 40).astype(np.uint8)
    photo, clear = io.BytesIO(), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(ramp).convert("RGB").save(photo, "JPEG", quality=95, exif=exif)
    Image.fromarray(np.dstack([np.zeros((8, 8, 3), np.uint8), np.where(np.eye(8), 255, 0)]).astype(np.uint8)).save(
        clear, "PNG"
    )
    with visiting(browser, digits_demo) as visit:
        for content, kind in ((photo.getvalue(), "jpeg"), (clear.getvalue(), "png")):
            expected = fit_to_square(decode(content, "x"), 8, 3, "stretch").astype(int)
            arguments = [base64.b64encode(content).decode(), f"image/{kind}", 8, 3, "stretch"]
            found = np.array(visit.page.evaluate(FIT, arguments), int).reshape(expected.shape)
            assert np.abs(found - expected).max() <= 2, kind


def test_choosing_a_file_a_sample_and_drawing(browser: Browser, digits_demo: Path, smoke: Path, tmp_path: Path) -> None:
    test = read_split(smoke / "data/prepared/test")
    file = tmp_path / "photo.png"
    file.write_bytes(png(np.kron(np.repeat(test.images[7], 3, 2), np.ones((9, 9, 1), np.uint8))))
    printed = run_command(
        "isoflop", "predict", str(smoke / "ship/model.onnx"), str(file), "--json", "--top", "5", cwd=tmp_path
    )
    expected = json.loads(printed.stdout)["predictions"][0]["top"]
    with visiting(browser, digits_demo) as visit:
        page = visit.page
        assert visit.answer()["source"].startswith("Test image ")
        page.set_input_files("#file", file)
        page.get_by_text("photo.png: 72 × 72 pixels").wait_for()
        answer = visit.answer()
        assert (
            answer["verdict"].replace("\xa0", " ")
            == f"{expected[0]['class']}, {100 * expected[0]['probability']:.1f} %"
        )
        assert page.locator("#top .name").all_inner_texts() == [row["class"] for row in expected]
        assert " ms latency in this browser: mean of " in answer["time"].replace("\xa0", " ")
        assert answer["saliency-words"].startswith(
            ("Hiding the outlined ", "No square a fifth of the image wide lowers")
        )

        page.locator("#samples button").nth(3).focus()  # by keyboard
        page.keyboard.press("Enter")
        page.locator("#samples button[aria-pressed=true]").wait_for()
        assert (
            page.locator("#samples button[aria-pressed=true]").get_attribute("aria-label") == visit.answer()["source"]
        )

        box = page.locator("#pad").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 230, steps=5)
        page.mouse.up()
        page.get_by_text("your drawing").wait_for()
        assert "%" in visit.answer()["verdict"]

        page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image"})
        page.get_by_text("notes.txt: not an image that this browser can decode").wait_for()


def test_the_occlusion_map_finds_the_decisive_pixels(browser: Browser, digits_demo: Path) -> None:
    with visiting(browser, digits_demo) as visit:
        found = visit.page.evaluate(EXPLAIN)
    falls = np.array(found["falls"]).reshape(8, 8)
    assert found["runs"] == 64
    square = found["largest"]
    assert square["top"] <= 6 < square["bottom"] and square["left"] <= 1 < square["right"]
    assert falls[6, 1] == falls.max() == pytest.approx(found["largest"]["fall"])
    assert (falls[5:8, 0:3] > 0).all() and falls.sum() == pytest.approx(falls[5:8, 0:3].sum())
    assert found["largest"]["fall"] == pytest.approx(1 - round(255 / 64) / 255)


def test_the_map_is_that_of_the_report(browser: Browser, digits_demo: Path, smoke: Path) -> None:
    test = read_split(smoke / "data/prepared/test")
    classifier = open_classifier(smoke / "onnx/base.onnx")
    with visiting(browser, digits_demo) as visit:
        for image in np.array(test.images[:3]):
            expected = occlude(classifier.probabilities, image)
            content = base64.b64encode((smoke / "onnx/base.onnx").read_bytes()).decode()
            found = visit.page.evaluate(EXPLAIN_WITH, [image.ravel().tolist(), content])
            assert np.allclose(np.array(found["falls"]).reshape(8, 8), expected.drops, atol=1e-4)
            assert found["largest"]["fall"] == pytest.approx(expected.largest, abs=1e-4)


def test_the_page_names_its_file_and_offers_a_pad_for_drawings_alone(
    browser: Browser, runtime: Path, smoke: Path, tmp_path: Path
) -> None:
    test = read_split(smoke / "data/prepared/test")
    noise = np.random.default_rng(0).integers(60, 200, test.images.shape).astype(np.uint8)
    write_demo(smoke / "onnx/base-int8.onnx", replace(test, images=noise), runtime, 4, tmp_path / "photos")
    with visiting(browser, tmp_path / "photos") as visit:
        assert "model.onnx (INT8, base, " in visit.page.locator("#facts").inner_text()
        assert not visit.page.locator("#pad").is_visible()
    write_demo(smoke / "onnx/base.onnx", test, runtime, 4, tmp_path / "drawings")
    with visiting(browser, tmp_path / "drawings") as visit:
        assert "model.onnx (FP32, base, " in visit.page.locator("#facts").inner_text()
        assert visit.page.locator("#pad").is_visible()


def test_a_phone_does_not_scroll_sideways_and_controls_have_names(browser: Browser, digits_demo: Path) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
    with visiting(browser, digits_demo, **phone) as visit:
        visit.answer()
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
        controls = visit.page.locator("button, input").all()
        names = [
            control.evaluate("node => node.ariaLabel || node.labels?.[0]?.innerText || node.innerText")
            for control in controls
        ]
        assert len(names) == 24 + 5 and all(names)
        assert all(picture.get_attribute("aria-label") for picture in visit.page.locator("canvas[role=img]").all())


def test_missing_browser_features_are_reported(browser: Browser, digits_demo: Path) -> None:
    page = browser.new_page()
    page.goto((digits_demo / "index.html").as_uri())
    page.get_by_text("opened from disk").wait_for()
    page.close()
    with open_server(digits_demo, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.add_init_script("WebAssembly.validate = () => false")
        page.goto(address(server))
        page.get_by_text("This browser does not support WebAssembly SIMD, WebAssembly threads, which").wait_for()
        assert not page.locator("#main").is_visible()
        page.close()
        server.shutdown()
