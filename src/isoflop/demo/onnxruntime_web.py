"""Download ONNX Runtime Web: the two files of the pinned npm package that run models on WebAssembly."""

from __future__ import annotations

import shutil
from pathlib import Path

from isoflop.download.archives import archive_entries, naming_damage
from isoflop.download.fetching import Remote, fetched
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import file_sha256

VERSION = "1.30.0"
# the build without WebGPU, WebNN and WebGL, half the size of the others; the script includes the .wasm loader
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
FILES = (SCRIPT, WASM)
_SHA256 = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}

PACKAGE = Remote(
    f"onnxruntime-web-{VERSION}.tgz",
    f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz",
    "sha512:"  # dist.integrity of the npm registry, as hexadecimal
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61",
)

# package.json names the license, but the package has no license file; this is ONNX Runtime's license.
_LICENSE = f"""onnxruntime-web {VERSION}, {PACKAGE.url}
of ONNX Runtime, https://github.com/microsoft/onnxruntime

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


def vendor(folder: Path) -> None:
    """Write the new folder ``folder``: the script, the .wasm and their license (MIT).

    Raises:
        UserError: the package cannot be downloaded, has another checksum, or lacks one of the files.
    """
    try:
        with fetched(PACKAGE) as archive:
            _unpack(archive, folder)
    except UserError as error:
        raise UserError(f"{error}; or disable the demo: set demo.enabled to false in params.yaml") from None
    (folder / "LICENSE").write_text(_LICENSE)


def check_runtime(folder: Path) -> None:
    """Check that ``folder`` has the files of the pinned package, which a browser will run: they may come from a cache.

    Raises:
        UserError: a file is missing or another one.
    """
    for name, sha256 in _SHA256.items():
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
            raise UserError(
                f"{folder / name}: not the file of onnxruntime-web {VERSION}; fix: `dvc repro --force onnxruntime_web`"
            )


def _unpack(archive: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    wanted = {f"package/dist/{name}": folder / name for name in FILES}
    with naming_damage(archive):
        for entry in archive_entries(archive):
            if entry.name in wanted:
                with entry.open() as source, wanted[entry.name].open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    missing = [name for name, file in wanted.items() if not file.exists()]
    if missing:
        raise UserError(f"{archive}: {', '.join(missing)} not found, expected the package onnxruntime-web {VERSION}")
