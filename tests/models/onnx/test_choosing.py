"""Which input and output are the teacher's, and what is no teacher at all."""

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper

from cake_cli.errors import ModelFileError, UsageError
from cake_cli.models.onnx import open_onnx
from tests.models.onnx.files import FLOAT, INT64, draw, linear, model, node, port, save


def refused(proto, folder, **settings):
    with pytest.raises(ModelFileError) as caught:
        open_onnx(save(proto, folder), **settings)
    return caught.value


def test_labels_beside_the_scores_are_left_alone(tmp_path):
    outputs = [port("label", ["batch"], INT64), port("y", ["batch", 3])]
    proto = linear(end=[node("Softmax", "z", "y"), node("ArgMax", "y", "label", axis=1, keepdims=0)], outputs=outputs)
    opened = open_onnx(save(proto, tmp_path))
    assert opened.facts["scores"] == "y"
    assert opened.output_kind == "probs"


def test_features_that_the_scores_rest_on_are_left_alone(tmp_path):
    outputs = [port("features", ["batch", 3]), port("y", ["batch", 3])]
    proto = linear(end=[node("Relu", "z", "features"), node("MatMul", "features v", "y")], outputs=outputs)
    proto.graph.initializer.append(linear(draw(3, 3)).graph.initializer[0])
    proto.graph.initializer[1].name = "v"
    assert open_onnx(save(proto, tmp_path)).facts["scores"] == "y"


def two_heads():
    outputs = [port("a", ["batch", 3]), port("b", ["batch", 3])]
    return linear(end=[node("Relu", "z", "a"), node("Tanh", "z", "b")], outputs=outputs)


def test_two_outputs_that_could_be_scores_ask_for_the_flag(tmp_path):
    fault = refused(two_heads(), tmp_path)
    assert "a (batchx3 float32), b (batchx3 float32)" in fault.what
    assert fault.fix == "--output a"


def test_the_flag_chooses_an_output(tmp_path):
    opened = open_onnx(save(two_heads(), tmp_path), output="b")
    x = torch.from_numpy(draw(5, 4))
    assert torch.allclose(opened.module(x), torch.tanh(x @ torch.from_numpy(draw(4, 3))), atol=1e-6)


def test_an_unknown_output_suggests_the_nearest(tmp_path):
    proto = linear(outputs=[port("y", ["batch", 3])])
    with pytest.raises(UsageError, match="no output 'yy'"):
        open_onnx(save(proto, tmp_path), output="yy")


def test_label_only_models_are_refused(tmp_path):
    proto = linear(end=[node("ArgMax", "z", "y", axis=1)], outputs=[port("y", ["batch", 1], INT64)])
    assert "only gives labels" in refused(proto, tmp_path).what


def test_labels_as_floats_are_refused_with_the_node(tmp_path):
    proto = linear(
        end=[node("ArgMax", "z", "l", axis=1), node("Cast", "l", "y", to=FLOAT)], outputs=[port("y", ["batch", 1])]
    )
    assert (
        "no gradient leads from the output to the input: it ends at ArgMax (opset 13" in refused(proto, tmp_path).what
    )


def test_several_inputs_are_listed(tmp_path):
    proto = linear(end=[node("Add", "z other", "y")], inputs=[port("x", ["n", 4]), port("other", ["n", 3])])
    assert "takes 2 inputs, a teacher takes one: x (nx4 float32), other (nx3 float32)" in refused(proto, tmp_path).what


def test_training_graphs_are_refused(tmp_path):
    nodes = [node("Sub", "z labels", "d"), node("ReduceMean", "d", "y", keepdims=0)]
    proto = linear(end=nodes, inputs=[port("x", ["n", 4]), port("labels", ["n", 3])], outputs=[port("y", [])])
    assert "training graph: labels ('labels')" in refused(proto, tmp_path).what


def test_token_inputs_are_refused(tmp_path):
    proto = model([node("Gather", "w x", "y")], {"w": draw(9, 3)}, inputs=[port("x", ["n"], INT64)])
    assert "takes no floating-point numbers" in refused(proto, tmp_path).what


@pytest.mark.parametrize(
    ("operator", "inputs", "outputs"),
    [("QuantizeLinear", "z w", "q"), ("DynamicQuantizeLinear", "z", "q s o"), ("ConvInteger", "z w", "q")],
)
def test_quantised_graphs_are_refused(tmp_path, operator, inputs, outputs):
    proto = linear(end=[node(operator, inputs, outputs), node("Cast", "q", "y", to=FLOAT)])
    assert f"quantised to int8 (1 nodes: {operator})" in refused(proto, tmp_path).what


def test_tree_ensembles_are_refused(tmp_path):
    proto = model([node("TreeEnsembleClassifier", "x", "l y", "ai.onnx.ml")])
    assert "tree ensemble" in refused(proto, tmp_path).what


def test_unknown_operators_are_named_with_opset_and_node(tmp_path):
    proto = linear(end=[helper.make_node("Frobnicate", ["z"], ["y"], "the_node", domain="com.microsoft")])
    fault = refused(proto, tmp_path, verify=False)
    assert "com.microsoft.Frobnicate (opset 1, node 'the_node')" in fault.what
    assert "opset 18, from the framework" in fault.fix
    proto.producer_name = "pytorch"
    assert "torch.onnx.export" in refused(proto, tmp_path, verify=False).fix


def test_detectors_are_refused_with_the_shape(tmp_path):
    shape = {"s": np.array([0, 3, 1, 1], dtype=np.int64), "e": np.array([1, 3, 8, 8], dtype=np.int64)}
    proto = linear(
        end=[node("Reshape", "z s", "r"), node("Expand", "r e", "y")], outputs=[port("y", ["batch", 3, 8, 8])]
    )
    proto.graph.initializer.extend(model([], shape).graph.initializer)
    assert "the output is batchx3x8x8, not (batch, classes)" in refused(proto, tmp_path).what
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    assert "x3x8x8, not (batch, classes)" in refused(proto, tmp_path).what


def images(dims):
    nodes = [node("GlobalAveragePool", "x", "p"), node("Flatten", "p", "f"), node("MatMul", "f w", "y")]
    return model(nodes, {"w": draw(3, 3)}, inputs=[port("x", dims)])


def test_open_sizes_ask_for_the_input_shape(tmp_path):
    fault = refused(images(["n", 3, "h", "w"]), tmp_path)
    assert fault.what == "the file leaves sizes of its input open: x is nx3xhxw"
    assert fault.fix.startswith("--input-shape 3,32,32")
    opened = open_onnx(save(images(["n", 3, "h", "w"]), tmp_path), input_shape=(3, 8, 6))
    assert opened.input_shape == (3, 8, 6)


def test_an_input_shape_that_contradicts_the_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="contradicts the file"):
        open_onnx(save(images(["n", 3, 8, 8]), tmp_path), input_shape=(1, 8, 8))


def test_an_unstated_shape_can_be_given(tmp_path):
    assert "does not state the shape" in refused(images(None), tmp_path).what
    assert open_onnx(save(images(None), tmp_path), input_shape=(3, 8, 8)).input_shape == (3, 8, 8)


def test_a_file_without_a_batch_axis_is_said_to_have_none(tmp_path):
    proto = linear(inputs=[port("x", [4])], outputs=[port("y", [3])])
    opened = open_onnx(save(proto, tmp_path))
    assert not opened.has_batch_axis
    assert opened.input_shape == (4,)
    assert opened.module(torch.ones(4)).shape == (3,)
    assert opened.reference(draw(5, 4)).shape == (5, 3)


def test_bytes_as_input_become_floats(tmp_path):
    proto = model(
        [node("Cast", "x", "f", to=FLOAT), node("MatMul", "f w", "y")],
        {"w": draw(4, 3)},
        inputs=[port("x", ["n", 4], 2)],
    )
    opened = open_onnx(save(proto, tmp_path))
    x = torch.full((2, 4), 7.5, requires_grad=True)
    assert torch.autograd.grad(opened.module(x).sum(), x)[0].abs().sum() > 0


def test_one_number_a_row_beside_scores_is_left_alone(tmp_path):
    outputs = [port("state", ["batch"]), port("y", ["batch", 3])]
    proto = linear(end=[node("Relu", "z", "y"), node("ReduceMax", "z", "state", axes=[1], keepdims=0)], outputs=outputs)
    assert open_onnx(save(proto, tmp_path)).facts["scores"] == "y"


def test_several_outputs_that_cannot_be_scores_ask_for_no_flag(tmp_path):
    shapes = {"a": [-1, 3, 1], "b": [1, -1, 3]}
    nodes = [node("Reshape", "z a_shape", "a"), node("Reshape", "z b_shape", "b")]
    proto = linear(end=nodes, outputs=[port("a", ["batch", 3, 2]), port("b", [1, "batch", 3])])
    for name, shape in shapes.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.array(shape), f"{name}_shape"))
    fault = refused(proto, tmp_path)
    assert "no output is (batch, classes): a (batchx3x2 float32), b (1xbatchx3 float32)" in fault.what
    assert "--output" not in fault.fix


def test_several_inputs_are_told_before_several_outputs(tmp_path):
    outputs = [port("a", ["n", 3]), port("b", ["n", 3])]
    nodes = [node("Add", "z other", "a"), node("Sub", "z other", "b")]
    proto = linear(end=nodes, inputs=[port("x", ["n", 4]), port("other", ["n", 3])], outputs=outputs)
    assert "takes 2 inputs" in refused(proto, tmp_path).what


@pytest.mark.parametrize("baked", [False, True])
def test_a_large_declared_batch_is_run_on_few_rows(tmp_path, baked):
    nodes = [node("Reshape", "z shape", "y")] if baked else [node("Relu", "z", "y")]
    proto = linear(end=nodes, inputs=[port("x", [500, 4])], outputs=[port("y", [500, 3])])
    proto.graph.initializer.append(numpy_helper.from_array(np.array([500, 3]), "shape"))
    opened = open_onnx(save(proto, tmp_path))
    assert opened.fixed_batch is None
    assert opened.module(torch.zeros(2, 4)).shape == (2, 3)
    assert "difference" in opened.facts["compared"]
