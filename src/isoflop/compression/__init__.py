"""Smaller and faster variants of a trained model: distillation, pruning, sparsity, QAT, quantization, FP16."""
