"""Each module is one pipeline stage, run as ``python -m stages.NAME``: it loads inputs, calls the package and saves.

A stage must run the package of its own checkout: in a temporary clone (``dvc exp run --temp``) the installed
one belongs to another revision. Nothing else is imported from the working folder, where a cache may have put a file
with the name of a library.
"""

import os
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]

if sys.argv[:1] == ["-m"] and sys.path[:1] in ([""], [os.getcwd()]):  # the stages are found by their package
    del sys.path[0]
sys.path.insert(0, str(_ROOT / "src"))
