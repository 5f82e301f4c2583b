"""``isoflop predict``: what it prints and writes, its mistakes, and folders, pipes and interrupts."""

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

from isoflop.cli import main as cli
from isoflop.inference.prediction import Failure, Prediction, find_images, open_model, predict
from tests.conftest import run_command
from tests.exports import write_model
from tests.pictures import QUARTERS, write_image
from tests.terminals import on_terminal


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.onnx", QUARTERS)


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


def _opened_once_read(pipe: Path) -> int:
    """Open ``pipe`` for writing, which succeeds only when a reader has opened it."""
    for _ in range(600):
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"nobody read from {pipe}")
