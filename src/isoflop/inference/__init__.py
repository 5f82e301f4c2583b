"""Models as ONNX (and TFLite) files: export, sessions, prediction, latency."""
