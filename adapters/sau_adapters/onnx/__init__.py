"""ONNX graphs: read as networks, exported, written back."""
