"""Parts of INT8 quantization: ranges of activations, sensitivity of layers, static quantization."""
