"""``isoflop predict`` with models that a stranger made: one line each, and none of them runs without end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from isoflop.cli import main as cli
from isoflop.inference.separate_session import ModelError, SeparateSession
from tests.pictures import write_image


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
