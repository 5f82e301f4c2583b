"""What `isoflop verify` refuses in a folder from a stranger, and what a signature covers."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.cli import main as cli
from isoflop.release.verification import verify_release
from isoflop.release.writing import _sign
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import file_sha256
from tests.shipping.test_release import write_keys


def make_release(folder: Path, model: bytes = b"model", **others: bytes) -> Path:
    folder.mkdir()
    files = {"model.onnx": model, "manifest.json": json.dumps({"chosen": "base", "code": {"revision": "abc"}}).encode()}
    for name, content in (files | others).items():
        (folder / name).write_bytes(content)
    sums = [f"{file_sha256(file)}  {file.name}\n" for file in sorted(folder.iterdir())]
    (folder / "SHA256SUMS").write_text("".join(sums))
    return folder


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return make_release(tmp_path / "release")


def _fifo(release: Path) -> None:
    (release / "model.onnx").unlink()
    os.mkfifo(release / "model.onnx")


def _linked_model(release: Path) -> None:
    shutil.move(release / "model.onnx", release.parent / "elsewhere")
    (release / "model.onnx").symlink_to("../elsewhere")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda release: (release / "extra").symlink_to("/etc"), "extra is a link, expected a file"),
        (lambda release: (release / "extra").symlink_to("nowhere"), "extra is a link, expected a file"),
        (lambda release: (release / "loop").symlink_to("loop"), "loop is a link, expected a file"),
        (_linked_model, "model.onnx is a link to a file, expected a file"),
        (_fifo, "model.onnx is a pipe or device, expected a file"),
        (lambda release: os.mkfifo(release / "pipe"), "pipe is a pipe or device, expected a file"),
        (lambda release: (release / "deep").mkdir(), "deep is an empty folder, expected a file"),
        (lambda release: (release / ".hidden").touch(), ".hidden is not listed"),
        (lambda release: (release / ".gitattributes").touch(), ".gitattributes is not listed"),
        (lambda release: (release / "a\x1b]0;PWN\x07b").touch(), "a\\x1b]0;PWN\\x07b is not listed"),
        (lambda release: os.truncate(release / "SHA256SUMS", 2 << 20), "bytes, expected at most"),
    ],
)
def test_what_is_no_listed_file_is_refused(release: Path, change: Callable[[Path], None], said: str) -> None:
    change(release)
    with pytest.raises(UserError) as caught:
        verify_release(release, None)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_link_of_dvc_in_ship_is_accepted(tmp_path: Path) -> None:
    ship = make_release(tmp_path / "ship")
    (ship / "manifest.json").unlink()
    (ship / "SHA256SUMS").write_text(f"{file_sha256(ship / 'model.onnx')}  model.onnx\n")
    _linked_model(ship)
    assert verify_release(ship, None) == ["1 files match SHA256SUMS; not signed"]


def test_a_signature_covers_exactly_the_files_that_are_there(release: Path, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path)
    _, other = write_keys(tmp_path, "other")
    _sign(release, private)
    (checked, signature) = verify_release(release, public)
    assert checked == "2 files match SHA256SUMS"
    assert "for all 3 files: SHA256SUMS, manifest.json, model.onnx (base, commit abc)" in signature
    assert public.name in signature
    with pytest.raises(UserError, match="the signature is not valid for"):
        verify_release(release, other)

    notes = make_release(tmp_path / "notes", notes=b"harmless")  # another folder that the owner signed
    _sign(notes, private)
    forged = make_release(tmp_path / "forged", b"planted")
    shutil.copy(notes / "model.sig", forged)
    with pytest.raises(UserError, match="the signature is not valid"):
        verify_release(forged, public)
    (forged / "SHA256SUMS").unlink()
    shutil.copytree(notes, forged, dirs_exist_ok=True)
    (forged / "extra.onnx").write_bytes(b"planted")
    with (forged / "SHA256SUMS").open("a") as sums:
        sums.write(f"{file_sha256(forged / 'extra.onnx')}  extra.onnx\n")
    with pytest.raises(UserError, match="the signature is not valid"):
        verify_release(forged, public)


def test_a_signature_that_leaves_out_files_is_refused(release: Path, tmp_path: Path) -> None:
    import model_signing

    private, public = write_keys(tmp_path)
    hashing = model_signing.hashing.Config().set_ignored_paths(paths=["model.onnx"])
    signer = model_signing.signing.Config().set_hashing_config(hashing).use_elliptic_key_signer(private_key=private)
    signer.sign(release, tmp_path / "model.sig")
    shutil.move(tmp_path / "model.sig", release)
    with pytest.raises(UserError, match="it leaves out files"):
        verify_release(release, public)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"dsseEnvelope": {"payload": "e30="}}', b"\xff\x00"])
def test_a_signature_file_that_is_none_is_one_line(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    _, public = write_keys(tmp_path)
    (release / "model.sig").write_bytes(content)
    assert cli.main(["verify", str(release), "--public-key", str(public)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
