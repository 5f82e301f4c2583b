"""The arguments of every ``isoflop`` command, and what its help says."""

from __future__ import annotations

import argparse
import textwrap
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

from isoflop.cli.argument_types import bootstraps, count, devices, finite, natural, port, positive, share
from isoflop.runtime.command_help import CommandParser, WholeParser, epilog

Commands: TypeAlias = "argparse._SubParsersAction[CommandParser]"


def parser() -> WholeParser:
    """Of the whole command line; `command` of what it parses is None where none is named."""
    whole = WholeParser(
        prog="isoflop",
        usage="isoflop COMMAND ...",
        description="How big should my image classifier be, and how small can I ship it?\n"
        "`dvc repro` runs the pipeline; these commands stand beside it.",
    )
    whole.add_argument("--version", action="version", version=f"isoflop {version('isoflop')}")
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", prog="isoflop", parser_class=CommandParser)
    whole.commands = commands

    _add_init(commands)
    preset = _command(
        commands,
        "preset",
        "list the presets, or write one to params.yaml",
        "Write presets/NAME.yaml to params.yaml, or list the presets when no NAME is given. A params.yaml that is "
        "neither in git's HEAD nor a preset is left alone.",
        "isoflop preset cifar10 && dvc repro",
    )
    preset.add_argument("name", nargs="?", metavar="NAME", help="a preset; without it they are listed")
    preset.add_argument("--force", action="store_true", help="overwrite a params.yaml that is kept nowhere else")
    _add_json(preset, "presets: of each name and description; or applied: the name")

    check = _command(
        commands,
        "check",
        "validate params.yaml before any stage runs",
        "Validate all of params.yaml: unknown sections and keys, types, ranges, and the augmentation policy. Every "
        "mistake is named in one line, and what is allowed but hardly meant in a warning.",
        "isoflop check && dvc repro",
    )
    _add_json(check, "file, stages: how many it fits")

    _add_doctor(commands)
    _add_predict(commands)
    _add_demo(commands)
    _add_compress(commands)
    _add_plan(commands)
    _add_fit(commands)
    _add_launch(commands)
    _add_release(commands)

    summary = _command(
        commands,
        "summary",
        "show what the last `dvc repro` came to",
        "Show the variants with accuracy, size and latency, what the scaling law says, and where the report is.",
        "dvc repro && isoflop summary",
    )
    _add_json(summary, "variants, latency_of, scaling, forecast, report")
    _add_report(commands)
    _add_savings(commands)
    _add_completion(commands)
    return whole


def _add_init(commands: Commands) -> None:
    init = _command(
        commands,
        "init",
        "lay a new project, for your own images",
        "Lay a project in a new folder: params.yaml for the images of FOLDER (one folder a class, train, val and test "
        "above if you have splits), dvc.yaml that runs this installed package, git and DVC repositories, and a first "
        "commit. Says what it found, what it chose and why.",
        "isoflop init fruit --images photos && cd fruit && dvc repro",
    )
    init.add_argument("folder", type=Path, metavar="DIR", help="new, or empty")
    init.add_argument("--images", type=Path, metavar="FOLDER", help="or a zip or tar; without it a preset's data set")
    init.add_argument("--copy", action="store_true", help="the images into DIR, where DVC keeps and shares them")
    init.add_argument("--quick", action="store_true", help="for a first look: fewer epochs, runs and variants")
    init.add_argument("--preset", metavar="NAME", help="to start from (default: images; without images digits)")

    upgrade = _command(
        commands,
        "upgrade",
        "bring a project to the installed version of isoflop",
        "Write dvc.yaml and code.yaml of a project that `isoflop init` made for the installed version; `dvc repro` "
        "then runs again the stages whose code is another. Changes of your own in dvc.yaml are kept where they can "
        "be, and never lost unasked.",
        "pip install --upgrade isoflop && isoflop upgrade && dvc repro",
    )
    upgrade.add_argument("--force", action="store_true", help="write dvc.yaml anew over changes that git has")


def _add_doctor(commands: Commands) -> None:
    doctor = _command(
        commands,
        "doctor",
        "say what this machine and this project lack, with the cure",
        "Look at Python and its packages, torch and its device, params.yaml, git and its identity, DVC and its remote, "
        "the disk, and trainings that were cut off. The exit status is 1 where the pipeline cannot run.",
        "isoflop doctor",
    )
    _add_json(doctor, "findings: of each about, status (ok, warn, fail), found, cure")
    doctor.add_argument("--cache", action="store_true", help="read all of DVC's cache again: is each file whole?")
    doctor.add_argument("--remove-damaged", action="store_true", help="and delete those that are not")


def _add_report(commands: Commands) -> None:
    report = _command(
        commands,
        "report",
        "say where the report is, or put runs side by side on a page",
        "Without options: the path of the report that `dvc repro` wrote. With --compare: a page of revisions and "
        "experiments side by side: the parameters that differ, the metrics with their differences and intervals, the "
        "training curves and the trade-offs. One alone is set beside the workspace. Nothing is run or checked out.",
        "isoflop report --compare main my-experiment",
    )
    report.add_argument("--compare", nargs="+", metavar="REV", help="revisions of git, or experiments of DVC")
    report.add_argument(
        "--out", type=Path, metavar="FILE.html", help="of --compare (default: compare.html beside the report)"
    )


def _add_savings(commands: Commands) -> None:
    savings = _command(
        commands,
        "savings",
        "say what of the results was computed here, and what a cache spared",
        "For each stage of dvc.lock: whether its outputs were computed in this workspace, in how many seconds, or came "
        "from a cache, and the FLOPs of the trainings in it that were so not spent again.",
        "dvc repro --pull && isoflop savings",
    )
    _add_json(savings, "stages, and totals")


def _add_predict(commands: Commands) -> None:
    predict = _command(
        commands,
        "predict",
        "classify images with an ONNX model of the pipeline",
        "Classify images of any size or mode with an ONNX model that the pipeline made. How an image is resized and "
        "normalized is read from the model. A folder stands for all images in it, however deep. What cannot be read is "
        "named on stderr, a line each; the others are predicted all the same, and the exit status is then 1.",
        "isoflop predict ship/model.onnx photo.jpg --top 3",
    )
    predict.add_argument("model", type=Path, metavar="MODEL.onnx", help="such as ship/model.onnx")
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="a file, or a folder: all images in it")
    predict.add_argument("--top", type=count, default=1, metavar="K", help="classes an image, best first (default: 1)")
    _add_json(predict, "predictions: of each image, top (a list of class, probability); failed: image, error")


def _add_demo(commands: Commands) -> None:
    demo = _command(
        commands,
        "demo",
        "try the shipped model in the browser",
        "Serve ship/demo on 127.0.0.1 and open it: a page that runs the shipped model in the browser on images that "
        "you drop, choose or draw. No image leaves the browser.",
        "isoflop demo",
    )
    demo.add_argument("folder", type=Path, nargs="?", metavar="FOLDER", help="a copy of it (default: ship/demo)")
    demo.add_argument("--port", type=port, default=0, help="to listen on (default: 0, any that is free)")
    demo.add_argument("--no-browser", action="store_true", help="serve only")


def _add_compress(commands: Commands) -> None:
    compress = _command(
        commands,
        "compress",
        "quantize any ONNX image classifier, and measure what it brought",
        "Quantize an ONNX classifier of square images, the pipeline's or anyone's, to 8 bits: ranges by the method "
        "with the least error, layers that change too many predictions left in float. Says what every layer costs, how "
        "much faster it runs in ONNX Runtime here, and what keeps it from running faster. Half of the images "
        "calibrate, the others judge.",
        "isoflop compress model.onnx --calibration photos --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 --out small",
    )
    compress.add_argument("model", type=Path, metavar="MODEL.onnx", help="input float32 or uint8 [batch, C, H, W]")
    compress.add_argument("--calibration", type=Path, required=True, metavar="FOLDER", help="of images, however deep")
    compress.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="to write to; made if missing")
    compress.add_argument("--images", type=count, default=1024, metavar="N", help="at most so many (default: 1024)")
    compress.add_argument("--size", type=count, metavar="PIXELS", help="side, where the model leaves it open")
    compress.add_argument("--scale", type=positive, default=255.0, help="pixels are divided by (default: 255)")
    compress.add_argument(
        "--mean", type=finite, nargs="+", default=[0.0], help="then less this, by channel (default: 0)"
    )
    compress.add_argument("--std", type=positive, nargs="+", default=[1.0], help="then over this (default: 1)")
    compress.add_argument("--method", choices=("auto", "minmax", "percentile", "entropy"), default="auto")
    compress.add_argument(
        "--max-flips", type=share, default=0.01, metavar="SHARE", help="of predictions that may change"
    )
    compress.add_argument("--portable", action="store_true", help="for x86 processors without VNNI: weights of 7 bits")
    compress.add_argument("--force", action="store_true", help="write into a folder that holds something")
    _add_json(compress, "what compress.json holds")


def _add_plan(commands: Commands) -> None:
    plan = _command(
        commands,
        "plan",
        "ask the scaling law for the best size and its loss",
        "Ask the law that `dvc repro` fitted: the size and the samples of least loss for a budget of training FLOPs; "
        "or for the least budget that reaches a loss; or for which a model of so many parameters, or one that answers "
        "so fast (by the benchmark's times), is the best size. With intervals, and with what speaks against them.",
        "isoflop plan --flops 1e12",
    )
    asked = plan.add_mutually_exclusive_group(required=True)
    asked.add_argument("--flops", type=positive, metavar="C", help="budget of training FLOPs")
    asked.add_argument("--loss", type=positive, metavar="L", help="validation loss (NLL) to reach")
    asked.add_argument("--parameters", type=positive, metavar="N", help="size of the model")
    asked.add_argument(
        "--latency-ms", type=positive, metavar="T", help="median latency, in the report's headline setting"
    )
    _add_json(plan, "the best size, its loss and intervals, diagnostics")


def _add_fit(commands: Commands) -> None:
    fit = _command(
        commands,
        "fit",
        "fit scaling laws to your own table of runs",
        "Fit scaling laws to a table of training runs, CSV or Parquet, a row a run: laws and their intervals, the "
        "largest size held out and predicted, the best size a budget, what to run next, and what speaks against all of "
        "it. Writes figures, JSON and CSV to a folder. Name the columns that you have; laws follow from what varies.",
        "isoflop fit runs.csv --parameters N --samples tokens --loss val_loss --out scaling",
    )
    fit.add_argument("table", type=Path, metavar="RUNS.csv", help="or RUNS.parquet")
    for name, what in (
        ("parameters", "parameters of the model"),
        ("samples", "unique training samples (or tokens)"),
        ("seen", "samples seen in training, if it repeats them"),
        ("epochs", "passes over the samples, in place of --seen"),
        ("flops", "training FLOPs; without it 6 x parameters x samples seen"),
        ("seed", "seed: runs that differ in it alone tell the noise"),
        ("accuracy", "accuracy, a share from 0 to 1"),
    ):
        fit.add_argument(f"--{name}", metavar="COLUMN", help=f"column of the {what}")
    fit.add_argument("--loss", metavar="COLUMN", default="loss", help="column of the loss (default: loss)")
    fit.add_argument("--where", metavar="COLUMN=VALUE", action="append", help="keep such rows alone; may be repeated")
    fit.add_argument("--chance-loss", type=positive, metavar="L", help="leave out runs no better than this by a tenth")
    fit.add_argument(
        "--objective",
        choices=("huber", "l1", "mse", "least_squares"),
        default="huber",
        help="huber (of log L, delta 0.001; default), l1 or mse of log L, least_squares of L",
    )
    fit.add_argument("--bootstraps", type=bootstraps, default=1000, metavar="R", help="default: 1000")
    fit.add_argument("--bootstrap-seed", type=natural, default=0, metavar="SEED", help="default: 0")
    fit.add_argument("--out", type=Path, default=Path("scaling"), metavar="FOLDER", help="default: scaling")
    fit.add_argument("--force", action="store_true", help="write into a folder that holds files")
    _add_json(fit, "what scaling.json holds")


def _add_release(commands: Commands) -> None:
    release = _command(
        commands,
        "release",
        "copy ship/ to a folder with a manifest, and sign it",
        "Copy what ships beside a manifest (hashes of data, model and code, parameters, versions, what was measured) "
        "and checksums. With a private key of an elliptic curve in PEM, signed as the OpenSSF's model-signing does.",
        "openssl ecparam -name prime256v1 -genkey -noout -out key.pem && isoflop release --key key.pem",
    )
    release.add_argument("--out", type=Path, default=Path("release"), metavar="FOLDER", help="default: release")
    release.add_argument("--key", type=Path, metavar="KEY.pem", help="private; never put it into git")
    release.add_argument("--force", action="store_true", help="replace the folder")
    _add_json(release, "what manifest.json holds")

    verify = _command(
        commands,
        "verify",
        "check a release, or ship/, for altered files",
        "Check that every file is what SHA256SUMS says and that there is no other; with a public key, also that its "
        "owner has signed them. The exit status is 1 where not.",
        "openssl ec -in key.pem -pubout -out public.pem && isoflop verify release --public-key public.pem",
    )
    verify.add_argument("folder", type=Path, metavar="FOLDER")
    verify.add_argument("--public-key", type=Path, metavar="PUBLIC.pem")
    _add_json(verify, "folder, checked: what holds, a line each")


def _add_launch(commands: Commands) -> None:
    launch = _command(
        commands,
        "launch",
        "run independent stages at the same time, here or on a Ray cluster",
        "Run stages (all, if none is named) and what they need as Ray tasks, those that do not wait for each other at "
        "the same time, each in a copy of the project of its own. Results meet in DVC's cache, on a cluster in the "
        "default remote; then `dvc repro` has nothing to execute. The exit status is 1 where a stage failed.",
        "isoflop launch --jobs 2 scaling",
    )
    launch.add_argument("stages", nargs="*", metavar="STAGE", help="such as scaling or sweep@32")
    launch.add_argument(
        "--address", help="of a Ray cluster (its nodes have isoflop installed); without it, this machine"
    )
    launch.add_argument("--jobs", type=count, metavar="N", help="stages at a time, here (default: as the cores hold)")
    launch.add_argument("--cpus", type=count, default=1, metavar="N", help="cores and threads a stage (default: 1)")
    launch.add_argument("--gpus", type=devices, default=0, metavar="X", help="a stage; may be a share (default: 0)")


def _add_completion(commands: Commands) -> None:
    completion = _command(
        commands,
        "completion",
        "print the code with which a shell completes isoflop's commands",
        "Print a script for the shell that completes commands, options, choices and the names of files.",
        'eval "$(isoflop completion bash)"        # in ~/.bashrc; zsh: in ~/.zshrc after compinit\n'
        "  isoflop completion fish | source          # in ~/.config/fish/config.fish",
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish", "tcsh"))


def _add_json(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("--json", action="store_true", help=f"print a JSON object: {what}")


def _command(commands: Commands, name: str, short: str, long: str, example: str) -> CommandParser:
    formatter = argparse.RawDescriptionHelpFormatter
    wrapped = textwrap.fill(long, 100)
    return commands.add_parser(
        name, help=short, description=wrapped, epilog=epilog(name, example), formatter_class=formatter
    )
