"""Scaling laws from a table of runs: fit, uncertainty, diagnosis, compute-optimal size. Needs numpy and scipy alone."""
