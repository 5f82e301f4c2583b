"""Smaller and faster models out of a trained one: distillation, pruning, sparsity, QAT, quantization, float16."""
