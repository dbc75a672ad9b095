"""Quantization: integer weights and explicit quantize and dequantize operators."""
