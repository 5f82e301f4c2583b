"""Checks that DVC itself lacks, applied inside of each DVC process of the environment that isoflop is installed in."""
