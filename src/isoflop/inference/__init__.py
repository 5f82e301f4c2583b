"""Models as ONNX and TFLite files: export, ONNX Runtime sessions, prediction, latency, memory."""
