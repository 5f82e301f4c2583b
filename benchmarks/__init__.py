"""Measurements. Each module is a command: ``python -m benchmarks.NAME``."""

# a regular package, because a namespace package would be shadowed by the one that Opacus installs under this name
