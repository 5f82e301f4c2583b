"""Scores of one model, and the comparison of the variants with their base."""
