"""Scaling laws from a table of runs: fit, uncertainty, diagnosis, compute-optimal size (``analysis.analyse``)."""
