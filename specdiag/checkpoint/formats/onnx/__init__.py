"""ONNX models as named tensors."""
