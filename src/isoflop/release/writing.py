"""Write a release (``isoflop release``): the shipped files, a manifest, a signature.

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

from isoflop.project.command_output import command_output, in_git
from isoflop.release.verification import first_line, library
from isoflop.runtime.damage import check_outputs, locked_outputs
from isoflop.runtime.errors import UserError, unmade
from isoflop.runtime.files import file_sha256, write_json
from isoflop.runtime.params import read_params
from isoflop.runtime.scratch import is_scratch, move_into, scratch_folder
from isoflop.runtime.stage_code import project_code_sha256
from isoflop.shipping.choosing import SHIPPED
from isoflop.shipping.redaction import is_private, published

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


def _check_shipped(project: Path) -> None:
    """Raise UserError unless every shipped file exists and is the one of dvc.lock."""
    outputs = locked_outputs(project / "dvc.lock")
    for name in (*SHIPPED, _SUMS):
        file = project / "ship" / name
        if not file.is_file():
            raise unmade(file)
        if f"ship/{name}" not in outputs:
            raise UserError(f"{file}: not in dvc.lock; fix: `dvc repro` makes it again")
        check_outputs(file)


def _manifest(project: Path) -> dict[str, Any]:
    outputs, params = locked_outputs(project / "dvc.lock"), read_params(project / "params.yaml")
    # a hash of the exact images tells whether somebody has them, which differential privacy must not
    data = {} if is_private(params) or _is_trained_privately(project) else outputs
    choice = json.loads((project / "ship" / "choice.json").read_text())
    variants = json.loads((project / "metrics" / "variants.json").read_text())
    return {
        "chosen": choice["chosen"],
        "model": {"sha256": file_sha256(project / "ship" / "model.onnx")},
        "data": {name: max(md5s) for name, md5s in data.items() if name.startswith("data/")},  # DVC's MD5s
        "metrics": variants[choice["chosen"]],
        "params": published(params),
        "code": {"revision": _revision(project), "sha256": project_code_sha256(project)},
        "graph": {"sha256": file_sha256(project / "dvc.yaml")},
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _is_trained_privately(project: Path) -> bool:
    from isoflop.inference.onnx_files import open_classifier

    classifier = open_classifier(project / "ship" / "model.onnx")
    return bool(classifier.session.get_modelmeta().custom_metadata_map.get("privacy"))


def _check_current(project: Path) -> None:
    """Raise UserError unless parameters, code and data are those that the shipped files were made from."""
    changed = json.loads(command_output(["dvc", "status", "--json", "--with-deps", "ship"], project))
    if changed:
        raise UserError(f"ship: out of date ({', '.join(changed)} would run again); fix: run `dvc repro` first")


def _revision(project: Path) -> str | None:
    """Return the git revision, with ``-dirty`` if files differ from it; None outside git."""
    if not in_git(project):
        return None
    with contextlib.suppress(UserError):  # a repository without a commit
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
    model_signing = library()
    try:
        signer = model_signing.signing.Config().use_elliptic_key_signer(private_key=key)
        signer.sign(folder, folder.with_name(_SIGNATURE))  # inside the folder it would be one of the signed files
        os.replace(folder.with_name(_SIGNATURE), folder / _SIGNATURE)
    except (ValueError, TypeError, AttributeError) as error:  # not PEM, encrypted, or another kind of key
        raise UserError(f"{key}: not a private elliptic-curve key in PEM format ({first_line(error)})") from None
