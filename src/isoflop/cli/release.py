"""``isoflop release`` and ``isoflop verify``: what ships, with what it was made of, signed so that a change shows.

A release is a copy of what ships beside a manifest. It is no output of the pipeline: the revision of the code and a
signature are other bytes each time, which would make dvc.lock so. The demo is not in it: that holds images of the test
split, which are not for everybody, and a program of others that no key of ours should vouch for.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from isoflop.project.command_output import command_output
from isoflop.runtime.damage import locked_outputs
from isoflop.runtime.dvc_md5 import dvc_md5
from isoflop.runtime.errors import UserError, unmade
from isoflop.runtime.files import file_sha256, write_json
from isoflop.runtime.params import read_params
from isoflop.runtime.stage_code import project_code_sha256
from isoflop.shipping.choosing import SHIPPED

_SUMS, _MANIFEST, _SIGNATURE = "SHA256SUMS", "manifest.json", "model.sig"
_PACKAGES = ("isoflop", "torch", "onnx", "onnxruntime", "numpy", "albumentations", "pytorch-lightning", "dvc")


def release(project: Path, out: Path, *, key: Path | None, force: bool) -> dict[str, Any]:
    """Write ``out``: the files that ship, manifest.json, SHA256SUMS of them, and model.sig where there is a key.

    Returns:
        What the manifest says: data and code by their hashes, parameters, versions, what was measured.

    Raises:
        UserError: a file of ``ship/`` is missing or is not what dvc.lock says, ``out`` holds something, or the key is
            no private key of an elliptic curve in PEM.
    """
    ship = project / "ship"
    outputs = locked_outputs(project / "dvc.lock")
    for name in (*SHIPPED, _SUMS):
        if not (ship / name).is_file():
            raise unmade(ship / name)
        if f"ship/{name}" not in outputs:
            raise UserError(f"{ship / name}: found nothing of it in dvc.lock; `dvc repro` makes it anew")
        if dvc_md5(ship / name) not in outputs[f"ship/{name}"]:
            raise UserError(f"{ship / name}: not what dvc.lock says; `dvc checkout ship` restores it")
    _check_current(project)
    if out.exists() and not force:
        raise UserError(f"{out}: there already; --force replaces it")
    if out.exists() and not all((out / name).is_file() for name in (_MANIFEST, _SUMS)):
        raise UserError(f"{out}: no release, so --force does not replace it; expected {_MANIFEST} and {_SUMS} in it")
    manifest = _manifest(project, outputs)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        folder = Path(scratch) / out.name
        folder.mkdir()
        for name in SHIPPED:
            shutil.copyfile(ship / name, folder / name)
        write_json(folder / _MANIFEST, manifest)
        sums = [f"{file_sha256(file)}  {file.name}\n" for file in sorted(folder.iterdir()) if file.name != _SUMS]
        (folder / _SUMS).write_text("".join(sums))
        if key:
            _sign(folder, key)
        if out.exists():
            shutil.rmtree(out)
        os.replace(folder, out)
    return manifest


def verify(folder: Path, public_key: Path | None) -> list[str]:
    """What was checked, a line each.

    Raises:
        UserError: a file is missing, altered or not listed, or the signature is not one of this key over these files.
    """
    demo = folder / "demo"
    # ship/ has the demo in it, which lists its own files; in a release nothing goes unlisted
    apart = demo if (demo / _SUMS).is_file() and not (folder / _MANIFEST).exists() else None
    said = [_check_sums(folder, apart), *([f"demo: {_check_sums(demo, None)}"] if apart else [])]
    if public_key is None:
        signed = (folder / _SIGNATURE).exists()
        left = f"{_SIGNATURE} is not checked without --public-key" if signed else "it is not signed"
        return [f"{said[0]}; {left}", *said[1:]]
    _check_signature(folder, public_key)
    return [*said, f"{_SIGNATURE} is a signature by the owner of {public_key} over all of them"]


def _check_sums(folder: Path, apart: Path | None) -> str:
    """What to say of a folder whose files, but for those in ``apart``, are what its checksums say."""
    if not (folder / _SUMS).is_file():
        raise UserError(f"{folder}: found no {_SUMS}, expected what `isoflop release` or the stage ship wrote")
    listed = {}
    for line in (folder / _SUMS).read_text(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    files = [file for file in folder.rglob("*") if not file.is_dir() and apart not in file.parents]
    there = {file.relative_to(folder).as_posix(): file for file in files}
    loose = sorted(set(there) - set(listed) - {_SUMS, _SIGNATURE})
    amiss = [f"{name} is missing" for name in listed if name not in there]
    amiss += [f"{name} is not listed in {_SUMS}" for name in loose]
    amiss += [f"{name} is altered" for name in listed if name in there and file_sha256(there[name]) != listed[name]]
    if amiss:
        raise UserError(f"{folder}: {'; '.join(amiss)}")
    return f"{len(listed)} files are what {_SUMS} says"


def _manifest(project: Path, outputs: dict[str, set[str]]) -> dict[str, Any]:
    choice = json.loads((project / "ship" / "choice.json").read_text())
    variants = json.loads((project / "metrics" / "variants.json").read_text())
    return {
        "chosen": choice["chosen"],
        "model": {"sha256": file_sha256(project / "ship" / "model.onnx")},
        "data": {name: max(md5s) for name, md5s in outputs.items() if name.startswith("data/")},  # MD5s of DVC
        "metrics": variants[choice["chosen"]],
        "params": read_params(project / "params.yaml"),
        "code": {"revision": _revision(project), "sha256": project_code_sha256(project)},
        "graph": {"sha256": file_sha256(project / "dvc.yaml")},
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _check_current(project: Path) -> None:
    """That parameters, code and data are those that what ships was made with."""
    changed = json.loads(command_output(["dvc", "status", "--json", "--with-deps", "ship"], project))
    if changed:
        raise UserError(f"ship: not made of what is here: {', '.join(changed)} would run again; `dvc repro` first")


def _revision(project: Path) -> str | None:
    """Of git, with ``-dirty`` where files differ from it; None outside git."""
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
        raise UserError(f"{key}: not found; expected a private key in PEM")
    model_signing = _library()
    try:
        signer = model_signing.signing.Config().use_elliptic_key_signer(private_key=key)
        signer.sign(folder, folder.with_name(_SIGNATURE))  # in the folder it would count as one of its files
        os.replace(folder.with_name(_SIGNATURE), folder / _SIGNATURE)
    except (ValueError, TypeError, AttributeError) as error:  # of what is no PEM, is encrypted, or another kind of key
        raise UserError(f"{key}: not a private key of an elliptic curve in PEM ({_first_line(error)})") from None


def _check_signature(folder: Path, public_key: Path) -> None:
    if not (folder / _SIGNATURE).is_file():
        raise UserError(f"{folder}: found no {_SIGNATURE}, expected a release made with --key")
    if not public_key.is_file():
        raise UserError(f"{public_key}: not found; expected a public key in PEM")
    model_signing = _library()
    try:
        verifier = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        verifier.set_ignore_unsigned_files(True)  # the signature itself; SHA256SUMS, which is signed, knows all others
        verifier.verify(folder, folder / _SIGNATURE)
    except Exception as error:  # of the library, cryptography and protobuf, which have no common base
        raise UserError(f"{folder}: the signature does not hold for {public_key} ({_first_line(error)})") from None


def _library() -> Any:
    try:
        import model_signing
    except ImportError:
        raise UserError("signatures take model-signing: `pip install 'isoflop[sign]'`") from None
    return model_signing


def _first_line(error: Exception) -> str:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return said.partition(": Expected 'Digest(")[0][:200]  # bytes that tell nobody anything
