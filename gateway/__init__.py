"""Tidegate: serves ONNX models, decides by evidence who gets which version, says what has changed."""

__version__ = "0.1.0"
