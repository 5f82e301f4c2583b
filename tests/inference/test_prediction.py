"""``isoflop predict`` with real ONNX Runtime sessions, on a graph so small that its predictions are known."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from isoflop.cli import main as cli
from isoflop.inference.prediction import Failure, Prediction, find_images, open_model, predict
from isoflop.inference.separate_session import ModelError, SeparateSession
from tests.conftest import run_command
from tests.exports import write_model
from tests.terminals import on_terminal

QUARTERS = ["top left", "top right", "bottom left", "bottom right"]


def predicted(model: Path, *images: Path, top: int = 1) -> list[Prediction]:
    """Predictions for images that can all be read."""
    found = list(predict(open_model(model), images, top))
    assert not [one for one in found if isinstance(one, Failure)]
    return [one for one in found if isinstance(one, Prediction)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.onnx", QUARTERS)


def write_image(file: Path, brightest: int, mode: str = "L", side: int = 8) -> Path:
    """Write a black image with one white quarter."""
    pixels = np.zeros((2, 2), np.uint8)
    pixels.ravel()[brightest] = 255
    grey = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
    if mode == "I;16":
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(file)
    else:
        grey.convert("RGB").convert(mode).save(file)
    return file


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


def test_json_has_its_documented_form(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = write_image(tmp_path / "0.png", 0)
    assert cli.main(["predict", str(model), str(image), "--json", "--top", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    (answer,) = found["predictions"]
    assert found["failed"] == []
    assert answer["image"] == str(image)
    assert [entry["class"] for entry in answer["top"]] == QUARTERS[:2]
    assert answer["top"][0]["probability"] == pytest.approx(1, abs=0.01)


def test_hostile_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    names = ["[red]stop[/red]", "\x1b[2Jgone", "tab\tnew\nline", "ünïcode"]
    model = write_model(tmp_path / "model.onnx", names)
    images = [str(write_image(tmp_path / f"{n}.png", n)) for n in range(4)]
    plain = run_command("isoflop", "predict", str(model), *images, cwd=tmp_path).stdout
    rows = [line.split("\t") for line in plain.splitlines()]
    shown = ["[red]stop[/red]", r"\x1b[2Jgone", r"tab\tnew\nline", "ünïcode"]
    assert [row[0] for row in rows] == images and [row[1] for row in rows] == shown
    assert all(0.9 < float(row[2]) <= 1 for row in rows)
    terminal = on_a_terminal(["predict", str(model), *images], tmp_path)
    assert all(name in terminal for name in shown) and "\x1b[2J" not in terminal and "probability" in terminal


def on_a_terminal(arguments: list[str], folder: Path) -> str:
    """Run ``isoflop`` in a terminal; return its output."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "isoflop.cli.main", *arguments]
    environment = {**os.environ, "COLUMNS": "200", "TERM": "xterm"}
    process = subprocess.Popen(command, cwd=folder, stdout=theirs, env=environment)
    os.close(theirs)
    chunks = []
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the process has closed its end
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(ours)
    assert process.wait(60) == 0
    return b"".join(chunks).decode()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model.onnx", "folder"], "error: folder: got no images in this folder, expected at least one"),
        (["none.onnx", "good.png"], "error: none.onnx: not found"),
        (["folder", "good.png"], "error: folder: "),
        (["text.png", "good.png"], "error: text.png: not a readable ONNX file"),
        (["empty", "good.png"], "error: empty: not a readable ONNX file"),
        (["foreign.onnx", "good.png"], "error: foreign.onnx: got no metadata"),
        (["classes.onnx", "good.png"], "error: classes.onnx: metadata classes: got 'cat, dog' for logits of shape"),
        (["fewer.onnx", "good.png"], """error: fewer.onnx: metadata classes: got '["cat"]' for logits of shape"""),
        (["external.onnx", "good.png"], "error: external.onnx: got weights in another file ('weights')"),
        (["hidden.onnx", "good.png"], "error: hidden.onnx: got weights in another file ('inside')"),
        (["external.json", "good.png"], "error: external.json: got weights in another file ('weights')"),
        (["encoding.onnx", "good.png"], "error: encoding.onnx: not a readable ONNX file ('utf-8' codec can't decode"),
        (["axis.onnx", "good.png"], "error: axis.onnx: not a readable ONNX file ('utf-8' codec can't decode"),
        (["unrunnable.onnx", "good.png"], "error: unrunnable.onnx: ONNX Runtime opened the model but cannot run it ("),
        (["custom.onnx", "good.png"], "error: custom.onnx: not a readable ONNX file ("),
        (["resize.onnx", "good.png"], "error: resize.onnx: metadata resize: got 'zoom', expected one of crop, pad"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_predicted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    model: Path,
    arguments: list[str],
    said: str,
) -> None:
    content = write_image(tmp_path / "good.png", 0, side=64).read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("no image, no model")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    for name, key, value in (
        ("classes", "classes", "cat, dog"),
        ("fewer", "classes", '["cat"]'),
        ("resize", "resize", "zoom"),
    ):
        altered = onnx.load(model)
        onnx.helper.set_model_props(altered, {item.key: item.value for item in altered.metadata_props} | {key: value})
        onnx.save(altered, tmp_path / f"{name}.onnx")
    external = tmp_path / "external.onnx"
    apart = onnx.load(model)
    for tensor in apart.graph.initializer:  # only raw data can be external
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    onnx.save(apart, external, save_as_external_data=True, location="secret", size_threshold=0)
    (tmp_path / "external.json").write_bytes(external.read_bytes())  # with this suffix, onnx guesses another format
    (tmp_path / "encoding.onnx").write_bytes(model.read_bytes().replace(b"producer", b"produce\xff"))
    (tmp_path / "axis.onnx").write_bytes(model.read_bytes().replace(b"batch", b"batc\xff"))
    hidden = onnx.load(model)
    inside = TensorProto(name="inside", dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    hidden.graph.node.append(helper.make_node("Constant", [], ["unused"], value=inside))
    (tmp_path / "hidden.onnx").write_bytes(hidden.SerializeToString())
    unrunnable = onnx.load(model)
    unrunnable.graph.node[2].output[0] = "raw"
    unrunnable.graph.node.insert(3, helper.make_node("Gather", ["raw", "places"], ["logits"], axis=1))
    unrunnable.graph.initializer.append(helper.make_tensor("places", TensorProto.INT64, [4], [0, 1, 2, 99]))
    onnx.save(unrunnable, tmp_path / "unrunnable.onnx")
    custom = onnx.load(model)
    custom.graph.node[-1].domain = "of.somebody"
    custom.opset_import.append(helper.make_opsetid("of.somebody", 1))
    (tmp_path / "custom.onnx").write_bytes(custom.SerializeToString())
    foreign = onnx.load(model)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["predict", *arguments]) == 1
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(said) and printed.err.count("\n") == 1


def test_a_bad_file_does_not_keep_the_others_from_being_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], model: Path
) -> None:
    content = write_image(tmp_path / "good.png", 0, side=64).read_bytes()
    write_image(tmp_path / "last.png", 3)
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    command = [
        "predict",
        "model.onnx",
        "cut.png",
        "good.png",
        "text.png",
        "none.png",
        "empty",
        "last.png",
        "\x1b[2J.png",
    ]
    assert cli.main(command) == 1
    printed = capfd.readouterr()
    assert [line.split("\t")[:2] for line in printed.out.splitlines()] == [
        ["good.png", "top left"], ["last.png", "bottom right"],
    ]  # fmt: skip
    first, *others = printed.err.splitlines()
    assert first.startswith("error: cut.png: not a readable image (")
    assert others[0].startswith("error: text.png: not a readable image (unknown format), expected one of ")
    assert others[1:] == [
        "error: none.png: not found, expected an image file",
        "error: empty: got no images in this folder, expected at least one",
        r"error: \x1b[2J.png: not found, expected an image file",
    ]
    assert cli.main([*command, "--json"]) == 1
    printed = capfd.readouterr()
    found = json.loads(printed.out)
    assert [one["image"] for one in found["predictions"]] == ["good.png", "last.png"]
    assert [one["image"] for one in found["failed"]] == ["cut.png", "text.png", "none.png", "empty", "\x1b[2J.png"]
    assert found["failed"][2]["error"] == "not found, expected an image file"
    assert printed.err.count("\n") == 5


def test_a_folder_stands_for_the_images_in_it(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "b" / "deep").mkdir(parents=True)
    for name in ("z.png", "a.png", "b/deep/1.png", "b/no_suffix.png", ".hidden.png", "Thumbs.db"):
        write_image(folder / name.replace("Thumbs.db", "thumb.png"), 1).rename(folder / name)
    (folder / "b" / "no_suffix.png").rename(folder / "b" / "no_suffix")
    (folder / "notes.txt").write_text("no image")
    (folder / "c.png").symlink_to(write_image(tmp_path / "outside.png", 2))
    (folder / "gone.png").symlink_to(tmp_path / "nowhere")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    alone = write_image(tmp_path / "alone.png", 0)
    found = find_images([alone, folder, alone])
    names = ["a.png", "b/deep/1.png", "b/no_suffix", "c.png", "gone.png", "z.png"]
    assert found == [alone, *(folder / name for name in names), alone]
    outcomes = list(predict(open_model(model), found))
    assert [one.top[0][0] if isinstance(one, Prediction) else one.error for one in outcomes] == [
        "top left", "top right", "top right", "top right", "bottom left", "not found, expected an image file",
        "top right", "top left",
    ]  # fmt: skip


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_a_failure(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "closed").mkdir(parents=True)
    write_image(tmp_path / "image.png", 1).chmod(0)
    (folder / "closed").chmod(0)
    write_image(folder / "good.png", 1)
    image, listing, good = predict(open_model(model), find_images([tmp_path / "image.png", folder]))
    (folder / "closed").chmod(0o700)
    assert isinstance(image, Failure) and image.error.startswith("Permission denied; ")
    assert listing == Failure(folder / "closed", "could not be listed (Permission denied)")
    assert isinstance(good, Prediction)


def test_predictions_are_printed_as_they_come_and_no_more_than_a_batch_is_read_ahead(
    tmp_path: Path, model: Path
) -> None:
    image = write_image(tmp_path / "good.png", 0)
    waiting = iter([image] * 1000)
    next(predict(open_model(model), waiting))
    assert len(list(waiting)) >= 1000 - 64
    os.mkfifo(tmp_path / "slow.png")
    command = [sys.executable, "-m", "isoflop.cli.main", "predict", str(model), *["good.png"] * 64, "slow.png"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(64)]  # while the next file is not readable yet
    assert {line.split("\t")[1] for line in lines} == {"top left"} and process.poll() is None
    os.close(_opened_once_read(tmp_path / "slow.png"))
    assert process.communicate(timeout=60)[0] == "" and process.returncode == 1


def test_a_bar_on_the_terminal_stays_out_of_what_is_printed(tmp_path: Path, model: Path) -> None:
    write_image(tmp_path / "good.png", 0)
    (tmp_path / "bad.png").touch()
    printed = tmp_path / "printed.tsv"
    code = (
        "import sys\nfrom isoflop.cli import main as cli\n"
        f"sys.stdout = open({str(printed)!r}, 'w')\n"
        f"assert cli.main(['predict', {str(model)!r}] + [{str(tmp_path / 'good.png')!r}] * 100 "
        f"+ [{str(tmp_path / 'bad.png')!r}]) == 1"
    )
    seen = on_terminal(code)
    assert "predicting" in seen and "of 101 images" in seen and "bad.png: not a readable image" in seen
    rows = [line.split("\t") for line in printed.read_text().splitlines()]
    assert len(rows) == 100 and all(row[:2] == [str(tmp_path / "good.png"), "top left"] for row in rows)


def test_what_is_run_is_what_was_looked_at(tmp_path: Path, model: Path) -> None:
    """ONNX Runtime reads files that start like this in its own format, which onnx cannot check."""
    named = b"\x12\x08" + b"__ORTM__"  # a producer_name; a later one overrides it
    (tmp_path / "two.onnx").write_bytes(named + model.read_bytes())
    assert (tmp_path / "two.onnx").read_bytes()[4:8] == b"ORTM"
    image = write_image(tmp_path / "good.png", 2)
    assert predicted(tmp_path / "two.onnx", image)[0].top[0][0] == "bottom left"


def test_control_c_ends_a_prediction_without_a_traceback(tmp_path: Path, model: Path) -> None:
    os.mkfifo(tmp_path / "slow.png")  # reading it waits for a writer that never comes
    process = subprocess.Popen(
        [sys.executable, "-m", "isoflop.cli.main", "predict", str(model), "slow.png"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # background jobs of a shell ignore interrupts, and a test run there would pass that on to its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    writer = _opened_once_read(tmp_path / "slow.png")
    time.sleep(1)  # until it is inside the read; Python defers an interrupt that arrives just before
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    os.close(writer)
    assert (process.returncode, said) == (130, "")


def _opened_once_read(pipe: Path) -> int:
    """Open ``pipe`` for writing, which succeeds only when a reader has opened it."""
    for _ in range(600):
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"nobody read from {pipe}")


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


def test_csv_has_a_header_and_embeddings_have_a_row_per_classified_image(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [write_image(tmp_path / f"{n}, {n}.png", n) for n in range(3)]
    (tmp_path / "broken.png").write_text("none")
    monkeypatch.chdir(tmp_path)
    line = ["predict", "model.onnx", images[0].name, "broken.png", *(image.name for image in images[1:])]
    assert cli.main([*line, "--csv", "--top", "2", "--embeddings", "features.npy"]) == 1
    printed = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    assert [(row["image"], row["class"]) for row in rows if row["rank"] == "1"] == [
        (image.name, QUARTERS[n]) for n, image in enumerate(images)
    ]
    assert len(rows) == 6 and all(0 <= float(row["probability"]) <= 1 for row in rows)
    features_ND = np.load(tmp_path / "features.npy")
    assert features_ND.shape[0] == 3 and features_ND.dtype == np.float32
    assert len({row.tobytes() for row in features_ND}) == 3
    assert cli.main(["predict", "model.onnx", "broken.png", "--embeddings", "none.npy"]) == 1
    assert "none.npy: not written" in capsys.readouterr().err and not (tmp_path / "none.npy").exists()
    assert cli.main([*line, "--csv", "--json"]) == 1


def hostile(file: Path, kind: str) -> Path:
    """Models with the metadata and the ends of an export, and a graph that misbehaves."""
    side = 1_000_000 if kind == "wide" else 8
    named = {"escape": "im\x1b]0;PWN\x07"}.get(kind, "images")
    scores = {"nan": np.full((64, 2), np.nan, np.float32)}.get(kind, np.ones((64, 2), np.float32))
    node, entry = helper.make_node, helper.make_tensor_value_info
    head = [node("Cast", [named], ["f"], to=TensorProto.FLOAT), node("Flatten", ["f"], ["g"])]
    weights = {"w": scores, "none": np.array([0]), "most": np.array(2**62), "true": np.array(True)}
    body = helper.make_graph(
        [node("Identity", ["go"], ["go_on"]), node("Identity", ["v"], ["u"])],
        "body",
        [entry("i", TensorProto.INT64, []), entry("go", TensorProto.BOOL, []), entry("v", TensorProto.FLOAT, None)],
        [entry("go_on", TensorProto.BOOL, []), entry("u", TensorProto.FLOAT, None)],
    )
    middle = {
        "rows": [node("MatMul", ["g", "w"], ["l"]), node("Slice", ["l", "none", "none"], ["logits"])],
        "loop": [node("Loop", ["most", "true", "g"], ["k"], body=body), node("MatMul", ["k", "w"], ["logits"])],
        "wide": [node("ReduceMax", ["g"], ["m"]), node("Concat", ["m", "m"], ["logits"], axis=1)],
    }.get(kind, [node("MatMul", ["g", "w"], ["logits"])])
    nodes = [*head, *middle, node("Softmax", ["logits"], ["probabilities"])]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes, "hostile", [entry(named, TensorProto.UINT8, ["batch", side, side, 1])],
        [entry(name, TensorProto.FLOAT, ["batch", 2]) for name in ("logits", "probabilities")],
        [numpy_helper.from_array(value, name) for name, value in weights.items() if name in used],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(made, {"classes": '["a", "b"]', "resize": "crop", "variant": "base", "producer": "isoflop"})
    file.write_bytes(made.SerializeToString())
    return file


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("escape", r"got inputs im\x1b]0;PWN\x07 and outputs"),
        ("rows", "cannot run it (got an output of shape [0, 2] for 1 images)"),
        ("nan", "the model's probabilities are not finite numbers"),
        ("wide", "expected [batch or 1, size, size, 1 or 3] of at most 4096 pixels"),
    ],
)
def test_a_hostile_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, said: str) -> None:
    image = write_image(tmp_path / "0.png", 0)
    assert cli.main(["predict", str(hostile(tmp_path / "m.onnx", kind)), str(image), "--json"]) == 1
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.count("\n") == 1 and "\x1b" not in printed.err
    assert "NaN" not in printed.out


def test_a_model_without_end_is_ended(tmp_path: Path) -> None:
    """By Ctrl-C, and by the limit of time; the process that ran it is gone."""
    model, image = hostile(tmp_path / "loop.onnx", "loop"), write_image(tmp_path / "0.png", 0)
    session = SeparateSession(model.read_bytes(), threads=1, limit_s=60)
    session._limit_s = 2
    with pytest.raises(ModelError, match="it did not finish within 2 s"):
        session.run(["logits"], {"images": np.zeros((1, 8, 8, 1), np.uint8)})
    process = subprocess.Popen(
        [sys.executable, "-m", "isoflop.cli.main", "predict", str(model), str(image)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for _ in range(600):
        if not children.exists() or children.read_text().strip():
            break
        time.sleep(0.1)
    child = children.read_text().split() if children.exists() else []
    time.sleep(3)  # until the model runs
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "")
    assert not any(Path(f"/proc/{pid}").exists() for pid in child)
