"""Measurements: each module is a command, ``python -m benchmarks.NAME``."""

# a regular package, not only a folder: Opacus installs one of this name
