"""ONNX files: checked, converted and compared with ONNX Runtime."""
