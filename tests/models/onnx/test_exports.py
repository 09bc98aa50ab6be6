"""A sample of the export matrix; the whole is `python -m tests.models.onnx.export_matrix`."""

import pytest

from tests.models.onnx.export_matrix import check
from tests.models.onnx.exports import build, export_current, export_legacy


@pytest.mark.parametrize(
    ("architecture", "opset", "symbolic"), [("vit", 18, False), ("convnext", 20, False), ("squeezenet1_1", 23, True)]
)
def test_files_of_the_current_exporter(tmp_path, architecture, opset, symbolic):
    model, shape = build(architecture)
    export_current(model, shape, tmp_path / "model.onnx", opset=opset, symbolic=symbolic)
    assert check(tmp_path / "model.onnx", model) == "right"


@pytest.mark.parametrize(
    ("architecture", "opset", "symbolic"),
    [("swin", 17, False), ("densenet", 13, True), ("shufflenet_v2_x0_5", 20, True)],
)
def test_files_of_the_legacy_exporter(tmp_path, architecture, opset, symbolic):
    model, shape = build(architecture)
    export_legacy(model, shape, tmp_path / "model.onnx", opset=opset, symbolic=symbolic)
    assert check(tmp_path / "model.onnx", model) == "right"
