"""Parameters are strictly typed, and a mistake is named by its key, what was found and what was expected."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from isoflop.project.checking import check, stage_schemas
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import Section, declared_keys, key, load_params
from tests.conftest import ROOT


class Recipe(Section):
    epochs: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    loss: Literal["cross_entropy", "mse"]
    seeds: list[int]
    nesterov: bool


class Params(Section):
    recipe: Recipe
    width: int = key("train.width", gt=0)


GOOD = """
recipe:
  epochs: 3
  learning_rate: 1e-3
  loss: mse
  seeds: [0, 1]
  nesterov: true
train:
  width: 32
  anything: else
"""


def load(tmp_path: Path, text: str) -> Params:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    return load_params(Params, file)


def test_loads_sections_and_parts_of_sections(tmp_path: Path) -> None:
    params = load(tmp_path, GOOD)
    assert params.recipe.learning_rate == 0.001
    assert params.width == 32
    assert declared_keys(Params) == {"recipe": "recipe", "width": "train.width"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs: 3", "epoch: 3", "recipe.epoch: unknown key; did you mean 'epochs'?"),
        ("epochs: 3", "", "recipe.epochs: the key is missing"),
        ("epochs: 3", "epochs: '3'", "recipe.epochs: got '3' (string), expected a valid integer"),
        ("epochs: 3", "epochs: true", "recipe.epochs: got True (boolean), expected a valid integer"),
        ("epochs: 3", "epochs: 0", "recipe.epochs: got 0 (integer), expected greater than 0"),
        ("1e-3", "'0.1'", "recipe.learning_rate: got '0.1' (string), expected a valid number"),
        ("loss: mse", "loss: rmse", "recipe.loss: got 'rmse' (string), expected 'cross_entropy' or 'mse'"),
        ("[0, 1]", "0", "recipe.seeds: got 0 (integer), expected a valid list"),
        ("[0, 1]", "[0, x]", "recipe.seeds.1: got 'x' (string), expected a valid integer"),
        ("nesterov: true", "nesterov: 1", "recipe.nesterov: got 1 (integer), expected a valid boolean"),
        ("width: 32", "", "train.width: the key is missing"),
        ("width: 32", "width: wide", "train.width: got 'wide' (string), expected a valid integer"),
        ("  epochs: 3", " epochs: 3", "not valid YAML"),
        (GOOD, "- a\n- b", "got list, expected sections with keys"),
        (GOOD, "", "recipe: the key is missing"),
    ],
)
def test_a_mistake_is_one_clear_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(UserError) as caught:
        load(tmp_path, GOOD.replace(old, new))
    text = str(caught.value)
    assert message in text
    assert "params.yaml" in text
    assert "\n" not in text


def test_a_misspelled_key_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, GOOD.replace("epochs: 3", "epoch: 3"))
    assert str(caught.value) == f"{tmp_path}/params.yaml: recipe.epoch: unknown key; did you mean 'epochs'?"
    with pytest.raises(UserError) as caught:  # one that is there as well makes no other missing one be passed over
        load(tmp_path, GOOD.replace("epochs: 3", "seed: 3"))
    assert [said.partition("params.yaml: ")[2] for said in str(caught.value).split("; /")] == [
        "recipe.epochs: the key is missing", "recipe.seed: unknown key; did you mean 'seeds'?",
    ]  # fmt: skip


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"params\.yaml: not found"):
        load_params(Params, tmp_path / "params.yaml")


def test_patches_that_do_not_tile_the_image_are_told_before_anything_runs(tmp_path: Path) -> None:
    text = (ROOT / "presets" / "smoke.yaml").read_text().replace("family: cnn", "family: vit")
    (tmp_path / "params.yaml").write_text(re.sub(r"patch_size: \d+", "patch_size: 3", text))
    with pytest.raises(UserError, match=r"model\.patch_size: got 3, expected a divisor of the image size 8"):
        check(stage_schemas(ROOT).values(), tmp_path / "params.yaml")


def test_images_that_dvc_keeps_are_to_be_pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_bytes((ROOT / "presets" / "smoke.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"data\.path: got data/images, which does not exist; expected a folder"):
        check(stage_schemas(ROOT).values())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images.dvc").touch()
    said = r"data\.path: got data/images, which does not exist; expected what DVC tracks there; fix: `dvc pull`"
    with pytest.raises(UserError, match=said):
        check(stage_schemas(ROOT).values())
