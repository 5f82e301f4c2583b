"""Scaling laws from a table of training runs: fit, uncertainty, diagnostics and compute-optimal size.

Start at ``analysis.analyse``. The package knows neither images nor reports.
"""
