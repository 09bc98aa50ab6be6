"""Our own way from ONNX to torch: a module that walks the graph with a table of small torch functions."""

from cake_cli.models.onnx.interpreter.module import GraphError, Interpreter
from cake_cli.models.onnx.interpreter.node import UnsupportedOperator
from cake_cli.models.onnx.interpreter.observer import Observer

__all__ = ["GraphError", "Interpreter", "Observer", "UnsupportedOperator"]
