"""Writing compact models: directories that transformers loads, and ONNX."""
