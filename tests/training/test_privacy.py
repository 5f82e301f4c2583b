"""Differentially private training: the epsilon spent, the effect of one image on a step, and what is refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from isoflop.data.arrays import Split
from isoflop.data.loading import all_images
from isoflop.data.normalization import normalize
from isoflop.runtime.errors import UserError
from isoflop.training.batches import TrainingBatches, steps_an_epoch
from isoflop.training.fitting import Fitted, fit
from isoflop.training.hardware import Hardware
from isoflop.training.privacy import (
    Mechanism,
    check_private,
    mechanism,
    per_image_gradients,
    private_optimizer,
)
from isoflop.training.recipe import Privacy
from tests.conftest import copy_project, run_command
from tests.networks import digits_split, fresh_net, no_views, recipe

DELTA = 1e-4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Split, Split]:
    folder = tmp_path_factory.mktemp("digits")
    return digits_split(folder / "train", 0, 1200), digits_split(folder / "val", 1200, 1500)


def private(epsilon: float | None, epochs: int = 8, batch_size: int = 64) -> Mechanism | None:
    section = Privacy(epsilon=epsilon, delta=DELTA, clip_norm=1.0)
    return mechanism(section, 1200, steps_an_epoch(1200, recipe(batch_size=batch_size)), epochs)


def train(data: tuple[Split, Split], family: str, how: Mechanism | None, **changes: Any) -> tuple[Fitted, Any]:
    train, val = data
    net = fresh_net(family)
    fitted = fit(net, all_images(train, no_views(train)), val, recipe(**changes), width=16, seed=0, private=how)
    return fitted, net


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_what_is_spent_is_what_opacus_counts(accountant: str) -> None:
    """PRV gives the tighter bound; that of RDP, another method, is slightly larger."""
    from opacus.accountants import create_accountant

    how = private(3.0)
    assert how is not None
    counted = create_accountant(accountant)
    for _ in range(19 * 8):
        counted.step(noise_multiplier=how.noise_multiplier, sample_rate=how.sample_rate)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order")
        epsilon = counted.get_epsilon(delta=DELTA)
    assert 2.9 < how.epsilon(19 * 8) <= 3.0
    assert how.epsilon(19 * 8) == pytest.approx(epsilon, rel=1e-6) if accountant == "prv" else 3.0 < epsilon < 3.6
    assert how.epsilon(19 * 4) < 0.85 * how.epsilon(19 * 8), "half the steps spend less"


@pytest.mark.parametrize(("family", "rate"), [("mlp", 0.003), pytest.param("vit", 0.02, marks=pytest.mark.nightly)])
def test_it_learns_and_less_of_less_epsilon(data: tuple[Split, Split], family: str, rate: float) -> None:
    steps = {"optimizer": "adam", "learning_rate": rate, "epochs": 8, "weight_decay": 0.0}
    loose, net = train(data, family, private(50.0), **steps)
    tight, _ = train(data, family, private(0.05), **steps)
    assert loose.steps == tight.steps == 8 * 19
    assert loose.val_accuracy > 0.6 and tight.val_accuracy < loose.val_accuracy - 0.2
    assert not any(hasattr(weight, "grad_sample") for weight in net.parameters()), "Opacus leaves no attributes"


def test_no_two_private_trainings_are_alike(data: tuple[Split, Split]) -> None:
    """The noise must not follow from the seed."""
    first, second = (train(data, "mlp", private(3.0, epochs=1), epochs=1)[1] for _ in range(2))
    assert not torch.equal(first.head.weight, second.head.weight)


def test_a_step_moves_by_no_more_than_the_clip_norm_for_an_image(data: tuple[Split, Split]) -> None:
    """The step equals that of gradients computed image by image: clipped, summed, divided by the expected batch."""
    how = Mechanism(noise_multiplier=0.0, clip_norm=0.5, sample_rate=0.01, delta=DELTA, images=1200)
    split = data[0]
    net = fresh_net("mlp").double()
    images_BCHW = normalize(torch.from_numpy(np.array(split.images[:20])), split.input_spec).double()
    labels_B = torch.from_numpy(split.labels[:20])
    wanted = [torch.zeros_like(weight) for weight in net.parameters()]
    clipped = 0
    for image, label in zip(images_BCHW, labels_B, strict=True):
        loss = torch.nn.functional.cross_entropy(net(image[None]), label[None])
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        norm = torch.sqrt(sum((part.square().sum() for part in gradients), torch.zeros(())))
        clipped += bool(norm > 0.5)
        for total, part in zip(wanted, gradients, strict=True):
            total += part * min(1.0, 0.5 / float(norm)) / 12
    before = [weight.detach().clone() for weight in net.parameters()]
    optimizer = private_optimizer(torch.optim.SGD(net.parameters(), lr=1.0), how)
    with per_image_gradients(net):
        torch.nn.functional.cross_entropy(net(images_BCHW), labels_B, reduction="sum").backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert clipped, "no gradient was large enough to be clipped"
    for weight, start, step in zip(net.parameters(), before, wanted, strict=True):
        torch.testing.assert_close(start - weight.detach(), step, rtol=1e-4, atol=1e-7)


def test_batches_are_drawn_by_poisson_sampling(data: tuple[Split, Split]) -> None:
    images = all_images(data[0], no_views(data[0]))
    batches = TrainingBatches(images, recipe(batch_size=4), 0, device=torch.device("cpu"), poisson=True)
    sizes = np.array([len(batch.labels) for _ in range(4) for batch in batches])
    assert len(sizes) == 4 * 300
    assert sizes.mean() == pytest.approx(4, abs=0.3) and sizes.var() == pytest.approx(4, abs=1)
    assert sizes.min() == 0, "a batch may be empty"
    shown = np.concatenate([batch.indices.numpy() for batch in batches])
    assert len(set(shown)) < len(shown), "an image may come twice in an epoch"


def test_an_empty_batch_is_a_step_of_noise(data: tuple[Split, Split]) -> None:
    fitted, _ = train(data, "mlp", private(3.0, epochs=1, batch_size=2), epochs=1, batch_size=2)
    assert fitted.steps == 600 and np.isfinite(fitted.train_loss)


@pytest.mark.parametrize(
    ("family", "changes", "on", "said"),
    [
        ("cnn", {}, {}, "model.family: got cnn, expected mlp or vit"),
        ("mlp", {"infobatch": 0.5}, {}, "recipe.infobatch: got 0.5"),
        ("mlp", {"gradient_clip": 1.0}, {}, "recipe.gradient_clip: got 1.0"),
        ("mlp", {"precision": "bf16"}, {}, "recipe.precision: got bf16"),
        ("mlp", {}, {"devices": 2}, "train.devices: got 2"),
        ("mlp", {}, {"accumulate_grad_batches": 2}, "train.accumulate_grad_batches: got 2"),
        ("mlp", {}, {"compile": True}, "train.compile: got True"),
    ],
)
def test_what_is_not_private_is_refused(family: str, changes: dict[str, Any], on: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        check_private(family, recipe(**changes), Hardware(**on))


def test_a_delta_that_protects_nobody_is_refused() -> None:
    with pytest.raises(UserError, match=r"train\.privacy\.delta: got 0\.01, expected less than 1 / 1200"):
        mechanism(Privacy(epsilon=1.0, delta=0.01, clip_norm=1.0), 1200, 19, 8)


def test_the_pipeline_says_what_was_spent_and_refuses_to_undo_it(tmp_path: Path) -> None:
    clone = copy_project(tmp_path / "clone")
    params = yaml.safe_load((clone / "params.yaml").read_text())
    params["model"]["family"] = "mlp"
    params["train"]["privacy"]["epsilon"] = 8.0
    params["train"]["privacy"]["delta"] = 1e-4
    (clone / "params.yaml").write_text(yaml.safe_dump(params))
    run_command("dvc", "repro", "export@base", cwd=clone)
    spent = json.loads((clone / "metrics" / "train.json").read_text())["privacy"]
    assert 7.5 < spent["epsilon"] <= 8.0 and spent["delta"] == 1e-4
    assert json.loads((clone / "models" / "base" / "model.json").read_text())["privacy"] == spent
    import onnxruntime

    session = onnxruntime.InferenceSession(clone / "onnx" / "base.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["privacy"]) == spent
    (name,) = list(params["variants"]["distill"])[:1]
    done = run_command("dvc", "repro", f"distill@{name}", cwd=clone, check=False)
    assert done.returncode and "variants.distill: got a variant of a private model" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
