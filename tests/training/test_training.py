"""Every family learns the digits with every loss and optimizer, and a killed training ends with the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from isoflop.data.arrays import Split
from isoflop.data.loading import all_images
from isoflop.data.normalization import normalize
from isoflop.models.costs import count_training_flops
from isoflop.runtime.errors import UserError
from isoflop.training.fitting import Fitted, fit
from isoflop.training.hardware import Hardware
from isoflop.training.lightning_module import DivergedError, Plan, Training
from isoflop.training.losses import Teacher, distillation_loss
from isoflop.training.optimizers import learning_rate_factor, make_optimizer, orthogonalized
from tests.conftest import ROOT, run_command
from tests.networks import FAMILIES, digits_split, fresh_net, no_views, recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Split, Split]:
    folder = tmp_path_factory.mktemp("digits")
    return digits_split(folder / "train", 0, 1200), digits_split(folder / "val", 1200, 1500)


def train(
    data: tuple[Split, Split], net: torch.nn.Module, fit_options: dict[str, Any] | None = None, **changes: Any
) -> Fitted:
    train, val = data
    return fit(net, all_images(train, no_views(train)), val, recipe(**changes), width=16, seed=0, **(fit_options or {}))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns(data: tuple[Split, Split], family: str) -> None:
    fitted = train(data, fresh_net(family), epochs=8)
    # of 8 pixels, the strides of efficientnet_lite leave one
    assert fitted.val_accuracy > {"vit": 0.8, "efficientnet_lite": 0.7}.get(family, 0.9)
    assert fitted.images_seen == 8 * 1200 and fitted.steps == 8 * 19


def test_the_variables_of_a_cluster_do_not_share_a_training_on_one_device(
    data: tuple[Split, Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch job of Slurm with several tasks and without `srun` has them."""
    for name, value in {"JOB_ID": "7", "JOB_NAME": "fruit", "NTASKS": "4", "PROCID": "0", "NODELIST": "n1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert train(data, fresh_net(), epochs=1).steps == 19


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "mse", "optimizer": "momentum", "learning_rate": 0.3},
        {"optimizer": "sgd", "learning_rate": 0.3},
        {"optimizer": "adam"},
        {"optimizer": "muon", "learning_rate": 0.1, "schedule": "linear"},
        {"label_smoothing": 0.1, "schedule": "constant", "gradient_clip": 1.0},
        {"ema_decay": 0.9, "precision": "bf16"},
        {"infobatch": 0.5},
    ],
    ids=str,
)
def test_every_loss_and_optimizer_learns(data: tuple[Split, Split], changes: dict[str, Any]) -> None:
    assert train(data, fresh_net(), epochs=5, **changes).val_accuracy > 0.85


def test_the_same_seed_gives_the_same_weights(data: tuple[Split, Split]) -> None:
    nets = [fresh_net(), fresh_net()]
    for net in nets:
        train(data, net, epochs=1, flip="random", shift=1)
    for left, right in zip(nets[0].state_dict().values(), nets[1].state_dict().values(), strict=True):
        assert torch.equal(left, right)


def test_curves_are_written_an_epoch_a_row(data: tuple[Split, Split], tmp_path: Path) -> None:
    fitted = train(data, fresh_net(), {"curves": tmp_path / "curves"})
    rows = (tmp_path / "curves/plots/metrics/val/nll.tsv").read_text().splitlines()
    assert rows[0].split("\t") == ["step", "nll"] and len(rows) == 4
    assert float(rows[-1].split("\t")[1]) == pytest.approx(fitted.val_nll)


def test_patience_keeps_the_best_weights(data: tuple[Split, Split]) -> None:
    fitted = train(data, fresh_net(), {"patience": 2}, epochs=40, learning_rate=0.02, schedule="constant")
    assert fitted.epochs < 40
    assert fitted.val_nll == min(row["val/nll"] for row in fitted.history)


def test_the_moving_average_asks_for_no_gradients(data: tuple[Split, Split]) -> None:
    """DDP waits for the gradients of every parameter that asks for one, and stops where none comes."""
    plan = Plan(steps_an_epoch=19, images_an_epoch=1200, epochs=1, seconds=None, images=None, validate_every=1)
    training = Training(fresh_net(), 16, data[1], recipe(ema_decay=0.9), plan)
    asking = [name for name, weight in training.named_parameters() if weight.requires_grad]
    assert asking and all(name.startswith("net.") for name in asking)


def test_a_loss_that_is_not_finite_is_said(data: tuple[Split, Split]) -> None:
    with pytest.raises(
        DivergedError, match=r"recipe\.learning_rate: got 1e\+30, and the loss is not finite after epoch 1"
    ):
        train(data, fresh_net("mlp"), optimizer="sgd", learning_rate=1e30)


@pytest.mark.parametrize("patience", [None, 2])
def test_weights_that_one_step_ruined_are_not_kept(data: tuple[Split, Split], patience: int | None) -> None:
    """The loss of the only step is finite; that of the weights after it is not."""
    changes = {"optimizer": "sgd", "learning_rate": 1e30, "epochs": 1, "batch_size": 1200}
    with pytest.raises(DivergedError):
        train(data, fresh_net("mlp"), {"patience": patience}, **changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_accelerator_that_is_not_there_is_named(data: tuple[Split, Split]) -> None:
    with pytest.raises(UserError, match=r"train\.accelerator: got 'gpu'"):
        train(data, fresh_net(), {"on": Hardware("gpu")})


def test_smaller_images_first_are_learned_from_too(data: tuple[Split, Split]) -> None:
    sides: list[int] = []
    net = fresh_net("resnet")

    def note(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if torch.is_grad_enabled() and len(inputs[0]) > 2:  # the FLOPs are counted with 2 images
            sides.append(inputs[0].shape[-1])

    net.register_forward_pre_hook(note)
    fitted = train(data, net, epochs=8, progressive_resizing=[0.625, 1.0])
    assert sides == sorted(sides) and sides.count(5) == sides.count(8) == 4 * 19
    both = sum(count_training_flops(net, data[0], [scale]) for scale in (0.625, 1.0))
    assert fitted.flops == pytest.approx(4 * 1200 * both, rel=1e-5)
    assert fitted.val_accuracy > 0.85


@pytest.mark.parametrize("family", ["mlp", "vit"])
def test_a_network_for_images_of_one_size_takes_no_other(data: tuple[Split, Split], family: str) -> None:
    with pytest.raises(UserError, match=r"recipe\.progressive_resizing: got \[0\.5, 1\.0\], expected \[1\.0\]"):
        train(data, fresh_net(family), progressive_resizing=[0.5, 1.0])


def test_activations_that_are_computed_again_give_the_same_network(data: tuple[Split, Split]) -> None:
    nets = [fresh_net("vit"), fresh_net("vit")]
    for net, again in zip(nets, (False, True), strict=True):
        train(data, net, {"on": Hardware(activation_checkpointing=again)}, epochs=1)
    for left, right in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(left, right)
    with pytest.raises(UserError, match=r"train\.activation_checkpointing: got true"):
        train(data, fresh_net("cnn"), {"on": Hardware(activation_checkpointing=True)})


def test_validation_comes_as_often_as_asked_and_at_the_end(data: tuple[Split, Split]) -> None:
    fitted = train(data, fresh_net(), {"validate_every": 2}, epochs=5)
    assert ["val/nll" in row for row in fitted.history] == [False, True, False, True, True]
    assert fitted.val_nll == fitted.history[-1]["val/nll"]


def test_a_batch_that_does_not_fit_is_said_with_one_that_does(data: tuple[Split, Split]) -> None:
    def too_little(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if torch.is_grad_enabled() and len(inputs[0]) > 400:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")

    net = fresh_net()
    net.register_forward_pre_hook(too_little)
    expected = r"train\.accumulate_grad_batches: got 1, and 1200 images .* do not fit into memory, but 300 do; .* 4"
    with pytest.raises(UserError, match=expected):
        train(data, net, batch_size=1200)
    assert train(data, net, {"on": Hardware(accumulate_grad_batches=4)}, batch_size=1200).steps == 3


def test_a_budget_in_minutes_ends_the_schedule(data: tuple[Split, Split]) -> None:
    fitted = train(data, fresh_net(), epochs=1000, max_minutes=0.05)
    assert 1 < fitted.epochs < 1000 and fitted.val_accuracy > 0.8
    assert fitted.seconds < 6  # the limit is 3, plus a step, which may be slow while other tests run
    assert fitted.images_seen == pytest.approx(1200 * fitted.steps / 19, abs=1)


def test_a_teacher_pulls_the_student_to_its_outputs(data: tuple[Split, Split]) -> None:
    teacher = fresh_net(width=24)
    train(data, teacher, epochs=6)
    distilled, control = fresh_net(width=8, seed=1), fresh_net(width=8, seed=1)
    train(data, distilled, {"teacher": Teacher(teacher, 2.0, 0.9)})
    train(data, control)
    images = normalize(torch.from_numpy(np.array(data[1].images)), data[1].input_spec)
    with torch.no_grad():
        distances = [float(distillation_loss(net(images), teacher(images), 2.0).mean()) for net in (distilled, control)]
    assert distances[0] < distances[1]


def test_distillation_loss_is_zero_for_equal_outputs() -> None:
    logits = torch.randn(5, 10)
    assert distillation_loss(logits, logits, 3.0).tolist() == pytest.approx([0] * 5, abs=1e-6)


def test_muon_steps_are_orthogonal() -> None:
    torch.manual_seed(0)
    for shape in ((16, 40), (40, 16)):
        singular = torch.linalg.svdvals(orthogonalized(torch.randn(shape)))
        assert float(singular.min()) > 0.4 and float(singular.max()) < 1.3


def test_every_parameter_is_in_one_group() -> None:
    for name in ("sgd", "adamw", "muon"):
        for family in ("cnn", "vit"):
            net = fresh_net(family)
            groups = make_optimizer(net, recipe(optimizer=name), 16).param_groups
            held = [id(weight) for group in groups for weight in group["params"]]
            assert sorted(held) == sorted(id(weight) for weight in net.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_rates_scale_with_the_width_by_layer(family: str) -> None:
    """Adam by maximal update: the first layer and vectors keep the learning rate, the rest divide it by the width."""
    held: dict[tuple[int, str], float] = {}
    for width in (16, 64):
        net = fresh_net(family, width)
        names = {id(weight): name for name, weight in net.named_parameters()}
        for group in make_optimizer(net, recipe(optimizer="adamw", learning_rate=1.0), width).param_groups:
            held |= {(width, names[id(weight)]): group["lr"] for weight in group["params"]}
    slower = {name for width, name in held if width == 64 and held[64, name] == 0.25}
    assert all(held[16, name] == 1 for width, name in held if width == 16)
    assert "head.weight" in slower and not any("bias" in name or "norm" in name for name in slower)
    first = {"mlp": "hidden.0.weight", "vit": "patches.weight"}.get(family, "features.0.weight")
    matrices = {name for name, weight in net.named_parameters() if weight.ndim >= 2 and weight.requires_grad}
    depthwise = {name for name in matrices if net.get_parameter(name).shape[1] == 1}  # one channel at every width
    assert slower == matrices - depthwise - {first, "position.weight"}


def test_label_smoothing_with_mse_is_refused_by_its_key() -> None:
    with pytest.raises(ValidationError, match=r"label_smoothing\s+Value error, 0 with recipe\.loss mse"):
        recipe(loss="mse", label_smoothing=0.1)


def test_a_training_that_is_terminated_is_no_success(data: tuple[Split, Split]) -> None:
    """DVC takes status 0 for success."""

    class Terminates:
        def write(self, history: list[dict[str, float]]) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as in a stage
    try:
        with pytest.raises(SystemExit) as ended:
            train(data, fresh_net(), {"log": Terminates()}, epochs=3)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143


def test_schedules() -> None:
    linear = recipe(schedule="linear", warmup_fraction=0.2)
    shares = [0, 0.1, 0.2, 0.6, 1, 1.2]
    assert [learning_rate_factor(linear, share) for share in shares] == pytest.approx([0.1, 0.55, 1, 0.5, 0, 0])
    assert learning_rate_factor(recipe(schedule="cosine", warmup_fraction=0), 0.5) == pytest.approx(0.5)
    assert learning_rate_factor(recipe(schedule="constant", warmup_fraction=0), 0.99) == 1


TRAIN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.networks import digits_architecture, fresh_net, no_views, recipe
from isoflop.data.arrays import read_split
from isoflop.data.loading import all_images
from isoflop.models.model_files import Model, save_model
from isoflop.training.resume import resumable
from isoflop.training.fitting import fit
train, val = read_split(Path("train")), read_split(Path("val"))
images, net = all_images(train, no_views(train)), fresh_net()
with resumable(images, "test") as checkpoint:
    curves = Path(sys.argv[2] + "-curves")
    how = recipe(epochs=30, ema_decay=0.5, infobatch=0.5)
    fit(net, images, val, how, width=16, seed=0, checkpoint=checkpoint, curves=curves)
    save_model(Model(net, digits_architecture(), train.input_spec), Path(sys.argv[2]))
"""


def test_a_teacher_sees_whole_images_where_its_student_sees_smaller_ones(
    data: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train, val = data
    sides: dict[str, set[int]] = {"student": set(), "teacher": set()}
    nets = {name: fresh_net("resnet", width=8, seed=seed) for seed, name in enumerate(sides)}
    for name, net in nets.items():
        net.register_forward_pre_hook(lambda _, inputs, name=name: sides[name].add(inputs[0].shape[-1]))
    smaller_first = recipe(epochs=2, progressive_resizing=[0.5, 1.0])
    teacher = Teacher(nets["teacher"], temperature=2.0, alpha=0.5)
    fit(nets["student"], all_images(train, no_views(train)), val, smaller_first, width=8, seed=0, teacher=teacher)
    assert sides == {"student": {4, 8}, "teacher": {8}}


def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(data: tuple[Split, Split], tmp_path: Path) -> None:
    for name, split in zip(("train", "val"), data, strict=True):
        os.symlink(Path(str(split.images.filename)).parent, tmp_path / name)  # type: ignore[attr-defined]
    command = [sys.executable, "-c", TRAIN, str(ROOT)]
    subprocess.run([*command, "whole"], cwd=tmp_path, check=True, capture_output=True)

    killed = subprocess.Popen([*command, "killed"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while killed.poll() is None and not list(tmp_path.glob(".isoflop/resume/*/last.ckpt")):
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed").exists(), "the training ended before it was killed"

    again = subprocess.run([*command, "again"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "resuming the interrupted training" in again.stdout
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "again")]
    assert weights[0] == weights[1]
    for curve in (tmp_path / "whole-curves").rglob("*.tsv"):
        other = tmp_path / "again-curves" / curve.relative_to(tmp_path / "whole-curves")
        assert other.read_text() == curve.read_text()
    assert not list(tmp_path.glob(".isoflop/resume/*")), "the checkpoint of a finished training is not removed"
    json.loads((tmp_path / "again-curves" / "metrics.json").read_text())


def test_curves_in_a_git_repository_without_a_commit_are_a_clear_error(
    data: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        run_command(*command, cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"git: Empty git repo, expected at least one commit; fix: `git add -A && git commit"
    ):
        train(data, fresh_net(), {"curves": tmp_path / "curves"}, epochs=1)
