"""Vendoring ONNX Runtime Web from a local mirror: which files are copied, and which packages are refused."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from isoflop.demo import onnxruntime_web
from isoflop.demo.onnxruntime_web import FILES, PACKAGE, VERSION, check_runtime, vendor
from isoflop.download.fetching import Remote
from isoflop.runtime.errors import UserError
from tests.file_server import closed_port

CONTENTS = {f"package/dist/{name}": name.encode() * 100 for name in (*FILES, "ort.all.min.js")}
CONTENTS["package/package.json"] = b"{}"


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("ISOFLOP_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "mirror"


def put(mirror: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a package in npm's format into the mirror, and pin its checksum instead of the real one."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    (mirror / PACKAGE.name).write_bytes(packed.getvalue())
    checksum = f"sha512:{hashlib.sha512(packed.getvalue()).hexdigest()}"
    pin(replace(PACKAGE, checksum=checksum), monkeypatch)
    return mirror / PACKAGE.name


def pin(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_web, "PACKAGE", remote)


def test_only_the_needed_files_are_copied_with_the_license(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = put(mirror, CONTENTS, monkeypatch)
    vendor(tmp_path / "a")
    assert {file.name for file in (tmp_path / "a").iterdir()} == {*FILES, "LICENSE"}
    assert all((tmp_path / "a" / name).read_bytes() == name.encode() * 100 for name in FILES)
    license = (tmp_path / "a" / "LICENSE").read_text()
    assert "MIT License" in license and "Microsoft" in license and VERSION in license
    assert package.exists()
    vendor(tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_a_tampered_package_is_refused(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = put(mirror, CONTENTS, monkeypatch)
    content = bytearray(package.read_bytes())
    content[len(content) // 2] ^= 1
    package.write_bytes(content)
    with pytest.raises(
        UserError, match=r"onnxruntime-web-.*\.tgz: (?:found|got) sha512 [0-9a-f]+, expected [0-9a-f]+; or disable "
    ):
        vendor(tmp_path / "runtime")
    assert not (tmp_path / "runtime").exists()


def test_a_package_without_a_file_is_refused(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(mirror, {f"package/dist/{FILES[0]}": b"x"}, monkeypatch)
    with pytest.raises(UserError, match=f"package/dist/{FILES[1]} not found, expected the package onnxruntime-web"):
        vendor(tmp_path / "runtime")


def test_without_a_network_the_error_names_both_fixes(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(replace(PACKAGE, url=f"{closed_port()}/{PACKAGE.name}"), monkeypatch)
    with pytest.raises(UserError, match=r"could not be downloaded: .*ISOFLOP_MIRROR.*; or disable the demo"):
        vendor(tmp_path / "runtime")
    assert not (tmp_path / "runtime").exists()


def test_files_from_a_cache_that_are_not_those_of_the_package_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser will run them."""
    contents = {name: name.encode() for name in FILES}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="not the file of onnxruntime-web"):
        check_runtime(tmp_path)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(onnxruntime_web, "_SHA256", sums)
    check_runtime(tmp_path)
