"""What ``isoflop upgrade`` rewrites in a project of version 0.1 or 0.2, so that its results stay valid.

To be deleted in version 0.3, with ``isoflop.runtime.params.RENAMED``.
"""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from isoflop.project.yaml_text import dump, load
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_atomically
from isoflop.runtime.params import PARAMS_FILE, renamed_keys

# Stages that compute the same as in version 0.1: dvc.lock can take their results over by `dvc commit --force`. The
# stages prepare, augment and sweep write more files now; they run again and, from the same images, give the same
# splits and runs.
_UNCHANGED = (
    "download", "train", "distill", "prune", "sparsify", "qat",
    "export", "float16",
)  # fmt: skip


_ADDED: dict[str, Any] = {  # keys that are new since version 0.2, with the values that change nothing
    "prepare.sample_range": None,
    "recipe.class_weights": "none",
    "recipe.logit_adjustment": 0.0,
    "model.pretrained": "none",
    "train.finetuning": {"head_fraction": 0.2, "first_layer_rate": 0.1, "freeze_norms": "auto"},
    "ship.metric": "accuracy",
    "quantize.activations": "static",
    "train.fraction": 1.0,
    "sweep.runs.image_sizes": [],
}


def unchanged_stages(project: Path) -> list[str]:
    """Return the stages of ``project`` that have results in dvc.lock and compute the same as in version 0.1."""
    lock = project / "dvc.lock"
    locked = (load(lock.read_text()) or {}).get("stages", {}) if lock.is_file() else {}
    groups = {name.partition("@")[0] for name in locked}
    return [stage for stage in _UNCHANGED if stage in groups]


def migrate(project: Path) -> list[str]:
    """Rename and add keys of params.yaml, presets and metrics of ``project``; return one line for each change.

    Raises:
        UserError: a params.yaml or preset is not valid YAML.
    """
    done: list[str] = []
    for file in [project / PARAMS_FILE, *sorted((project / "presets").glob("*.yaml"))]:
        done += _rename_params(file, file.relative_to(project)) if file.is_file() else []
    for file in sorted((project / "metrics").glob("distill-*.json")):
        done += [f"{file.relative_to(project)}: renamed taught to distilled"] * _rename_metrics(file)
    return done


def _rename_metrics(file: Path) -> bool:
    facts = None
    with contextlib.suppress(ValueError):  # a damaged file is for `isoflop doctor` to report
        facts = json.loads(file.read_text())
    if not isinstance(facts, dict):
        return False
    values = {"taught": "distilled"}  # of key "kept"
    renamed = {
        key.replace("taught_", "distilled_", 1): values.get(value, value) if isinstance(value, str) else value
        for key, value in facts.items()
    }
    if renamed == facts:
        return False
    write_atomically(file, json.dumps(renamed, indent=1) + "\n")  # a new file, never through a link into DVC's cache
    return True


def _rename_params(file: Path, name: Path) -> list[str]:
    try:
        content = load(file.read_text())
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from None
    done = []
    for section, before, after in renamed_keys(content):
        keys = content[section]
        if before in keys.ca.items:  # the comment behind the key
            keys.ca.items[after] = keys.ca.items.pop(before)
        keys.insert(list(keys).index(before), after, keys.pop(before))
        done.append(f"{name}: renamed {section}.{before} to {section}.{after}")
    for dotted, value in _ADDED.items():
        *path, key = dotted.split(".")
        inner: Any = content
        for part in path:
            inner = inner.get(part) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and key not in inner:
            inner[key] = copy.copy(value)
            done.append(f"{name}: added {dotted}: {json.dumps(value)}")
    if done:
        write_atomically(file, dump(content))
    return done
