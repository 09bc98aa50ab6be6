"""Each pass, on a file that needs it."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from cake_cli.models.onnx import open_onnx
from cake_cli.models.onnx.preparation import PASSES, prepare
from tests.models.onnx.files import FLOAT16, draw, linear, model, node, port, save


def opened_as(proto, folder, x=None, **settings):
    """Opens a file, and holds its module at batch 5 against the file itself."""
    opened = open_onnx(save(proto, folder), **settings)
    x = draw(5, *opened.input_shape, seed=1) if x is None else x
    found = opened.module(torch.from_numpy(x)).numpy()
    assert found.shape[0] == 5
    assert np.allclose(found, opened.reference(x), rtol=1e-4, atol=1e-5)
    return opened


def test_the_passes_are_what_the_package_says():
    names = [run.__name__ for run in PASSES]
    assert names == [
        "spell_main_domain",
        "raise_ir_version",
        "drop_listed_initializers",
        "inline_functions",
        "sort_nodes",
        "name_nodes",
        "bypass_zipmap",
        "bypass_dropout",
        "bypass_identity",
        "read_flat_gathers",
    ]


def test_a_plain_file_needs_no_mending():
    assert prepare(linear(), PASSES) == []


def test_the_main_domain_may_be_spelled_out(tmp_path):
    proto = model([node("MatMul", "x w", "y", "ai.onnx")], {"w": draw(4, 3)}, opsets={"ai.onnx": 13})
    assert "operator domain 'ai.onnx' read as the main one" in opened_as(proto, tmp_path).mends


def test_weights_listed_as_inputs_and_ir_version_3(tmp_path):
    proto = linear(inputs=[port("x", ["n", 4]), port("w", [4, 3])])
    proto.ir_version = 3
    mends = opened_as(proto, tmp_path).mends
    assert mends == ("IR version 3 read as 8", "1 weights listed as inputs")


def test_nodes_out_of_order_and_without_names(tmp_path):
    proto = model([node("Relu", "z", "y"), node("MatMul", "x w", "z")], {"w": draw(4, 3)})
    prepared = type(proto)()
    prepared.CopyFrom(proto)
    assert prepare(prepared, PASSES) == ["nodes put in order"]
    assert [each.name for each in prepared.graph.node] == ["MatMul_0", "Relu_1"]
    opened_as(proto, tmp_path)


def test_dropout_with_a_mask_and_identity_of_a_weight(tmp_path):
    nodes = [
        node("Identity", "w", "v"),
        node("MatMul", "x v", "z"),
        node("Dropout", "z", "d mask"),
        node("Relu", "d", "y"),
    ]
    mends = opened_as(model(nodes, {"w": draw(4, 3)}), tmp_path).mends
    assert mends == ("1 Dropout bypassed", "1 Identity bypassed")


def test_dropout_that_trains_is_not_bypassed():
    nodes = [node("MatMul", "x w", "z"), node("Dropout", "z ratio on", "d"), node("Relu", "d", "y")]
    weights = {"w": draw(4, 3), "ratio": np.array(0.5, dtype=np.float32), "on": np.array(True)}
    assert prepare(model(nodes, weights), PASSES) == []


def test_float16_is_computed_in_float32(tmp_path):
    proto = model(
        [node("MatMul", "x w", "y")],
        {"w": draw(4, 3).astype(np.float16)},
        inputs=[port("x", ["n", 4], FLOAT16)],
        outputs=[port("y", ["n", 3], FLOAT16)],
    )
    opened = open_onnx(save(proto, tmp_path))
    assert opened.mends == ("float16 computed in float32",)
    assert opened.module(torch.ones(2, 4)).dtype is torch.float32


def test_float16_inside_casts(tmp_path):
    nodes = [
        node("Cast", "x", "h", to=FLOAT16),
        node("MatMul", "h w", "z"),
        node("Cast", "z", "y", to=TensorProto.FLOAT),
    ]
    opened = open_onnx(save(model(nodes, {"w": draw(4, 3).astype(np.float16)}), tmp_path))
    assert opened.mends == ("float16 computed in float32",)


def test_float64_is_computed_in_float32(tmp_path):
    proto = model(
        [node("MatMul", "x w", "y")],
        {"w": draw(4, 3).astype(np.float64)},
        inputs=[port("x", ["n", 4], TensorProto.DOUBLE)],
        outputs=[port("y", ["n", 3], TensorProto.DOUBLE)],
    )
    assert opened_as(proto, tmp_path).mends == ("float64 computed in float32",)


def test_local_functions_are_inlined(tmp_path):
    body = [node("Relu", "a", "c"), node("MatMul", "c k", "b")]
    function = helper.make_function("own", "Layer", ["a", "k"], ["b"], body, [helper.make_opsetid("", 13)])
    proto = model(
        [node("Layer", "x v", "z", "own"), node("Layer", "z w", "y", "own")],
        {"v": draw(4, 4, seed=2), "w": draw(4, 3)},
        functions=[function],
        opsets={"": 13, "own": 1},
    )
    assert opened_as(proto, tmp_path).mends == ("1 local functions inlined",)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_automatic_padding(tmp_path, mode):
    nodes = [
        node("Conv", "x k", "c", auto_pad=mode, strides=[2, 2], kernel_shape=[4, 3]),
        node("MaxPool", "c", "p", auto_pad=mode, strides=[2, 2], kernel_shape=[2, 2]),
        node("ReduceMean", "p", "y", axes=[2, 3], keepdims=0),
    ]
    proto = model(nodes, {"k": draw(3, 2, 4, 3)}, inputs=[port("x", ["n", 2, 11, 12])])
    opened_as(proto, tmp_path)


def shapes(**values):
    return {name: np.array(value, dtype=np.int64) for name, value in values.items()}


@pytest.mark.parametrize("target", [[1, 8], [1, -1]])
def test_a_reshape_with_the_batch_in_it_is_opened(tmp_path, target):
    nodes = [node("Relu", "x", "r"), node("Reshape", "r s", "f"), node("MatMul", "f w", "y")]
    proto = model(
        nodes, {"w": draw(8, 3), **shapes(s=target)}, inputs=[port("x", [1, 2, 2, 2])], outputs=[port("y", [1, 3])]
    )
    assert opened_as(proto, tmp_path).mends == ("the batch of 1 written into 1 shape opened",)


def test_a_batch_of_several_rows_is_opened(tmp_path):
    nodes = [node("Reshape", "x s", "f"), node("MatMul", "f w", "y")]
    proto = model(
        nodes, {"w": draw(8, 3), **shapes(s=[6, 8])}, inputs=[port("x", [6, 2, 4])], outputs=[port("y", [6, 3])]
    )
    assert opened_as(proto, tmp_path).mends == ("the batch of 6 written into 1 shape opened",)


def test_allowzero_that_means_no_zero(tmp_path):
    nodes = [node("Reshape", "x s", "f", allowzero=1), node("MatMul", "f w", "y")]
    proto = model(
        nodes,
        {"w": draw(8, 3), **shapes(s=[1, 8])},
        inputs=[port("x", [1, 2, 4])],
        outputs=[port("y", [1, 3])],
        opsets={"": 14},
    )
    opened_as(proto, tmp_path)


def test_a_class_token_is_repeated_for_every_row(tmp_path):
    nodes = [
        node("Concat", "token x", "t", axis=1),
        node("Reshape", "t s", "f"),
        node("MatMul", "f w", "y"),
    ]
    proto = model(
        nodes,
        {"token": draw(1, 1, 4), "w": draw(12, 3), **shapes(s=[1, 12])},
        inputs=[port("x", [1, 2, 4])],
        outputs=[port("y", [1, 3])],
    )
    assert opened_as(proto, tmp_path).mends == ("the batch of 1 written into 2 shapes opened",)


def test_a_batch_that_cannot_be_opened_is_kept_and_guarded(tmp_path):
    # The rows are summed over what the file takes for one row: only right for a batch of one.
    nodes = [node("Transpose", "x", "t", perm=[1, 0]), node("Reshape", "t s", "f"), node("MatMul", "f w", "y")]
    proto = model(
        nodes, {"w": draw(4, 3), **shapes(s=[-1, 4])}, inputs=[port("x", [1, 4])], outputs=[port("y", [1, 3])]
    )
    opened = open_onnx(save(proto, tmp_path))
    x = torch.from_numpy(draw(5, 4, seed=1))
    expected = x @ torch.from_numpy(draw(4, 3))
    assert torch.allclose(torch.func.vmap(lambda row: opened.module(row[None])[0])(x), expected, atol=1e-5)
    try:
        found = opened.module(x)
    except (ValueError, RuntimeError):
        return
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_flat_gather_in_order_is_a_reshape(tmp_path):
    nodes = [node("Reshape", "x flat", "f"), node("Gather", "f order", "g"), node("MatMul", "g w", "y")]
    weights = {"w": draw(4, 3), **shapes(flat=[-1], order=np.arange(4).reshape(1, 4))}
    proto = model(nodes, weights, inputs=[port("x", [1, 4])], outputs=[port("y", [1, 3])])
    mends = opened_as(proto, tmp_path).mends
    assert mends[0] == "1 flat reads turned back into shapes"


def test_a_flat_gather_out_of_order_stays():
    nodes = [node("Reshape", "x flat", "f"), node("Gather", "f order", "g"), node("MatMul", "g w", "y")]
    weights = {"w": draw(4, 3), **shapes(flat=[-1], order=[[3, 2, 1, 0]])}
    assert prepare(model(nodes, weights), PASSES) == []


def test_an_if_on_a_constant_follows_its_branch(tmp_path):
    branches = {
        key: helper.make_graph([node(operator, "z", "b")], key, [], [port("b", None)])
        for key, operator in (("then_branch", "Tanh"), ("else_branch", "Relu"))
    }
    proto = linear(end=[node("If", "on", "y", **branches)])
    proto.graph.initializer.append(numpy_helper.from_array(np.array(False), "on"))
    opened_as(proto, tmp_path)


def test_channels_last_images(tmp_path):
    nodes = [
        node("Transpose", "x", "t", perm=[0, 3, 1, 2]),
        node("Conv", "t k", "c", kernel_shape=[3, 3]),
        node("Transpose", "c", "l", perm=[0, 2, 3, 1]),
        node("ReduceMean", "l", "m", axes=[1, 2], keepdims=0),
        node("Softmax", "m", "y", axis=-1),
    ]
    proto = model(nodes, {"k": draw(3, 2, 3, 3)}, inputs=[port("x", ["n", 8, 8, 2])])
    opened = open_onnx(save(proto, tmp_path))
    assert opened.input_shape == (8, 8, 2)


@pytest.mark.parametrize(
    ("operator", "more"),
    [("Gelu", ""), ("FastGelu", " b"), ("QuickGelu", ""), ("BiasGelu", " b")],
)
def test_fused_contrib_activations(tmp_path, operator, more):
    proto = linear(end=[node(operator, "z" + more, "y", "com.microsoft")])
    proto.graph.initializer.append(numpy_helper.from_array(draw(3), "b"))
    opened_as(proto, tmp_path)


def test_fused_contrib_products(tmp_path):
    nodes = [
        node("FusedConv", "x k kb", "c", "com.microsoft", activation="Relu", kernel_shape=[3, 3]),
        node("ReduceMean", "c", "m", axes=[2, 3], keepdims=0),
        node("FusedGemm", "m g gb", "h", "com.microsoft", activation="LeakyRelu", activation_alpha=0.1, transB=1),
        node("FusedMatMul", "h v", "y", "com.microsoft", alpha=0.5, transB=1),
    ]
    weights = {"k": draw(4, 2, 3, 3), "kb": draw(4), "g": draw(5, 4), "gb": draw(5), "v": draw(3, 5)}
    opened_as(model(nodes, weights, inputs=[port("x", ["n", 2, 6, 6])]), tmp_path)


def test_skip_layer_normalization(tmp_path):
    proto = linear(end=[node("SkipLayerNormalization", "z z scale bias", "y", "com.microsoft")])
    proto.graph.initializer.extend(
        [numpy_helper.from_array(draw(3, seed=i), n) for i, n in enumerate(("scale", "bias"))]
    )
    opened_as(proto, tmp_path)


@pytest.mark.parametrize("scale", [np.float32(0.1), np.array([0.1, 0.2, 0.3], dtype=np.float32)])
def test_weights_stored_as_integers(tmp_path, scale):
    zero = np.zeros(np.shape(scale), dtype=np.int8) + np.int8(3)
    weights = {"q": np.arange(12, dtype=np.int8).reshape(4, 3), "s": np.asarray(scale), "zero": zero}
    nodes = [node("DequantizeLinear", "q s zero", "w", axis=1), node("MatMul", "x w", "y")]
    opened_as(model(nodes, weights), tmp_path)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_recurrent_rows(tmp_path, kind):
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[kind]
    nodes = [
        node("Transpose", "x", "t", perm=[1, 0, 2]),
        node(kind, "t w r", "- h", hidden_size=3),
        node("Squeeze", "h zero", "y"),
    ]
    weights = {"w": draw(1, 3 * gates, 4), "r": draw(1, 3 * gates, 3), **shapes(zero=[0])}
    opened_as(model(nodes, weights, inputs=[port("x", ["n", 6, 4])]), tmp_path)
