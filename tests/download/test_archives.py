"""Reading archives, and rejecting dangerous ones: path traversal, links, devices, decompression bombs, damage."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isoflop.download import archives
from isoflop.download.archives import archive_entries, naming_damage
from isoflop.runtime.errors import UserError

FILES = {"b/2.jpg": b"two" * 500, "a/1.jpg": b"", "a/é.jpg": b"accent", "c.txt": bytes(range(256)) * 400}
KINDS = ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]


def contents(path: Path) -> dict[str, bytes]:
    with naming_damage(path):
        found = {}
        for entry in archive_entries(path):
            with entry.open() as stream:
                found[entry.name] = stream.read()
            assert entry.size == len(found[entry.name])
        return found


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        contents(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{path}: ")


def write(path: Path, files: dict[str, bytes]) -> Path:
    """Write an archive of the format given by the suffix."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        mode = {".gz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}.get(path.suffix, "w")
        with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def tar_with(path: Path, **attributes: object) -> Path:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("fine.jpg"))
        info = tarfile.TarInfo("bad.jpg")
        for name, value in attributes.items():
            setattr(info, name, value)
        archive.addfile(info)
    return path


def zip_with(path: Path, name: str = "bad.jpg", mode: int = 0, flags: int = 0) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("x")
        info.filename, info.external_attr = name, mode << 16
        archive.writestr(info, b"content")
    if flags:  # zipfile cannot encrypt members; setting the flag is enough
        content = bytearray(path.read_bytes())
        content[content.index(b"PK\1\2") + 8] |= flags
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_give_the_same_files(tmp_path: Path, kind: str) -> None:
    assert contents(write(tmp_path / f"data.{kind}", FILES)) == FILES


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_is_seen_by_the_content(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"data.{kind}", FILES).rename(tmp_path / "sha256-abc")
    assert contents(path) == FILES


def test_folders_dots_and_backslashes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.mkdir("a")
        archive.writestr("a\\b\\1.jpg", b"1")
    assert contents(tmp_path / "data.zip") == {"a/b/1.jpg": b"1"}
    (tmp_path / "tree" / "a").mkdir(parents=True)
    (tmp_path / "tree" / "a" / "1.jpg").write_bytes(b"1")
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        tar.add(tmp_path / "tree", arcname=".")
    assert contents(tmp_path / "data.tar") == {"a/1.jpg": b"1"}


def test_names_that_are_no_utf8_and_long_ones(tmp_path: Path) -> None:
    names = [f"a/{'x' * 200}/{'y' * 200}.jpg", "a/caf\udce9.jpg"]
    path = tmp_path / "data.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    assert list(contents(path)) == names


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("../evil.jpg", "a path that leads out of the archive"),
        ("a/../../evil.jpg", "a path that leads out of the archive"),
        ("/etc/evil.jpg", "an absolute path"),
        ("C:/evil.jpg", "an absolute path"),
    ],
)
def test_paths_that_lead_out(tmp_path: Path, kind: str, name: str, found: str) -> None:
    path = write(tmp_path / f"data.{kind}", {"fine.jpg": b"", name: b"x"})
    assert refusal(path) == f"{name!r}: got {found}, expected one inside" + (
        " the archive" if "absolute" in found else " it"
    )


def test_backslashes_and_folders_that_lead_out(tmp_path: Path) -> None:
    assert refusal(zip_with(tmp_path / "a.zip", "..\\evil.jpg")).startswith("'../evil.jpg': got a path that leads out")
    assert "leads out" in refusal(zip_with(tmp_path / "b.zip", "../evil/"))
    assert "leads out" in refusal(tar_with(tmp_path / "c.tar", name="../evil", type=tarfile.DIRTYPE))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar(tmp_path: Path, kind: bytes) -> None:
    path = tar_with(tmp_path / "data.tar", type=kind, linkname="fine.jpg")
    assert refusal(path) == "'bad.jpg': got a link, device or sparse file, expected files and folders only"


def test_links_and_encryption_in_a_zip(tmp_path: Path) -> None:
    assert refusal(zip_with(tmp_path / "link.zip", mode=0o120777)).startswith("'bad.jpg': got a link or device")
    assert refusal(zip_with(tmp_path / "locked.zip", flags=1)).startswith("'bad.jpg': got an encrypted file")


@pytest.mark.parametrize("kind", KINDS)
def test_a_decompression_bomb(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"data.{kind}", {"bomb.bmp": bytes(80_000_000)})
    if kind == "tar":
        assert len(contents(path)["bomb.bmp"]) == 80_000_000  # the size in its header is true
    else:
        expected = "expected at most 200 times the size of the archive"
        assert refusal(path) == f"'bomb.bmp': got a decompression bomb, {expected}"


def test_many_zeros_behind_the_end_of_a_tar_are_a_bomb_too(tmp_path: Path) -> None:
    import gzip

    tar = write(tmp_path / "data.tar", FILES).read_bytes()
    (tmp_path / "data.tar.gz").write_bytes(gzip.compress(tar + bytes(80_000_000), 1))
    assert "got a decompression bomb" in refusal(tmp_path / "data.tar.gz")


def test_a_huge_extended_header_is_not_read(tmp_path: Path) -> None:
    import gzip

    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 50_000_000
    content = header.tobuf(tarfile.GNU_FORMAT) + b"x" * 50_000_000 + bytes(1024)
    (tmp_path / "data.tar.gz").write_bytes(gzip.compress(content, 1))
    assert "got a header of 50,000,384 bytes" in refusal(tmp_path / "data.tar.gz")


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    ("limit", "value", "found"),
    [
        ("MAX_MEMBERS", 2, "got more than 2 members"),
        ("MAX_MEMBER_BYTES", 9, "got 1,500 bytes, expected at most 9"),
        ("MAX_TOTAL_BYTES", 1600, "up to here, expected at most 1,600 in total"),
    ],
)
def test_the_other_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, limit: str, value: int, found: str
) -> None:
    monkeypatch.setattr(archives, limit, value)
    assert found in refusal(write(tmp_path / f"data.{kind}", FILES))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_name_twice(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"data.{kind}", {"a/1.jpg": b"1", "a/./1.jpg": b"2"})
    assert refusal(path) == "'a/./1.jpg': got a second member of this name, expected one"


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", [cut, flipped])
def test_damage_is_seen(tmp_path: Path, kind: str, damage: Callable[[bytes], bytes]) -> None:
    noise = np.random.default_rng(0).bytes(30_000)  # incompressible, so only a checksum detects damage
    path = write(tmp_path / f"data.{kind}", {"a/1.jpg": noise, "b/2.jpg": noise[::-1]})
    if kind == "tar" and damage is flipped:  # an uncompressed tar has no checksum of its contents, but of its headers
        content = path.read_bytes()
        path.write_bytes(content.replace(b"b/2.jpg", b"c/2.jpg"))
    else:
        path.write_bytes(damage(path.read_bytes()))
    assert refusal(path).startswith("got a damaged file or no archive (")


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\5\6", b"Rar!\x1a\7", b"\x1f\x8b", b"hello" * 999, bytes(100)])
def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data").write_bytes(content)
    assert refusal(tmp_path / "data").endswith("expected a zip, tar, tar.gz, tar.bz2 or tar.xz")


def test_a_tar_without_its_end_may_be_cut_short(tmp_path: Path) -> None:
    path = write(tmp_path / "data.tar", {"a/1.jpg": bytes(512), "b/2.jpg": bytes(512)})
    path.write_bytes(path.read_bytes()[:1024])  # exactly the first member
    assert "damaged file" in refusal(path)


@pytest.mark.parametrize("kind", KINDS)
def test_any_damage_is_refused_or_harmless(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    path = write(tmp_path / f"data.{kind}", {name: content[:3000] for name, content in FILES.items()})
    good = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(150):
        bad = good.copy()
        bad[rng.integers(0, len(bad), rng.choice([1, 2, 5, 20]))] = rng.choice([0, 255, 46, 47])
        path.write_bytes(bad[: rng.integers(len(bad) // 2, len(bad) * 2)].tobytes())
        try:
            with naming_damage(path):
                for entry in archive_entries(path):
                    with entry.open() as stream:
                        stream.read()
        except UserError as error:
            assert "\n" not in str(error)


class _Unflagged(zipfile.ZipInfo):
    """A member whose name is written as ``raw``, without the flag that states UTF-8."""

    raw: bytes

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.raw, self.flag_bits & ~0x800


def unflagged(path: Path, raw: bytes, extra: bytes = b"") -> list[str]:
    with zipfile.ZipFile(path, "w") as archive:
        info = _Unflagged("x")
        info.raw, info.extra = raw, extra
        archive.writestr(info, b"content")
    return list(contents(path))


@pytest.mark.parametrize("name", ["café/1.jpg", "日本/1.jpg", "cafe\u0301/1.jpg", "🍎\\1.jpg", "plain/1.jpg"])
def test_names_of_a_zip_in_utf8_without_the_flag(tmp_path: Path, name: str) -> None:
    assert unflagged(tmp_path / "photos.zip", name.encode()) == [name.replace("\\", "/")]


def test_other_names_of_a_zip_are_in_code_page_437_or_in_the_unicode_field(tmp_path: Path) -> None:
    raw = "café/1.jpg".encode("cp437")
    assert unflagged(tmp_path / "dos.zip", raw) == ["café/1.jpg"]
    body = struct.pack("<BL", 1, zlib.crc32(raw)) + "日本/1.jpg".encode()
    field = struct.pack("<HH", 0x7075, len(body)) + body
    assert unflagged(tmp_path / "info-zip.zip", raw, field) == ["日本/1.jpg"]
    assert unflagged(tmp_path / "renamed.zip", "né/1.jpg".encode("cp437"), field) == ["né/1.jpg"]


def test_dangerous_names_are_refused_in_any_encoding(tmp_path: Path) -> None:
    raw = b"x.jpg"
    body = struct.pack("<BL", 1, zlib.crc32(b"\xff.jpg")) + b"../../x.jpg"
    with pytest.raises(UserError, match="leads out of the archive"):
        unflagged(tmp_path / "photos.zip", b"\xff.jpg", struct.pack("<HH", 0x7075, len(body)) + body)
    assert unflagged(tmp_path / "fine.zip", raw) == ["x.jpg"]
