"""Nothing of this house is in what is published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from isoflop.doctor import examining
from isoflop.download.fetching import url_name, without_secrets
from isoflop.release import writing
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import Section, load_params
from isoflop.shipping.redaction import is_private, published


class _Source(Section):
    url: int


class _Params(Section):
    source: _Source


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/ada.lovelace/patients", "…/patients"),
        ("/home/ada.lovelace/patients/", "…/patients"),
        ("~ada/patients", "…/patients"),
        ("../ada/patients", "…/patients"),
        ("data/../../ada/patients", "…/patients"),
        ("C:\\Users\\ada\\patients", "…/patients"),
        ("\\\\fileserver\\ada\\patients", "…/patients"),
        ("http://ada:s3cret@intranet/a.zip?sig=TOKEN#part", "…/a.zip"),
        ("https://ada:s3cret@intranet", "…/"),
        ("s3://ada-bucket/a/b.zip", "…/b.zip"),
        ("http://[ada/x", "…/x"),
        ("/", "…/"),
        ("data/images", "data/images"),
        ("cnn", "cnn"),
    ],
)
def test_of_a_url_or_path_elsewhere_only_the_last_name_is_published(value: str, shown: str) -> None:
    assert published({"data": {"path": [value, 1, None]}}) == {"data": {"path": [shown, 1, None]}}


def test_messages_have_no_password_and_no_token() -> None:
    url = "https://ada:s3c/ret@p@host:8080/a/b.zip?sig=TOKEN#x"
    assert "TOKEN" not in without_secrets(url) and url_name(url) == "b.zip"
    assert without_secrets("http://ada:pw@host:8080/a/b.zip?sig=1") == "http://host:8080/a/b.zip"
    assert without_secrets("http://host/a@b/c.zip") == "http://host/a@b/c.zip"


@pytest.mark.parametrize(
    "value",
    [
        "ftp://ada:s3cret@host/x.zip?sig=TOKEN",
        "ada:s3cret@host/x.zip#TOKEN",
        ["http://ada:s3/cr@et@host/a b"],
        {"a": "//s3cret@host?TOKEN"},
    ],
)
def test_a_message_about_a_wrong_value_has_no_password_and_no_token(tmp_path: Path, value: Any) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"source": {"url": value}}))
    with pytest.raises(UserError) as caught:
        load_params(_Params, tmp_path / "params.yaml")
    assert "url: got " in str(caught.value) and "host" in str(caught.value)
    assert not [word for word in ("ada", "s3c", "TOKEN") if word in str(caught.value)]


def test_doctor_names_a_remote_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its output is pasted into reports of problems."""
    listed = "core.remote=team\nremote.team.url=https://ada:s3cret@host/x?sig=TOKEN\nremote.team.verify=true"
    monkeypatch.setattr(examining, "_output", lambda *_: listed)
    assert examining._remote(tmp_path).found == "team, https://…@host/x?…"


def test_private_training_is_recognized() -> None:
    assert is_private({"train": {"privacy": {"epsilon": 8}}})
    assert not is_private({"train": {"privacy": {"epsilon": None}}}) and not is_private({})


@pytest.mark.parametrize(("epsilon", "in_model"), [(None, False), (8, False), (None, True)])
def test_a_manifest_has_no_secrets_and_of_private_training_no_hash_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epsilon: float | None, in_model: bool
) -> None:
    monkeypatch.setattr(writing, "_is_trained_privately", lambda _: in_model)
    for folder in ("ship", "metrics"):
        (tmp_path / folder).mkdir()
    (tmp_path / "ship" / "choice.json").write_text('{"chosen": "base"}')
    (tmp_path / "ship" / "model.onnx").write_bytes(b"model")
    (tmp_path / "metrics" / "variants.json").write_text('{"base": {"accuracy": 0.9}}')
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "code.yaml").write_text("stages: {}\n")
    outs = [{"path": "data/prepared/train", "md5": "0123.dir"}, {"path": "ship/model.onnx", "md5": "4567"}]
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": {"prepare": {"outs": outs}}}))
    data = {"path": "/home/ada.lovelace/patients", "url": "http://ada:s3cret@intranet/a.zip?sig=TOKEN"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"data": data, "train": {"privacy": {"epsilon": epsilon}}}))
    manifest = writing._manifest(tmp_path)
    assert manifest["params"]["data"] == {"path": "…/patients", "url": "…/a.zip"}
    assert not [word for word in ("ada", "s3cret", "TOKEN", "intranet") if word in json.dumps(manifest)]
    is_private = epsilon is not None or in_model
    assert manifest["data"] == ({} if is_private else {"data/prepared/train": "0123.dir"})
