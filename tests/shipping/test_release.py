"""Verifying a release detects altered bytes; its signature identifies the author."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from isoflop.cli import main as cli
from tests.conftest import run_command


@pytest.fixture
def project(smoke: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    target = tmp_path / "project"
    shutil.copytree(smoke, target, symlinks=True)
    monkeypatch.chdir(target)
    return target


def write_keys(folder: Path, name: str = "key") -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    plain = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, info))
    return private, public


def run_cli(capsys: pytest.CaptureFixture[str], status: int, *arguments: str) -> str:
    assert cli.main(arguments) == status
    printed = capsys.readouterr()
    assert printed.err.count("\n") == status
    return printed.err if status else printed.out


def test_the_ship_folder_is_verified(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(capsys, 0, "verify", "ship") == "3 files match SHA256SUMS; not signed\n"


def test_the_demo_is_verified_separately_and_not_released(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo = project / "ship" / "demo"
    (demo / "index.html").write_text("a page")
    assert "ship: demo/index.html is not listed in SHA256SUMS" in run_cli(capsys, 1, "verify", "ship")
    run_command("sh", "-c", "sha256sum index.html > SHA256SUMS", cwd=demo)
    assert run_cli(capsys, 0, "verify", "ship").splitlines()[1] == "demo: 1 files match SHA256SUMS"
    run_cli(capsys, 0, "release")
    assert not (project / "release" / "demo").exists()
    (demo / "index.html").write_text("another page")
    assert "ship/demo: index.html has changed" in run_cli(capsys, 1, "verify", "ship")
    shutil.copytree(demo, project / "release" / "demo")  # with a list of its own nothing is smuggled into a release
    assert "release: demo/SHA256SUMS is not listed" in run_cli(capsys, 1, "verify", "release")


def test_a_signed_release_detects_every_change(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    private, public = write_keys(project)
    _, other = write_keys(project, "other")
    assert run_cli(capsys, 0, "release", "--key", str(private)).endswith(", signed\n")
    release = project / "release"
    manifest = json.loads((release / "manifest.json").read_text())
    assert manifest["metrics"]["accuracy"] > 0.5 and manifest["params"]["train"]["width"] == 16
    assert set(manifest["data"]) >= {"data/raw", "data/prepared/train"} and manifest["versions"]["torch"]
    assert "for all 5 files: MODEL_CARD.md, SHA256SUMS, choice.json, manifest.json, model.onnx" in run_cli(
        capsys, 0, "verify", "release", "--public-key", str(public)
    )
    assert "not checked without --public-key" in run_cli(capsys, 0, "verify", "release")
    assert "the signature is not valid for" in run_cli(capsys, 1, "verify", "release", "--public-key", str(other))

    content = (release / "model.onnx").read_bytes()
    (release / "model.onnx").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "release: model.onnx has changed" in run_cli(capsys, 1, "verify", "release")
    (release / "model.onnx").unlink()
    assert "model.onnx is missing" in run_cli(capsys, 1, "verify", "release")
    (release / "model.onnx").write_bytes(content)
    (release / "extra.onnx").touch()
    assert "extra.onnx is not listed" in run_cli(capsys, 1, "verify", "release")
    (release / "extra.onnx").unlink()
    sums = (release / "SHA256SUMS").read_text()
    (release / "choice.json").write_text("{}")  # and its checksum made to fit
    run_command("sh", "-c", "sha256sum choice.json MODEL_CARD.md manifest.json model.onnx > SHA256SUMS", cwd=release)
    assert (release / "SHA256SUMS").read_text() != sums
    assert "4 files" in run_cli(capsys, 0, "verify", "release")
    assert "the signature is not valid" in run_cli(capsys, 1, "verify", "release", "--public-key", str(public))


def test_errors_are_one_line_and_leave_nothing_behind(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rsa_key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (project / "rsa.pem").write_bytes(rsa_key)
    (project / "text.pem").write_text("no key")
    for name in ("rsa.pem", "text.pem"):
        assert f"{name}: not a private elliptic-curve key" in run_cli(capsys, 1, "release", "--key", name)
    assert "none.pem: not found" in run_cli(capsys, 1, "release", "--key", "none.pem")
    assert not (project / "release").exists() and not list(project.glob(".release*"))
    run_cli(capsys, 0, "release")
    assert "release: exists already; fix: --force replaces it" in run_cli(capsys, 1, "release")
    run_cli(capsys, 0, "release", "--force")
    _, public = write_keys(project)
    assert "got no model.sig" in run_cli(capsys, 1, "verify", "release", "--public-key", str(public))
    assert "got no SHA256SUMS" in run_cli(capsys, 1, "verify", "metrics")
    assert "metrics: got no manifest.json and SHA256SUMS in it, expected a release" in run_cli(
        capsys, 1, "release", "--out", "metrics", "--force"
    )
    params = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(params.replace("epochs: 6", "epochs: 7", 1))
    assert "ship: out of date (" in run_cli(capsys, 1, "release", "--force")
    (project / "params.yaml").write_text(params)
    (project / "ship" / "model.onnx").write_bytes(b"another")
    assert "ship/model.onnx: got MD5 " in run_cli(capsys, 1, "release", "--force")
    assert "model.onnx has changed" in run_cli(capsys, 1, "verify", "ship")


def test_a_release_is_replaced_in_place_and_other_files_are_not_touched(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private, _ = write_keys(project)
    run_cli(capsys, 0, "release", "--key", str(private))
    release = project / "release"
    before = release.stat().st_ino  # the folder itself stays: it may be a mount
    (release / "NOTES.md").write_text("why this one")
    assert "'NOTES.md', which is not part of a release" in run_cli(capsys, 1, "release", "--force")
    (release / "NOTES.md").unlink()
    (project / "latest").symlink_to("release")
    run_cli(capsys, 0, "release", "--out", "latest", "--force")
    assert release.stat().st_ino == before and (project / "latest").is_symlink()
    assert not (release / "model.sig").exists(), "the signature was of the old release"
    run_cli(capsys, 0, "verify", "release")
