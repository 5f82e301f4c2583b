"""What ``isoflop upgrade`` rewrites in a project of version 0.1, so that its results stay valid and nothing retrains.

To be deleted in version 0.3, with ``isoflop.runtime.params.RENAMED``.
"""

from __future__ import annotations

import json
from pathlib import Path

from isoflop.project.yaml_text import dump, load
from isoflop.runtime.files import write_atomically, write_json
from isoflop.runtime.params import PARAMS_FILE, RENAMED


def migrate(project: Path) -> list[str]:
    """Rename keys of params.yaml and of the distillation metrics in ``project``; return one line for each change."""
    done = _rename_params(project / PARAMS_FILE)
    for file in sorted((project / "metrics").glob("distill-*.json")):
        facts = json.loads(file.read_text())
        renamed = {key.replace("taught_", "distilled_", 1): value for key, value in facts.items()}
        if renamed.get("kept") == "taught":
            renamed["kept"] = "distilled"
        if renamed != facts:
            file.unlink()  # not written through: it may be a link into DVC's cache
            write_json(file, renamed)
            done.append(f"{file.relative_to(project)}: renamed taught to distilled")
    return done


def _rename_params(file: Path) -> list[str]:
    content = load(file.read_text())
    done = []
    for old, new in RENAMED.items():
        section, before, after = *old.split("."), new.partition(".")[2]
        keys = content.get(section, {})
        if before in keys and after not in keys:
            index = list(keys).index(before)
            if before in keys.ca.items:  # the comment behind the key
                keys.ca.items[after] = keys.ca.items.pop(before)
            keys.insert(index, after, keys.pop(before))
            done.append(f"{file.name}: renamed {old} to {new}")
    if done:
        write_atomically(file, dump(content))
    return done
