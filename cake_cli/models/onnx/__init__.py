"""ONNX files as differentiable torch classifiers."""

from cake_cli.models.onnx.opening import open_onnx

__all__ = ["open_onnx"]
