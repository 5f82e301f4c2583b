"""Measurements: each module is a command, ``python -m benchmarks.NAME``."""  # a regular package: Opacus installs one of this name
