"""Commands that use and ship models: ``predict``, ``serve``, ``demo``, ``compress``, ``release``, ``verify``."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from isoflop.cli.app import SHIPPING, command
from isoflop.cli.options import Count, Flag, Json, Numbers, Port, Positive, Positives, Share
from isoflop.cli.project_folder import find_project, project_here, warn_if_stale
from isoflop.runtime.damage import check_outputs
from isoflop.runtime.errors import UserError, unmade
from isoflop.runtime.files import json_text

_PIXELS = Group("How an image becomes the model's input", sort_key=1)


@dataclass(frozen=True)
class PixelOptions:
    """Input of a model of unknown origin, for ``compress``: (pixels / scale - mean) / std.

    Attributes:
        size: side of the input in pixels, if the model does not define it.
        channels: 3 (color) or 1 (grayscale), if the model does not define it.
        scale: divisor of the pixel values.
        mean: subtracted after scaling: one value, or one per channel.
        std: divisor after that: one value, or one per channel.
        bgr: the model takes the channels blue, green, red; mean and std are in that order, too.
    """

    size: Count | None = None
    channels: Literal[1, 3] | None = None
    scale: Positive = 255.0
    mean: Numbers = field(default_factory=lambda: [0.0])
    std: Positives = field(default_factory=lambda: [1.0])
    bgr: Flag = False


@command(SHIPPING, example="isoflop predict ship/model.onnx photo.jpg --top 3")
def predict(
    model: Annotated[Path, Parameter(name="MODEL")],
    images: Annotated[list[Path], Parameter(name="IMAGES")],
    /,
    *,
    top: Count = 1,
    embeddings: Path | None = None,
    as_csv: Annotated[bool, Parameter(name="--csv", show_default=False)] = False,
    as_json: Json = False,
) -> int:
    """Classify images with an ONNX model of the pipeline, or with one that isoflop compress wrote.

    Images may have any size and mode: the model file says how to resize and normalize them. Files that cannot be read
    are reported on stderr, one line each; the others are still classified, and the exit status is 1.

    Args:
        model: ONNX file, such as ship/model.onnx.
        images: image files, or folders that are searched recursively.
        top: number of classes per image, most probable first.
        embeddings: also write the input of the model's last layer to this file (.npy): float32 [images, features], one
            row per classified image, in the order of the output.
        as_csv: print CSV with the header image,rank,class,probability.
        as_json: print a JSON object: predictions (image, top: class, probability), failed (image, error).
    """
    from isoflop.cli.predictions import show, write_embeddings
    from isoflop.inference.prediction import find_images, open_model
    from isoflop.inference.prediction import predict as classify
    from isoflop.runtime.progress import tracked

    if not model.exists() and _is_output(model):
        raise unmade(model)
    check_outputs(model)
    warn_if_stale(model)
    if as_csv and as_json:
        raise UserError("--csv: got --json, too, expected one of them")
    classifier = open_model(model, embeddings=embeddings is not None)
    found = find_images(images)
    shows_tables = sys.stdout.isatty() and not (as_json or as_csv)  # which already show the progress
    waiting = iter(found) if shows_tables else tracked(found, "predicting", "images")
    outcomes = classify(classifier, waiting, top)
    outcomes = write_embeddings(outcomes, embeddings) if embeddings else outcomes
    return 1 if show(outcomes, as_json=as_json, as_csv=as_csv) else 0


@command(
    SHIPPING,
    example="isoflop serve ship/model.onnx --port 8000",
    then="curl --data-binary @photo.jpg 'http://127.0.0.1:8000/predict?top=3'",
)
def serve(
    model: Annotated[Path, Parameter(name="MODEL")],
    /,
    *,
    port: Port = 8000,
    host: str = "127.0.0.1",
    max_images: Count = 64,
    max_mb: Positive = 32.0,
) -> None:
    """Classify images over HTTP with an ONNX model of the pipeline, or with one that isoflop compress wrote.

    POST /predict takes an image as its body, or a form (multipart/form-data) with several, and answers with the JSON of
    isoflop predict. Images of requests that arrive together run in one batch. GET /health describes the model. There is
    no encryption and no login: for other machines put a web server with both in front.

    Args:
        model: ONNX file, such as ship/model.onnx.
        port: port to listen on; 0: any free one.
        host: address to listen on; 0.0.0.0 (all) is for containers.
        max_images: most images per request.
        max_mb: largest body of a request, in megabytes.
    """
    import signal

    from isoflop.inference.http_service import Limits, open_service
    from isoflop.inference.prediction import open_model

    if not model.exists() and _is_output(model):
        raise unmade(model)
    check_outputs(model)
    warn_if_stale(model)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # how containers stop
    limits = Limits(body_bytes=int(max_mb * 1e6), images=max_images)
    with open_service(open_model(model), host, port, limits) as server:
        print(f"{model}: http://{host}:{server.server_address[1]}/predict (press Ctrl+C to stop)", flush=True)
        server.serve_forever()


@command(SHIPPING, example="isoflop demo")
def demo(folder: Path | None = None, /, *, port: Port = 0, no_browser: Flag = False) -> None:
    """Open the demo page with the shipped model in your browser.

    Serves ship/demo on 127.0.0.1. The page runs the model in the browser on images that you drop, choose or draw; no
    image leaves the browser.

    Args:
        folder: folder of the demo; default: ship/demo of the project.
        port: port to listen on; 0: any free one.
        no_browser: only serve; open no browser.
    """
    from isoflop.demo.server import serve as serve_folder

    folder = folder or project_here() / "ship" / "demo"
    check_outputs(folder)
    warn_if_stale(folder)
    serve_folder(folder, port, browser=not no_browser)


@command(
    SHIPPING,
    example="isoflop compress model.onnx --calibration photos --out small \\\n"
    "    --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225",
    then="isoflop predict small/model-int8.onnx photo.jpg",
)
def compress(
    model: Annotated[Path, Parameter(name="MODEL")],
    /,
    *,
    calibration: Path,
    out: Path,
    images: Count = 1024,
    output: str | None = None,
    classes: Path | None = None,
    pixels: Annotated[PixelOptions, Parameter(name="*", group=_PIXELS)] = PixelOptions(),
    method: Literal["auto", "minmax", "percentile", "entropy"] = "auto",
    activations: Literal["auto", "static", "dynamic"] = "auto",
    max_changed: Annotated[Share, Parameter(alias="--max-flips")] = 0.01,
    portable: Flag = False,
    force: Flag = False,
    as_json: Json = False,
) -> None:
    """Quantize any ONNX image classifier to INT8 and measure the effect.

    Uses the range estimate with the smallest error and keeps layers in float that change too many predictions. Prints
    the error of every layer, the speed-up in ONNX Runtime on this machine and what prevents a larger one. Half of the
    images calibrate the model, the other half measure the changed predictions.

    Args:
        model: ONNX file of a classifier of square images; input float32, float16 or uint8 [batch, C, H, W] or
            [batch, H, W, C]. Weights may lie in files next to it.
        calibration: folder of images, searched recursively.
        out: folder for the results.
        images: maximum number of images to read.
        output: name of the output with the scores, if the model has several.
        classes: text file with one class name per line, for isoflop predict; default: 0, 1, 2, …
        method: range estimate; auto: the one with the smallest error.
        activations: ranges from calibration (static), or found in every run for linear layers (dynamic); auto: static,
            for transformers the faster one.
        max_changed: maximum fraction of predictions that may change.
        portable: 7-bit weights for x86 processors without VNNI.
        force: write into a folder that is not empty.
        as_json: print the content of compress.json.
    """
    from isoflop.cli.compression import show
    from isoflop.compression.foreign_inputs import PixelChoices
    from isoflop.compression.foreign_models import compress as quantize_model
    from isoflop.compression.quantization import Quantize

    params = Quantize(
        activations=activations,
        method=method,
        percentile=99.99,
        calibration_images=images,
        max_accuracy_drop=max_changed,
        keep_last_layer_float=False,
        portable=portable,
    )
    check_outputs(model)
    warn_if_stale(model)
    names = classes.read_text(encoding="utf-8").splitlines() if classes else None
    choices = PixelChoices(**asdict(pixels), output=output, classes=names)
    facts = quantize_model(model, calibration, out, params, choices, force=force)
    if as_json:
        print(json_text(facts))
    else:
        show(facts, out)


@command(
    SHIPPING,
    example="openssl ecparam -name prime256v1 -genkey -noout -out key.pem\n  isoflop release --key key.pem",
    then="isoflop verify release",
)
def release(
    *, out: Path = Path("release"), key: Path | None = None, force: Flag = False, as_json: Json = False
) -> None:
    """Copy the shipped files to a folder with a manifest, and sign them.

    The manifest has the hashes of data, model and code, the parameters, package versions and metrics; SHA256SUMS has
    the checksums. With a key the release is signed in the format of OpenSSF model-signing.

    Args:
        out: folder for the release.
        key: private elliptic-curve key (PEM); never commit it.
        force: replace an existing release.
        as_json: print the content of manifest.json.
    """
    from isoflop.release.writing import write_release

    manifest = write_release(project_here(), out, key=key, force=force)
    if as_json:
        print(json_text(manifest))
        return
    revision = manifest["code"]["revision"]
    print(f"{out}: {manifest['chosen']}, {f'commit {revision}' if revision else 'not in git'}, "
          f"{'signed' if key else 'not signed'}")  # fmt: skip


@command(
    SHIPPING,
    example="openssl ec -in key.pem -pubout -out public.pem\n  isoflop verify release --public-key public.pem",
)
def verify(folder: Path, /, *, public_key: Path | None = None, as_json: Json = False) -> None:
    """Check that the files of a release, or of ship/, are unchanged.

    Compares every file with SHA256SUMS and reports missing, changed and unlisted files, links, pipes and devices. With
    a public key also checks that its owner signed exactly these files. The exit status is 1 if a check fails.

    Args:
        folder: a release, or ship/.
        public_key: public elliptic-curve key (PEM) of the signer.
        as_json: print a JSON object: folder, checked (one line per check that passed).
    """
    from isoflop.release.verification import verify_release

    checked = verify_release(folder, public_key)
    print(json_text({"folder": str(folder), "checked": checked}) if as_json else "\n".join(checked))


def _is_output(model: Path) -> bool:
    """Return whether ``model`` is a path of the project that the pipeline writes."""
    with contextlib.suppress(UserError):
        project = find_project(Path.cwd())
        return any(model.resolve().is_relative_to(project / folder) for folder in ("ship", "onnx"))
    return False
