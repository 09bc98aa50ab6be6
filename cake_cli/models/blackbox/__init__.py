"""Teachers that give outputs and no gradient: files that only onnxruntime runs, and endpoints."""

from cake_cli.models.blackbox.checking import measure_answers
from cake_cli.models.blackbox.endpoint import open_endpoint
from cake_cli.models.blackbox.onnx_file import open_onnx_black_box
from cake_cli.models.blackbox.scores import kind_of, to_logits

__all__ = ["kind_of", "measure_answers", "open_endpoint", "open_onnx_black_box", "to_logits"]
