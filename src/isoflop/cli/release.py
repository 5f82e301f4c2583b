"""Write and verify releases (``isoflop release``, ``isoflop verify``): the shipped files, a manifest, a signature.

A release is not an output of the pipeline: the git revision and the signature differ each time, so dvc.lock would
change. It does not contain the demo, which has images of the test split and third-party code that our key must not
sign.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from isoflop.project.command_output import command_output
from isoflop.runtime.damage import locked_outputs
from isoflop.runtime.dvc_md5 import dvc_md5
from isoflop.runtime.errors import UserError, unmade
from isoflop.runtime.files import file_sha256, write_json
from isoflop.runtime.params import read_params
from isoflop.runtime.scratch import is_scratch, move_into, scratch_folder
from isoflop.runtime.stage_code import project_code_sha256
from isoflop.shipping.choosing import SHIPPED

_SUMS, _MANIFEST, _SIGNATURE = "SHA256SUMS", "manifest.json", "model.sig"
_RELEASED = (*SHIPPED, _SUMS, _MANIFEST, _SIGNATURE)
_PACKAGES = ("isoflop", "torch", "onnx", "onnxruntime", "numpy", "albumentations", "pytorch-lightning", "dvc")


def write_release(project: Path, out: Path, *, key: Path | None, force: bool) -> dict[str, Any]:
    """Write the shipped files, manifest.json, SHA256SUMS and, with a key, model.sig to ``out``.

    Returns:
        The manifest: hashes of data and code, parameters, package versions, metrics.

    Raises:
        UserError: a file of ``ship/`` is missing or differs from dvc.lock, ``out`` exists, or the key is not a private
            elliptic-curve key in PEM format.
    """
    _check_shipped(project)
    _check_current(project)
    _check_out(out, force)
    out = out.resolve()  # a link to a release stays a link
    manifest = _manifest(project)
    out.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(out if out.is_dir() else out.parent, out.name) as scratch:
        folder = scratch / "release"
        folder.mkdir()
        for name in SHIPPED:
            shutil.copyfile(project / "ship" / name, folder / name)
        write_json(folder / _MANIFEST, manifest)
        sums = [f"{file_sha256(file)}  {file.name}\n" for file in sorted(folder.iterdir()) if file.name != _SUMS]
        (folder / _SUMS).write_text("".join(sums))
        if key:
            _sign(folder, key)
        move_into(folder, out)
        if not key:
            (out / _SIGNATURE).unlink(missing_ok=True)  # of the old release
    return manifest


def _check_out(out: Path, force: bool) -> None:
    """Raise UserError if ``out`` exists, unless ``force`` is set and it contains a release and nothing else."""
    if not out.exists():
        return
    if not force:
        raise UserError(f"{out}: exists already; fix: --force replaces it")
    if not all((out / name).is_file() for name in (_MANIFEST, _SUMS)):
        raise UserError(f"{out}: got no {_MANIFEST} and {_SUMS} in it, expected a release; --force replaces only those")
    others = [path.name for path in out.iterdir() if path.name not in _RELEASED and not is_scratch(path, out.name)]
    if others:
        raise UserError(f"{out}: got {min(others)!r}, which is not part of a release; fix: move it elsewhere")


def verify_release(folder: Path, public_key: Path | None) -> list[str]:
    """Return what was checked, one line per check.

    Raises:
        UserError: a file is missing, changed or not listed, or the signature is not by this key for these files.
    """
    demo = folder / "demo"
    # ship/ contains the demo, which has its own checksums; a release has no unlisted files
    separate = demo if (demo / _SUMS).is_file() and not (folder / _MANIFEST).exists() else None
    checked = [_check_sums(folder, separate), *([f"demo: {_check_sums(demo, None)}"] if separate else [])]
    if public_key is None:
        signed = (folder / _SIGNATURE).exists()
        left = f"{_SIGNATURE} is not checked without --public-key" if signed else "not signed"
        return [f"{checked[0]}; {left}", *checked[1:]]
    _check_signature(folder, public_key)
    return [*checked, f"{_SIGNATURE}: valid signature by the owner of {public_key} for all files"]


def _check_sums(folder: Path, separate: Path | None) -> str:
    """Compare the files of ``folder``, except those in ``separate``, with its checksums; return the result."""
    if not (folder / _SUMS).is_file():
        raise UserError(f"{folder}: got no {_SUMS}, expected a folder that `isoflop release` or the stage ship wrote")
    listed = {}
    for line in (folder / _SUMS).read_text(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    files = [file for file in folder.rglob("*") if not file.is_dir() and separate not in file.parents]
    present = {file.relative_to(folder).as_posix(): file for file in files}
    unlisted = sorted(set(present) - set(listed) - {_SUMS, _SIGNATURE})
    problems = [f"{name} is missing" for name in listed if name not in present]
    problems += [f"{name} is not listed in {_SUMS}" for name in unlisted]
    problems += [
        f"{name} has changed"
        for name, digest in listed.items()
        if name in present and file_sha256(present[name]) != digest
    ]
    if problems:
        raise UserError(f"{folder}: {'; '.join(problems)}")
    return f"{len(listed)} files match {_SUMS}"


def _check_shipped(project: Path) -> None:
    """Raise UserError unless every shipped file exists and is the one of dvc.lock."""
    outputs = locked_outputs(project / "dvc.lock")
    for name in (*SHIPPED, _SUMS):
        file = project / "ship" / name
        if not file.is_file():
            raise unmade(file)
        if f"ship/{name}" not in outputs:
            raise UserError(f"{file}: not in dvc.lock; fix: `dvc repro` makes it again")
        if dvc_md5(file) not in outputs[f"ship/{name}"]:
            raise UserError(f"{file}: differs from dvc.lock; fix: `dvc checkout ship` restores it")


def _manifest(project: Path) -> dict[str, Any]:
    outputs = locked_outputs(project / "dvc.lock")
    choice = json.loads((project / "ship" / "choice.json").read_text())
    variants = json.loads((project / "metrics" / "variants.json").read_text())
    return {
        "chosen": choice["chosen"],
        "model": {"sha256": file_sha256(project / "ship" / "model.onnx")},
        "data": {name: max(md5s) for name, md5s in outputs.items() if name.startswith("data/")},  # DVC's MD5s
        "metrics": variants[choice["chosen"]],
        "params": read_params(project / "params.yaml"),
        "code": {"revision": _revision(project), "sha256": project_code_sha256(project)},
        "graph": {"sha256": file_sha256(project / "dvc.yaml")},
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _check_current(project: Path) -> None:
    """Raise UserError unless parameters, code and data are those that the shipped files were made from."""
    changed = json.loads(command_output(["dvc", "status", "--json", "--with-deps", "ship"], project))
    if changed:
        raise UserError(f"ship: out of date ({', '.join(changed)} would run again); fix: run `dvc repro` first")


def _revision(project: Path) -> str | None:
    """Return the git revision, with ``-dirty`` if files differ from it; None outside git."""
    with contextlib.suppress(UserError):
        return command_output(["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], project).strip()
    return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _sign(folder: Path, key: Path) -> None:
    if not key.is_file():
        raise UserError(f"{key}: not found; expected a private key (PEM)")
    model_signing = _library()
    try:
        signer = model_signing.signing.Config().use_elliptic_key_signer(private_key=key)
        signer.sign(folder, folder.with_name(_SIGNATURE))  # inside the folder it would be one of the signed files
        os.replace(folder.with_name(_SIGNATURE), folder / _SIGNATURE)
    except (ValueError, TypeError, AttributeError) as error:  # not PEM, encrypted, or another kind of key
        raise UserError(f"{key}: not a private elliptic-curve key in PEM format ({_first_line(error)})") from None


def _check_signature(folder: Path, public_key: Path) -> None:
    if not (folder / _SIGNATURE).is_file():
        raise UserError(f"{folder}: got no {_SIGNATURE}, expected a release made with --key")
    if not public_key.is_file():
        raise UserError(f"{public_key}: not found; expected a public key (PEM)")
    model_signing = _library()
    try:
        verifier = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        verifier.set_ignore_unsigned_files(True)  # model.sig; all others are in SHA256SUMS, which is signed
        verifier.verify(folder, folder / _SIGNATURE)
    except Exception as error:  # the library, cryptography and protobuf have no common base class
        raise UserError(f"{folder}: the signature is not valid for {public_key} ({_first_line(error)})") from None


def _library() -> Any:
    try:
        import model_signing
    except ImportError:
        raise UserError("signatures need model-signing; fix: `pip install 'isoflop[sign]'`") from None
    return model_signing


def _first_line(error: Exception) -> str:
    message = (str(error).strip() or type(error).__name__).splitlines()[0]
    return message.partition(": Expected 'Digest(")[0][:200]  # raw bytes follow
