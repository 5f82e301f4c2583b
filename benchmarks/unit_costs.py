"""Measure time and bytes per image from the source to the remote: the numbers in docs/scale.md.

``python -m benchmarks.unit_costs [--images 4000] [--side 256]`` creates JPEG images of smoothed noise in two folders,
runs the stages download and prepare (preset images) in a temporary clone, pushes their outputs to a folder and to an
S3 server on loopback, and fetches them into an empty cache. It prints a line of JSON for each step; all times include
the start of DVC.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.faults import clone_project
from isoflop.training.cpu import processor
from tests.remote_servers import ACCESS_KEY, SECRET_KEY, s3


def timed(clone: Path, *command: str) -> float:
    """Run a DVC command; return its duration in seconds."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "dvc", *command], cwd=clone, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def peak_mb() -> int:
    """Return the peak memory in MiB of the largest child process that has ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024


def size(folder: Path) -> tuple[int, int]:
    """Return the total bytes and the number of the files in a folder."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files), len(files)


def draw(folder: Path, images: int, side: int) -> None:
    rng = np.random.default_rng(0)
    for index in range(images):
        target = folder / f"class-{index % 2}" / f"{index}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        noise = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))
        noise.filter(ImageFilter.GaussianBlur(2)).save(target, quality=90)


def report(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--side", type=int, default=256, help="height and width in pixels (default: 256)")
    options = parser.parse_args()
    os.environ |= {"DVC_NO_ANALYTICS": "1", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                   "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}  # fmt: skip
    report(device=processor()[0], cores=os.cpu_count(), images=options.images, side=options.side)
    with tempfile.TemporaryDirectory() as scratch:
        clone = clone_project(Path(scratch), preset="images")
        draw(clone / "data" / "images", options.images, options.side)
        source, files = size(clone / "data" / "images")
        report(source_bytes_an_image=source // options.images)
        for stage, made in (("download", "data/raw"), ("prepare", "data/prepared")):
            seconds = timed(clone, "repro", "--single-item", stage)
            facts = {"seconds": round(seconds, 2), "images_per_s": round(options.images / seconds)}
            report(stage=stage, **facts, peak_mb=peak_mb(), bytes_an_image=size(clone / made)[0] // options.images)
        report(nothing_to_do_s=round(timed(clone, "repro", "prepare"), 2))
        content = (clone / "data" / "raw" / "images.bin").read_bytes()
        began = time.monotonic()
        hashlib.md5(content, usedforsecurity=False).hexdigest()
        report(md5_mb_per_s=round(len(content) / 1e6 / (time.monotonic() - began)))
        total, objects = size(clone / ".dvc" / "cache" / "files")
        (Path(scratch) / "buckets" / "team").mkdir(parents=True)
        with s3(Path(scratch) / "buckets") as endpoint:
            for name, url in (("folder", str(Path(scratch) / "remote")), ("s3", "s3://team/isoflop")):
                timed(clone, "remote", "add", name, url)
                if name == "s3":
                    timed(clone, "remote", "modify", name, "endpointurl", endpoint)
                push = timed(clone, "push", "--remote", name)
                shutil.rmtree(clone / ".dvc" / "cache")
                pull = timed(clone, "fetch", "--remote", name)
                rates = {"push_mb_per_s": round(total / 1e6 / push), "fetch_mb_per_s": round(total / 1e6 / pull)}
                report(remote=name, **rates, bytes=total, objects=objects, source_files=files)


if __name__ == "__main__":
    main()
