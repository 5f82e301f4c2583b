"""Verify a release, or ship/ (``isoflop verify``): every file by its checksum, and the signature over all of them.

The folder may come from a stranger: links, pipes and devices are refused before anything is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isoflop.runtime.errors import UserError
from isoflop.runtime.files import file_sha256
from isoflop.runtime.terminal import printable

SUMS, MANIFEST, SIGNATURE = "SHA256SUMS", "manifest.json", "model.sig"
_MOST_LISTED = 10  # problems in a message
_MOST_BYTES = 1 << 20  # of SHA256SUMS, the signature and the manifest


def verify_release(folder: Path, public_key: Path | None) -> list[str]:
    """Return what was checked, one line per check.

    Raises:
        UserError: a file is missing, changed or not listed, or is no regular file; or the signature is not by this key
            over exactly these files.
    """
    demo = folder / "demo"
    # ship/ contains the demo, which has its own checksums; a release has no unlisted files
    separate = demo if (demo / SUMS).is_file() and not (folder / MANIFEST).exists() else None
    checked = [_check_sums(folder, separate), *([f"demo: {_check_sums(demo, None)}"] if separate else [])]
    if public_key is None:
        signed = (folder / SIGNATURE).exists()
        left = f"{SIGNATURE} is not checked without --public-key" if signed else "not signed"
        return [f"{checked[0]}; {left}", *checked[1:]]
    if separate:
        raise UserError(f"{folder}: got a folder with a demo, expected a release made with --key, which has none")
    return [*checked, _check_signature(folder, public_key)]


def library() -> Any:
    """Return the module ``model_signing``.

    Raises:
        UserError: it is not installed.
    """
    try:
        import model_signing
    except ImportError:
        raise UserError("signatures need model-signing; fix: `pip install 'isoflop[sign]'`") from None
    return model_signing


def first_line(error: Exception) -> str:
    """Return the first line of a message of the library or of cryptography."""
    message = (str(error).strip() or type(error).__name__).splitlines()[0]
    return printable(message.partition(": Expected 'Digest(")[0][:200])  # raw bytes follow


def _check_sums(folder: Path, separate: Path | None) -> str:
    """Compare the files of ``folder``, except those in ``separate``, with its checksums; return the result."""
    if not (folder / SUMS).is_file():
        raise UserError(f"{folder}: got no {SUMS}, expected a folder that `isoflop release` or the stage ship wrote")
    listed = {}
    for line in _read(folder / SUMS).splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    is_release = (folder / MANIFEST).exists()
    present = dict(_entries(folder, separate))
    if not is_release:  # of ship/, DVC may link the files to its cache, and the folder of the demo may be empty
        present = {name: kind.replace("a link to a file", "a file") for name, kind in present.items()}
        present = {name: kind for name, kind in present.items() if kind != "an empty folder"}
    files = {name for name, kind in present.items() if kind == "a file"}
    others = {name: kind for name, kind in present.items() if name not in files}
    problems = [f"{name} is {kind}, expected a file" for name, kind in others.items()]
    problems += [f"{name} is missing" for name in listed if name not in present]
    problems += [f"{name} is not listed in {SUMS}" for name in sorted(files - set(listed) - {SUMS, SIGNATURE})]
    problems += [
        f"{name} has changed"
        for name, digest in listed.items()
        if name in files and file_sha256(folder / name) != digest
    ]
    if problems:
        more = f" and {len(problems) - _MOST_LISTED} more" if len(problems) > _MOST_LISTED else ""
        raise UserError(f"{folder}: {printable('; '.join(problems[:_MOST_LISTED]))}{more}")
    return f"{len(listed)} files match {SUMS}"


def _entries(folder: Path, separate: Path | None) -> Iterator[tuple[str, str]]:
    """Yield the name below ``folder`` and the kind of everything in it but folders with content; follow no link."""
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path, mode = Path(entry.path), entry.stat(follow_symlinks=False).st_mode
                if path == separate:
                    continue
                name = path.relative_to(folder).as_posix()
                if stat.S_ISDIR(mode):
                    waiting.append(path)
                    if not os.listdir(path):
                        yield name, "an empty folder"
                elif stat.S_ISREG(mode):
                    yield name, "a file"
                elif stat.S_ISLNK(mode):
                    yield name, "a link to a file" if path.is_file() else "a link"
                else:
                    yield name, "a pipe or device"


def _read(file: Path) -> str:
    if file.stat().st_size > _MOST_BYTES:
        raise UserError(f"{file}: got {file.stat().st_size:,} bytes, expected at most {_MOST_BYTES:,}")
    return file.read_text(errors="replace")


def _check_signature(folder: Path, public_key: Path) -> str:
    """Verify the signature over all files but itself; return whose it is and over what."""
    if not (folder / SIGNATURE).is_file():
        raise UserError(f"{folder}: got no {SIGNATURE}, expected a release made with --key")
    if not public_key.is_file():
        raise UserError(f"{public_key}: not found; expected a public key (PEM)")
    _read(folder / SIGNATURE)
    model_signing = library()
    try:
        # by this configuration and not by the one that the signature states, whose ignored files could be any
        hashing = model_signing.hashing.Config().use_file_serialization(hashing_algorithm="sha256")
        hashing = hashing.set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
        verifier = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        if _ignored(folder / SIGNATURE):
            raise ValueError("it leaves out files")
        verifier.set_hashing_config(hashing).verify(folder, folder / SIGNATURE)
        owner = _fingerprint(public_key)
    except Exception as error:  # the library, cryptography and protobuf have no common base class
        raise UserError(f"{folder}: the signature is not valid for {public_key} ({first_line(error)})") from None
    names = sorted(name for name, _ in _entries(folder, None) if name != SIGNATURE)
    return (
        f"{SIGNATURE}: valid signature by the owner of {public_key} (SHA-256 {owner}) for all {len(names)} files: "
        f"{printable(', '.join(names))}{_subject(folder)}"
    )


def _ignored(signature: Path) -> list[str]:
    """Return the files that the signer left out, besides the signature and what git has."""
    import base64

    envelope = json.loads(_read(signature))["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    left_out = statement.get("predicate", {}).get("serialization", {}).get("ignore_paths") or []
    usual = (SIGNATURE, ".git", ".gitattributes", ".github", ".gitignore")
    return [str(name) for name in left_out if Path(str(name)).name not in usual]


def _fingerprint(public_key: Path) -> str:
    """Return SHA-256 of a public key in DER, in hexadecimal."""
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_public_key(public_key.read_bytes())
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).hexdigest()


def _subject(folder: Path) -> str:
    """Return which variant and revision a signed manifest states; empty without a manifest."""
    try:
        manifest = json.loads(_read(folder / MANIFEST))
        return printable(f" ({manifest['chosen']}, commit {manifest['code']['revision']})")
    except (OSError, ValueError, KeyError, TypeError):
        return ""
