"""Adds to the wheel the file that calls isoflop.dvc_guard.guard in DVC processes; all else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

_NAME = "isoflop-dvc-guard.pth"
# Python executes it at its start; only in processes of DVC does it import anything
_CALL = (
    "import sys; 'dvc' in ' '.join(sys.orig_argv) "
    "and __import__('importlib.util').util.find_spec('isoflop.dvc_guard.guard') "
    "and __import__('isoflop.dvc_guard.guard').dvc_guard.guard.install()"
)


class BuildWithGuard(build_py):
    def run(self) -> None:
        super().run()
        # an editable wheel takes no new files from the build folder, but what an installation would have
        folder = self.get_finalized_command("install").install_lib if self.editable_mode else self.build_lib
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, _NAME).write_text(f"{_CALL}\n")
        Path(self.build_lib, "isoflop", "template", "setup.py").unlink(missing_ok=True)  # this file


setup(cmdclass={"build_py": BuildWithGuard})
