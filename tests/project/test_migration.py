"""`isoflop upgrade` on what version 0.1 left: renamed keys, nothing lost, and no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from isoflop.project.migration import migrate, unchanged_stages
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import Section, load_params


class Recipe(Section):
    infobatch: float
    flip: str


class Sections(Section):
    recipe: Recipe


OLD = "# mine\nrecipe:\n  skip_easy: 0.5  # share\n  flip: none\ntrain:\n  micro_batches: 2\n"


def test_old_names_are_read_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "params.yaml").write_text(OLD)
    assert load_params(Sections, tmp_path / "params.yaml").recipe.infobatch == 0.5
    assert "recipe.skip_easy: renamed to recipe.infobatch; the old name works until 0.3" in capsys.readouterr().err
    assert (tmp_path / "params.yaml").read_text() == OLD


def test_keys_are_renamed_and_comments_kept(tmp_path: Path) -> None:
    (tmp_path / "presets").mkdir()
    for file in (tmp_path / "params.yaml", tmp_path / "presets" / "own.yaml"):
        file.write_text(OLD)
    done = migrate(tmp_path)
    assert len([line for line in done if "renamed" in line]) == 4
    assert [line for line in done if "added" in line][:2] == [
        'params.yaml: added recipe.class_weights: "none"',
        "params.yaml: added recipe.logit_adjustment: 0.0",
    ]
    renamed = OLD.replace("skip_easy", "infobatch").replace("micro_batches", "accumulate_grad_batches")
    renamed = renamed.replace("flip: none\n", "flip: none\n  class_weights: none\n  logit_adjustment: 0.0\n")
    renamed += "  finetuning:\n    head_fraction: 0.2\n    first_layer_rate: 0.1\n    freeze_norms: auto\n"
    renamed += "  fraction: 1.0\n"
    assert (tmp_path / "params.yaml").read_text() == (tmp_path / "presets" / "own.yaml").read_text() == renamed
    assert migrate(tmp_path) == []


def test_metrics_are_renamed_but_not_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("recipe:\n")
    cached = tmp_path / "object"
    cached.write_text('{"taught_val_nll": 0.1, "kept": "taught"}')
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "distill-a.json").symlink_to(cached)
    (tmp_path / "metrics" / "distill-b.json").write_text('{"taught')  # damaged
    assert len(migrate(tmp_path)) == 1
    found = json.loads((tmp_path / "metrics" / "distill-a.json").read_text())
    assert found == {"distilled_val_nll": 0.1, "kept": "distilled"} and "taught" in cached.read_text()


def test_a_damaged_params_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("recipe: [\n")
    with pytest.raises(UserError, match=r"^params\.yaml: not valid YAML: "):
        migrate(tmp_path)


def test_only_stages_with_results_are_taken_over(tmp_path: Path) -> None:
    assert unchanged_stages(tmp_path) == []
    (tmp_path / "dvc.lock").write_text("stages:\n  sweep@8: {}\n  report: {}\n  train: {}\n")
    assert unchanged_stages(tmp_path) == ["train"]
