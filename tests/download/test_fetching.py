"""Downloads from a real web server on loopback: resuming, verification, mirrors, and errors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from isoflop.download import fetching
from isoflop.download.fetching import DOWNLOADS, Remote, fetched, from_mirror
from isoflop.runtime.errors import UserError
from tests.file_server import FileServer, closed_port, serving

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ISOFLOP_MIRROR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetching, "_PAUSE_S", 0.01)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(FileServer({"a/data.bin": CONTENT})) as running:
        yield running


def remote(base: str, checksum: str = SHA256) -> Remote:
    return Remote("set/data.bin", f"{base}/a/data.bin", checksum)


def get(wanted: Remote) -> bytes:
    with fetched(wanted) as file:
        return file.read_bytes()


def kept() -> list[int]:
    """Sizes of the files in the folder of downloads."""
    return [file.stat().st_size for file in DOWNLOADS.iterdir()] if DOWNLOADS.exists() else []


@pytest.mark.parametrize("checksum", [SHA256, MD5])
def test_a_download_is_verified_and_leaves_nothing_behind(server: FileServer, checksum: str) -> None:
    assert get(remote(server.url, checksum)) == CONTENT
    assert kept() == [] and server.ranges == [None]


def test_a_connection_that_breaks_is_taken_up_where_it_broke(server: FileServer) -> None:
    server.breaks = 3
    assert get(remote(server.url)) == CONTENT
    assert server.ranges == [None, "bytes=1500000-", "bytes=2250000-", "bytes=2625000-"]


def test_a_server_without_ranges_sends_all_again(server: FileServer) -> None:
    server.breaks, server.ranged = 1, False
    assert get(remote(server.url)) == CONTENT
    assert server.ranges == [None, "bytes=1500000-"]


def test_a_server_that_dies_and_comes_back_later(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    dead, get_url = closed_port(), requests.get
    server.breaks = 1

    def die(url: str, **options: Any) -> requests.Response:  # the second request is refused
        return get_url(url.replace(server.url, dead) if server.ranges else url, **options)

    with monkeypatch.context() as patch:
        patch.setattr(requests, "get", die)
        with pytest.raises(UserError, match=r"Connection refused \(1,500,000 bytes are kept; the next run resumes"):
            get(remote(server.url))
    assert kept() == [1_500_000]
    assert get(remote(server.url)) == CONTENT
    assert server.ranges == [None, "bytes=1500000-"]


def test_a_whole_file_that_a_failed_run_left_is_used(server: FileServer) -> None:
    with pytest.raises(ZeroDivisionError), fetched(remote(server.url)):
        raise ZeroDivisionError
    assert kept() == [len(CONTENT)]
    assert get(remote(closed_port())) == CONTENT
    assert kept() == []


@pytest.mark.parametrize("size", [1_000_000, len(CONTENT), len(CONTENT) + 5])
def test_a_partial_file_of_another_version_is_fetched_anew(server: FileServer, size: int) -> None:
    DOWNLOADS.mkdir(parents=True)
    (DOWNLOADS / SHA256.replace(":", "-")).write_bytes(bytes(size))
    assert get(remote(server.url)) == CONTENT
    assert server.ranges == [f"bytes={size}-", None]


def test_another_content_is_named_and_removed(server: FileServer) -> None:
    server.files["a/data.bin"] = b"other"
    with pytest.raises(UserError) as error:
        get(remote(server.url))
    found = hashlib.sha256(b"other").hexdigest()
    assert str(error.value) == f"{server.url}/a/data.bin: got sha256 {found}, expected {SHA256[7:]}"
    assert kept() == []


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_refusal_names_the_url_and_the_way_out(server: FileServer, status: int) -> None:
    server.status = status
    with pytest.raises(UserError, match=rf"^{server.url}/a/data.bin: could not be downloaded: HTTP {status} \w+"):
        get(remote(server.url))


def test_no_network_names_the_url_and_the_way_out() -> None:
    base = closed_port()
    with pytest.raises(UserError) as error:
        get(remote(base))
    assert str(error.value) == (
        f"{base}/a/data.bin: could not be downloaded: Connection refused; fix: check the network connection, "
        "or set ISOFLOP_MIRROR to a folder or URL that has set/data.bin"
    )
    with pytest.raises(UserError, match=r"^http://isoflop\.invalid/x: could not be downloaded: \w+"):
        get(Remote("x", "http://isoflop.invalid/x", SHA256))


def test_a_folder_as_mirror_is_looked_in_first_and_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOFLOP_MIRROR", str(tmp_path / "mirror"))
    file = tmp_path / "mirror" / "set" / "data.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    assert get(remote(closed_port())) == CONTENT
    assert file.exists() and not DOWNLOADS.exists()
    file.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"mirror/set/data\.bin: got sha256 [0-9a-f]{64}, expected"):
        get(remote(closed_port()))


def test_a_url_as_mirror_and_what_it_lacks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(FileServer({"m/set/data.bin": CONTENT})) as mirror:
        monkeypatch.setenv("ISOFLOP_MIRROR", f"{mirror.url}/m/")
        assert get(remote(closed_port())) == CONTENT
        with serving(FileServer({"a/data.bin": CONTENT})) as origin:
            mirror.files.clear()
            assert from_mirror(remote(origin.url)) is None
            assert get(remote(origin.url)) == CONTENT
            monkeypatch.setenv("ISOFLOP_MIRROR", closed_port())
            assert get(remote(origin.url)) == CONTENT
    assert "Connection refused; trying " in capsys.readouterr().err


def test_a_mirror_that_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOFLOP_MIRROR", "no/such/folder")
    with pytest.raises(UserError, match=r"^ISOFLOP_MIRROR: got 'no/such/folder', expected an existing folder"):
        get(remote(closed_port()))
