"""How good a model is: scores of one, and the comparison of variants with their base."""
