"""Each module is one pipeline stage, run as ``python -m stages.NAME``: it loads inputs, calls the package and saves.

A stage must run the package of its own checkout: in a temporary clone (``dvc exp run --temp``) the installed
one belongs to another revision.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
