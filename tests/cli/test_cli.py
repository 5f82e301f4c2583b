"""The command ``isoflop`` as a user meets it: help, exit statuses, one line for each mistake."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from pydantic import Field

from isoflop.cli import main as cli
from isoflop.cli.app import STATUSES, app
from isoflop.data.augmentation import Augment
from isoflop.data.cleaning import Prepare
from isoflop.download.sources import Data
from isoflop.models.architecture import ModelParams
from isoflop.project.checking import check
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import Section, key
from tests.conftest import ROOT, commit, run_command

COMMANDS = sorted(name for name in app if not name.startswith("-"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Example:\n" in shown and f"isoflop {command}" in shown.partition("Example:\n")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_described(command: str) -> None:
    arguments = app[command].assemble_argument_collection(parse_docstring=True)
    assert [argument.name for argument in arguments if argument.show and not argument.parameter.help] == []


def test_the_help_groups_the_commands_and_documents_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "─ Commands ─" not in shown, "a command without a group"
    for command in COMMANDS:
        assert len(re.findall(rf"^│ {command} ", shown, re.MULTILINE)) == 1
    for status, meaning in STATUSES.items():
        assert re.search(rf"^ +{status}  {re.escape(meaning)}$", shown, re.MULTILINE)
    assert max(map(len, shown.splitlines())) <= 112
    documented = (ROOT / "docs/commands.md").read_text()
    assert all(f"| {status} | {meaning} |" in documented for status, meaning in STATUSES.items())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ["plan"],
            "error: isoflop plan: Received 0 arguments. Exactly 1 of {--flops, --loss, --parameters, --latency-ms, ",
        ),
        (["plan", "--flops", "1", "--loss", "2"], "error: isoflop plan: Received 2 arguments: {--flops, --loss}. "),
        (["plan", "--flops", "x"], "error: isoflop plan: --flops: got 'x', expected a positive number; "),
        (["plan", "--flops", "1", "--jsn"], "error: isoflop plan: Unknown option: --jsn. Did you mean --json?; "),
        (["predcit"], 'error: isoflop: Unknown command "predcit". Did you mean "predict"?; see `isoflop --help`'),
        (["zzz"], 'error: isoflop: Unknown command "zzz"; see `isoflop --help`'),
        (
            ["fit", "runs.csv", "--objective", "hubr"],
            "error: isoflop fit: --objective: got 'hubr', expected one of huber, l1, mse, least_squares; "
            "did you mean 'huber'?; see `isoflop fit --help`",
        ),
        (
            ["predict", "m.onnx", "i.png", "--top", "0"],
            "error: isoflop predict: --top: got '0', expected an integer of 1 or more; ",
        ),
        (["predict", "m.onnx", "i.png", "--top", "2.7"], "error: isoflop predict: --top: got '2.7', expected an "),
        (["predict", "m.onnx"], "error: isoflop predict: IMAGES: got no value, expected one; see `isoflop predict --"),
        (["compress", "m.onnx", "--out", "o"], "error: isoflop compress: --calibration: got no value, expected one; "),
        (
            ["compress", "m.onnx", "--calibration", "c", "--out", "o", "--std", "1", "-1"],
            "error: isoflop compress: --std: got '-1', expected a positive ",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line(command: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(said) and shown.count("\n") == 1


def test_options_take_several_values_and_negative_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: dict[str, object] = {}

    def compress(*arguments: object, **options: object) -> dict[str, object]:
        given.update(vars(arguments[4]))
        return {}

    monkeypatch.setattr("isoflop.compression.foreign_models.compress", compress)
    images = ["--calibration", str(tmp_path), "--out", str(tmp_path)]
    line = ["compress", "m.onnx", "--mean", "-0.4", "0.4", "-.5", *images, "--max-flips", "0.5", "--json"]
    assert cli.main(line) == 0
    assert (given["mean"], given["std"], given["size"]) == ([-0.4, 0.4, -0.5], [1.0], None)


def test_a_bug_has_a_status_of_its_own_and_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("isoflop.cli.summary.print_summary", lambda project, as_json: 1 / 0)
    assert cli.main(["summary"]) == 70
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback") and "ZeroDivisionError" in shown


JSON: dict[str, tuple[list[str], set[str]]] = {
    "preset": ([], {"presets"}),
    "check": ([], {"file", "stages"}),
    "doctor": ([], {"findings"}),
    "summary": ([], {"variants", "latency_of", "scaling", "forecast", "report"}),
    "savings": ([], {"stages", "ran_here", "restored"}),
    "plan": (["--flops", "1e12"], {"loss", "parameters", "flops"}),
    "verify": (["ship"], {"folder", "checked"}),
    "predict": (["ship/model.onnx", "digit.png"], {"predictions", "failed"}),
}


@pytest.mark.parametrize("command", JSON)
def test_json_is_one_object_and_nothing_else(smoke: Path, command: str, tmp_path: Path) -> None:
    arguments, keys = JSON[command]
    Image.new("L", (8, 8), 128).save(tmp_path / "digit.png")
    arguments = [str(tmp_path / item) if item.endswith(".png") else item for item in arguments]
    done = run_command("isoflop", command, *arguments, "--json", cwd=smoke)
    found = json.loads(done.stdout)
    assert isinstance(found, dict) and keys <= set(found) and done.stderr == ""


@pytest.mark.parametrize("command", [name for name in JSON if name not in ("predict", "doctor")])
def test_under_json_an_error_is_still_one_line(command: str, tmp_path: Path) -> None:
    done = run_command("isoflop", command, *JSON[command][0], "--json", cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_bash_completes_commands_options_and_choices() -> None:
    """In a real bash: what the function that is registered for isoflop offers for a line."""
    script = run_command("isoflop", "completion", "bash", cwd=ROOT).stdout

    def offered(*words: str) -> set[str]:
        line = " ".join(f"'{word}'" for word in ("isoflop", *words))
        ask = (
            f"COMP_WORDS=({line})\nCOMP_CWORD={len(words)}\n"
            "set -- $(complete -p isoflop)\n"
            'while [ "$1" != -F ]; do shift; done\n'
            '"$2" isoflop\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
        )
        done = run_command("bash", "--norc", "-c", f"{script}\n{ask}", cwd=ROOT)
        return {word.strip() for word in done.stdout.splitlines()}

    assert {"plan", "preset", "predict"} <= offered("p") and "summary" not in offered("p")
    assert {"--flops", "--json"} <= offered("plan", "--")
    assert {"minmax", "entropy"} <= offered("compress", "--method", "")
    assert "README.md" in offered("predict", "REA")
    assert {"digits", "smoke"} <= offered("preset", "") and offered("preset", "sm") == {"smoke"}
    assert offered("init", "new", "--preset", "cifar10-") == {"cifar10-96"}


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_fish_completes_commands_options_and_presets() -> None:
    def offered(line: str) -> set[str]:
        ask = f"isoflop completion fish | source; complete -C '{line}'"
        done = run_command("fish", "--no-config", "-c", ask, cwd=ROOT)
        return {shown.partition("\t")[0] for shown in done.stdout.splitlines()}

    assert {"plan", "preset", "predict"} <= offered("isoflop p")
    assert {"--flops", "--json"} <= offered("isoflop plan --")
    assert "smoke" in offered("isoflop preset sm")


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_zsh_can_read_its_script(tmp_path: Path) -> None:
    (tmp_path / "_isoflop").write_text(run_command("isoflop", "completion", "zsh", cwd=ROOT).stdout)
    run_command("zsh", "-n", "_isoflop", cwd=tmp_path)
    assert "__complete" in (tmp_path / "_isoflop").read_text(), "presets are completed by the command itself"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_other_shells_get_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    shown = capsys.readouterr().out
    assert "isoflop" in shown and "compress" in shown


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.split() == ["isoflop", "0.2.0"]


def test_without_a_command_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    shown = capsys.readouterr().err
    assert all(command in shown for command in COMMANDS)


def test_starting_it_imports_nothing_heavy() -> None:
    heavy = ("torch", "albumentations", "onnxruntime", "matplotlib", "numpy", "rich", "pydantic", "omegaconf")
    code = f"import sys, isoflop.cli.main\nprint([name for name in {heavy} if name in sys.modules])"
    assert run_command(sys.executable, "-c", code, cwd=ROOT).stdout.strip() == "[]"


@pytest.mark.parametrize("line", [["--help"], ["fit", "--help"], ["plan", "--flops", "x"], ["completion", "bash"]])
def test_help_errors_and_completion_import_nothing_heavy(line: list[str]) -> None:
    heavy = ("torch", "albumentations", "onnxruntime", "matplotlib", "numpy", "pydantic", "omegaconf", "dvc", "yaml")
    code = (
        f"import sys, isoflop.cli.main as cli\ncli.main({line})\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    assert run_command(sys.executable, "-c", code, cwd=ROOT).stdout.splitlines()[-1] == "[]"


def test_presets_are_listed_and_applied_from_a_subfolder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "tiny.yaml").write_text("# Small.\na: 1\n")
    (tmp_path / "deep" / "down").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "down")
    assert cli.main(["preset"]) == 0
    assert capsys.readouterr().out == "tiny  Small.\n"
    assert cli.main(["preset", "tiny"]) == 0
    assert (tmp_path / "params.yaml").read_text() == "# Small.\na: 1\n"
    capsys.readouterr()
    assert cli.main(["preset", "tinny"]) == 1
    assert capsys.readouterr().err == "error: preset 'tinny': unknown; did you mean 'tiny'?\n"


@pytest.mark.parametrize("command", [["preset"], ["check"], ["summary"]])
def test_outside_a_project_is_one_clear_line(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(command) == 1
    said = capsys.readouterr().err
    assert "got no dvc.yaml here or in a parent folder" in said and said.count("\n") == 1


MADE = {  # what a command wants that `dvc repro` makes
    ("release",): "ship/MODEL_CARD.md: not found; fix: `dvc repro` writes it",
    ("summary",): "metrics/variants.json: not found; fix: `dvc repro` writes it",
    ("predict", "ship/model.onnx", "x.png"): "ship/model.onnx: not found; fix: `dvc repro` writes it",
    ("predict", "onnx/base.onnx", "x.png", "--json"): "onnx/base.onnx: not found; fix: `dvc repro` writes it",
    ("predict", "elsewhere.onnx", "x.png"): "elsewhere.onnx: not found; expected an ONNX file",
    ("demo",): "ship/demo/index.html: not found; fix: set demo.enabled to true in params.yaml and run `dvc repro demo`",
    ("report",): "report/index.html: not found; fix: `dvc repro` writes it",
    ("report", "--compare", "HEAD"):
        "--compare HEAD: dvc.lock: not found in that commit; fix: run `dvc repro`, then commit dvc.lock",
    ("plan", "--flops", "1e12"): "scaling/law.json: not found; fix: `dvc repro` writes it",
    ("savings",): "dvc.lock: not found; fix: `dvc repro` writes it",
}  # fmt: skip


@pytest.fixture(scope="module")
def never_ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("never_ran")
    (project / "dvc.yaml").touch()
    run_command("git", "init", "-q", cwd=project)
    run_command("dvc", "init", "-q", cwd=project)
    commit(project, "start")
    return project


@pytest.mark.parametrize("command", MADE)
def test_before_the_first_run_a_line_says_what_makes_the_file(
    never_ran: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(never_ran)
    assert cli.main(command) == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"error: {MADE[command]}\n")


@pytest.mark.parametrize(("raised", "status"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 141)])
def test_an_interrupt_and_a_closed_pipe_end_quietly(raised: BaseException, status: int) -> None:
    code = (
        "import sys\nfrom isoflop.cli import main as cli, summary\n"
        f"def fail(project, as_json): raise {type(raised).__name__}\n"
        "summary.print_summary = fail\nsys.exit(cli.main(['summary']))"
    )
    done = run_command(sys.executable, "-c", code, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (status, "")


class Train(Section):
    width: int = Field(ge=1)
    seed: int


class Whole(Section):
    model: ModelParams
    train: Train
    prepare: Prepare


class Part(Section):
    width: int = key("train.width", ge=8)
    fractions: list[float] = key("sweep.runs.fractions")


class OtherPart(Section):
    widths: list[int] = key("sweep.widths")
    augment: Augment


def checked(folder: Path, **sections: object) -> str:
    """What `check` says of params.yaml with these sections changed, or left out where None."""
    default = yaml.safe_load((ROOT / "params.yaml").read_text())
    content = {name: default[name] for name in ("model", "prepare", "augment")}
    content |= {"train": {"width": 8, "seed": 0}, "sweep": {"runs": {"fractions": [1.0]}, "widths": [8, 16]}}
    content |= sections
    (folder / "params.yaml").write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    try:
        check([Whole, Part, OtherPart], folder / "params.yaml")
    except UserError as error:
        return str(error).replace(f"{folder}/", "")
    return ""


def test_right_parameters_pass(tmp_path: Path) -> None:
    assert checked(tmp_path) == ""


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"train": {"width": 8, "seed": 0, "widht": 1}},
         "params.yaml: train.widht: unknown key; did you mean 'width'?"),
        ({"train": {"width": 8}}, "params.yaml: train.seed: the key is missing"),
        ({"train": {"width": 4, "seed": 0}},
         "params.yaml: train.width: got 4 (integer), expected greater than or equal to 8"),
        ({"sweep": {"runs": {"fractions": [1.0]}, "widths": [8], "witdhs": []}},
         "params.yaml: sweep.witdhs: unknown key; did you mean 'widths'?"),
        ({"sweep": {"runs": {"fractions": 1.0}, "widths": [8]}},
         "params.yaml: sweep.runs.fractions: got 1.0 (number), expected a valid list"),
        ({"sweep": None}, "params.yaml: sweep: the key is missing"),
        ({"trane": {}}, "params.yaml: trane: unknown key; did you mean 'train'?"),
        ({"train": None, "trane": {"width": 8, "seed": 0}}, "params.yaml: trane: unknown key; did you mean 'train'?"),
        ({"train": {"widht": 8, "seed": 0}}, "params.yaml: train.widht: unknown key; did you mean 'width'?"),
        ({"sweep": {"runs": {"fraction": [1.0]}, "widths": [8]}},
         "params.yaml: sweep.runs.fraction: unknown key; did you mean 'fractions'?"),
        ({"augment": {"views": 1, "seed": 0, "policy": [{"name": "HorizontalFlipp"}]}},
         "params.yaml: augment.policy.0.name: unknown transform 'HorizontalFlipp'; did you mean 'HorizontalFlip'?"),
        ({"train": {"width": "8", "seed": 0}, "trane": 1},
         "params.yaml: trane: unknown key; did you mean 'train'?; "
         "params.yaml: train.width: got '8' (string), expected a valid integer"),
    ],
)  # fmt: skip
def test_every_mistake_is_named_once(tmp_path: Path, sections: dict[str, object], said: str) -> None:
    assert checked(tmp_path, **sections) == said


@pytest.mark.parametrize(
    ("content", "said"), [("a: [", "not valid YAML"), ("- 1\n", "got list, expected sections"), (None, "not found")]
)
def test_a_params_yaml_that_is_none(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "params.yaml").write_text(content)
    with pytest.raises(UserError, match=said):
        check([Whole], tmp_path / "params.yaml")


def test_own_images_that_are_not_there_are_named(tmp_path: Path) -> None:
    class Source(Section):
        data: Data

    content = {"source": "images", "path": "nowhere/pictures", "url": None, "sha256": None}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"data": content}))
    with pytest.raises(UserError, match=r"data\.path: got nowhere/pictures, which does not exist; expected a folder"):
        check([Source], tmp_path / "params.yaml")


def test_check_looks_at_every_stage_of_the_project(tmp_path: Path) -> None:
    for name in ("stages", "src"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "data" / "images").mkdir(parents=True)
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text)
    done = run_command("isoflop", "check", cwd=tmp_path / "src")
    assert done.stdout.startswith("params.yaml: valid for all ") and done.stderr == ""
    lax = re.sub(r"(?ms)^(ship:.*?max_accuracy_drop: )[\d.]+", r"\g<1>0.25", text)
    (tmp_path / "params.yaml").write_text(lax)
    done = run_command("isoflop", "check", cwd=tmp_path)
    assert done.stdout.startswith("params.yaml: valid for all ") and done.stderr.count("\n") == 1
    line = 1 + lax[: lax.index("max_accuracy_drop: 0.25")].count("\n")
    assert done.stderr.startswith(
        f"warning: params.yaml:{line}: ship.max_accuracy_drop: got 0.25, which allows a loss of"
    )
    wrong = text.replace("objective: latency", "objective: speed").replace("method: auto", "method: guess")
    (tmp_path / "params.yaml").write_text(wrong + "spare: 1\n")
    done = run_command("isoflop", "check", cwd=tmp_path, check=False)
    assert done.returncode == 1 and done.stdout == ""
    first, second, third = done.stderr.splitlines()  # in the order of the file
    assert re.match(r"error: params\.yaml:\d+: quantize\.method: got 'guess' \(string\), expected ", first)
    assert re.match(r"error: params\.yaml:\d+: ship\.objective: got 'speed' \(string\), expected 'latency' or", second)
    assert third.startswith(f"error: params.yaml:{wrong.count(chr(10)) + 1}: spare: unknown key; ")
    done = run_command("isoflop", "check", "--json", cwd=tmp_path, check=False)
    mistakes = json.loads(done.stdout)["mistakes"]
    assert done.returncode == 1 and [found["key"] for found in mistakes] == [
        "quantize.method",
        "ship.objective",
        "spare",
    ]
    (tmp_path / "params.yaml").write_text(text.replace("path: data/images", 'path: "data/\\e[2Jimages"'))
    done = run_command("isoflop", "check", cwd=tmp_path, check=False)
    assert done.returncode == 1 and "\x1b" not in done.stderr and "without control characters" in done.stderr
