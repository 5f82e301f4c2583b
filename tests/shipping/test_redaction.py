"""Nothing of this house is in what is published."""

from __future__ import annotations

import pytest

from isoflop.download.fetching import url_name, without_secrets
from isoflop.shipping.redaction import is_private, published


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


def test_private_training_is_recognized() -> None:
    assert is_private({"train": {"privacy": {"epsilon": 8}}})
    assert not is_private({"train": {"privacy": {"epsilon": None}}}) and not is_private({})
