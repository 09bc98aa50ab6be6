"""A sample of the export matrix; the whole is `python -m tests.models.onnx.export_matrix`."""

import pytest

from tests.models.onnx.architectures import architecture, build, torchvision_names
from tests.models.onnx.export_matrix import check
from tests.models.onnx.exports import export_current, export_legacy


@pytest.mark.parametrize(
    ("architecture", "opset", "symbolic"),
    [("small_vit", 18, False), ("small_convnext", 20, False), ("squeezenet1_1", 23, True)],
)
def test_files_of_the_current_exporter(tmp_path, architecture, opset, symbolic):
    model, shape = build(architecture)
    export_current(model, shape, tmp_path / "model.onnx", opset=opset, symbolic=symbolic)
    result = check(tmp_path / "model.onnx", model)
    assert result["verdict"] == "right", result


@pytest.mark.parametrize(
    ("architecture", "opset", "symbolic"),
    [("small_swin", 17, False), ("small_vit", 13, True), ("shufflenet_v2_x0_5", 20, True)],
)
def test_files_of_the_legacy_exporter(tmp_path, architecture, opset, symbolic):
    model, shape = build(architecture)
    export_legacy(model, shape, tmp_path / "model.onnx", opset=opset, symbolic=symbolic)
    result = check(tmp_path / "model.onnx", model)
    assert result["verdict"] == "right", result


def test_the_whole_matrix_has_every_architecture():
    assert len(torchvision_names()) >= 80
    assert all(architecture(name).size <= 224 for name in torchvision_names())


def test_another_model_is_seen(tmp_path):
    model, shape = build("squeezenet1_1")
    export_legacy(model, shape, tmp_path / "model.onnx", opset=17, symbolic=True)
    model.classifier[1].weight[0] += 0.01
    assert check(tmp_path / "model.onnx", model)["verdict"] == "wrong"
