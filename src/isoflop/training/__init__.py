"""Training with Lightning: the recipe, batches, optimizers, and `fit`, which every training stage calls."""
