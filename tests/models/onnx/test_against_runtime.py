"""Operators that ONNX's own tests do not reach, against onnxruntime: fused attention, recurrence, stored bits."""

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from cake_cli.errors import ModelFileError
from cake_cli.models.onnx import open_onnx
from cake_cli.models.onnx.interpreter import Interpreter, UnsupportedOperator
from tests.models.onnx.files import draw, model, node, port, save

MS = "com.microsoft"
N, L, S, D, H = 3, 5, 6, 8, 2
BITS = np.random.default_rng(0)


def weights_of(arrays):
    return {name: array for name, array in arrays.items() if array is not None}


def graph(one, arrays, outputs, opset=21):
    """A graph of one node, whose inputs are constants but for the first."""
    arrays = weights_of(arrays)
    first = one.input[0]
    inputs = [port(first, arrays[first].shape, helper.np_dtype_to_tensor_dtype(arrays[first].dtype))]
    rest = {name: array for name, array in arrays.items() if name != first}
    return model([one], rest, inputs, [port(name, None) for name in outputs], {"": opset, MS: 1})


def compare(one, arrays, outputs=("y",), opset=21, within=1e-5):
    proto = graph(one, arrays, outputs, opset)
    x = arrays[one.input[0]]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    expected = session.run(list(outputs), {one.input[0]: x})
    rows = torch.from_numpy(x).requires_grad_()
    found = Interpreter(proto)(rows)
    found = found if isinstance(found, tuple) else (found,)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.allclose(ours.detach().numpy(), theirs, atol=within * np.abs(theirs).max())
    (slope,) = torch.autograd.grad(found[0].square().sum(), rows)
    assert slope.isfinite().all()
    assert slope.any()


def ints(*values):
    return np.array(values, dtype=np.int32)


MASKS = {
    "none": None,
    "ends": ints(5, 3, 1),
    "ends and starts": ints(5, 3, 4, 1, 0, 2),
    "of keys": BITS.integers(0, 2, (N, L)).astype(np.int32),
    "of pairs": BITS.integers(0, 2, (N, L, L)).astype(np.int32),
    "all hidden": np.zeros((N, L), dtype=np.int32),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("causal", [0, 1])
def test_attention_with_its_projections(mask, causal):
    arrays = {"x": draw(N, L, D), "w": draw(D, 3 * D, seed=1), "b": draw(3 * D, seed=2), "m": MASKS[mask]}
    inputs = "x w b" if MASKS[mask] is None else "x w b m"
    compare(node("Attention", inputs, "y", MS, num_heads=H, unidirectional=causal), arrays)


def test_attention_with_a_past_a_bias_and_unequal_sizes():
    past = {"x": draw(N, L, D), "w": draw(D, 3 * D, seed=1), "b": draw(3 * D, seed=2), "p": draw(2, N, H, 3, D // H)}
    compare(node("Attention", "x w b - p", "y kv", MS, num_heads=H, unidirectional=1), past, ("y", "kv"))
    added = {"x": draw(N, L, D), "w": draw(D, 3 * D, seed=1), "a": draw(1, H, L, L)}
    compare(node("Attention", "x w - - - a", "y", MS, num_heads=H, scale=0.3), added)
    unequal = {"x": draw(N, L, D), "w": draw(D, 20, seed=1), "b": draw(20)}
    compare(node("Attention", "x w b", "y", MS, num_heads=H, qkv_hidden_sizes=[8, 8, 4]), unequal)


KEY_MASKS = {
    "none": None,
    "ends": ints(6, 2, 1),
    "of keys": BITS.integers(0, 2, (N, S)).astype(np.int32),
    "of pairs": BITS.integers(0, 2, (N, L, S)).astype(np.int32),
}


@pytest.mark.parametrize("mask", KEY_MASKS)
def test_attention_of_another_sequence(mask):
    arrays = {"q": draw(N, L, D), "k": draw(N, S, D, seed=1), "v": draw(N, S, D, seed=2), "b": draw(3 * D, seed=3)}
    inputs = "q k v b" if KEY_MASKS[mask] is None else "q k v b m"
    compare(node("MultiHeadAttention", inputs, "y", MS, num_heads=H), arrays | {"m": KEY_MASKS[mask]})


def test_attention_of_keys_with_heads_and_with_a_past():
    keys = {"q": draw(N, L, D), "k": draw(N, H, S, D // H, seed=1), "v": draw(N, H, S, D // H, seed=2), "b": draw(24)}
    compare(node("MultiHeadAttention", "q k v b", "y", MS, num_heads=H), keys)
    plain = {"q": draw(N, L, D), "k": draw(N, L, D, seed=1), "v": draw(N, L, D, seed=2), "b": draw(24)}
    past = {"pk": draw(N, H, 3, D // H, seed=3), "pv": draw(N, H, 3, D // H, seed=4)}
    one = node("MultiHeadAttention", "q k v b - - pk pv", "y ok ov", MS, num_heads=H, unidirectional=1)
    compare(one, plain | past, ("y", "ok", "ov"))


def test_packed_keys_are_those_beside_each_other():
    q, k, v = (torch.from_numpy(draw(N, L, D, seed=seed)) for seed in range(3))
    parts = [part.reshape(N, L, H, D // H) for part in (q, k, v)]
    apart = model([node("MultiHeadAttention", "q k v", "y", MS, num_heads=H)], inputs=[port(n, None) for n in "qkv"])
    one = model([node("MultiHeadAttention", "q", "y", MS, num_heads=H)], inputs=[port("q", None)])
    two = model([node("MultiHeadAttention", "q k", "y", MS, num_heads=H)], inputs=[port("q", None), port("k", None)])
    expected = Interpreter(apart)(q, k, v)
    assert torch.allclose(Interpreter(one)(torch.stack(parts, 3)), expected, atol=1e-6)
    assert torch.allclose(Interpreter(two)(q, torch.stack(parts[1:], 3)), expected, atol=1e-6)


def test_causal_attention_of_a_longer_sequence_is_refused_by_name():
    arrays = {"q": draw(N, L, D), "k": draw(N, S, D), "v": draw(N, S, D)}
    module = Interpreter(
        graph(node("MultiHeadAttention", "q k v", "y", MS, num_heads=H, unidirectional=1), arrays, "y")
    )
    with pytest.raises(UnsupportedOperator, match="unidirectional over the keys of another sequence"):
        module(torch.zeros(N, L, D))


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("shape", [(N, L, D), (N, H, L, D // H)])
@pytest.mark.parametrize("places", [np.array([2]), BITS.integers(0, 20, (N, L))])
def test_rotary_positions(interleaved, shape, places):
    arrays = {"x": draw(*shape), "p": places, "c": draw(20, 2, seed=1), "s": draw(20, 2, seed=2)}
    compare(node("RotaryEmbedding", "x p c s", "y", MS, interleaved=interleaved), arrays)


@pytest.mark.parametrize("skip", [(N, L, D), (1, L, D), (L, D)])
def test_a_skip_before_the_layer_normalisation(skip):
    arrays = {"x": draw(N, L, D), "s": draw(*skip, seed=1), "g": draw(D), "b": draw(D), "o": draw(D, seed=2)}
    compare(node("SkipLayerNormalization", "x s g b o", "y - - t", MS, epsilon=1e-5), arrays, ("y", "t"))


GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
NAMED = {
    "HardSigmoid": ([0.3], [0.4]), "LeakyRelu": ([0.1], None), "ScaledTanh": ([0.5], [1.5]), "Affine": ([0.2], [0.1]),
    "Elu": (None, None), "Softsign": (None, None),
}  # fmt: skip


def recurrent(operator, **fields):
    directions, gates, hidden = 2 if fields.get("direction") == "bidirectional" else 1, GATES[operator], 3
    arrays = {
        "x": draw(L, N, 4), "w": draw(directions, gates * hidden, 4, seed=1) * 0.4,
        "r": draw(directions, gates * hidden, hidden, seed=2) * 0.4, "b": draw(directions, 2 * gates * hidden) * 0.4,
    }  # fmt: skip
    compare(node(operator, "x w r b", "y", hidden_size=hidden, **fields), arrays, opset=17)


@pytest.mark.parametrize("operator", GATES)
def test_recurrence_with_a_clip(operator):
    recurrent(operator, clip=0.3)
    recurrent(operator, clip=0.3, direction="bidirectional")


@pytest.mark.parametrize("operator", GATES)
@pytest.mark.parametrize("activation", NAMED)
def test_recurrence_with_other_activations(operator, activation):
    count = {"RNN": 1, "GRU": 2, "LSTM": 3}[operator]
    alpha, beta = NAMED[activation]
    given = {"activation_alpha": alpha, "activation_beta": beta}
    fields = {key: values * count for key, values in given.items() if values is not None}
    recurrent(operator, activations=[activation] * count, **fields)


CORNERS = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
RARE = {
    "resize down to a part of a pixel": (node("Resize", "x - f", "y", **CORNERS), {"f": [1, 1, 0.6, 0.7]}),
    "resize up to a part of a pixel": (node("Resize", "x - f", "y", **CORNERS), {"f": [1, 1, 2.3, 1.7]}),
    "resize to one pixel": (node("Resize", "x - f", "y", **CORNERS), {"f": [1, 1, 0.2, 0.2]}),
    "gaps between windows": (node("ConvTranspose", "x k", "y", strides=[3, 3], auto_pad="SAME_UPPER"), {}),
    "gaps at the beginning": (node("ConvTranspose", "x k", "y", strides=[3, 3], auto_pad="SAME_LOWER"), {}),
    "more than windows reach": (
        node("ConvTranspose", "x k", "y", strides=[3, 3], auto_pad="SAME_UPPER", output_shape=[18, 22]), {}),
    "wrap what is left": (node("Pad", "x a", "y", mode="wrap"), {"a": ints(0, 0, 0, -1, 0, 0, 0, 2)}),
    "wrap what is left in front": (node("Pad", "x a", "y", mode="wrap"), {"a": ints(0, 0, 3, 0, 0, 0, -2, 1)}),
    "backwards from before the start": (node("Slice", "x a a c c", "y"), {"a": ints(-99), "c": ints(-1)}),
}  # fmt: skip


@pytest.mark.parametrize("case", RARE)
def test_rare_settings(case):
    one, more = RARE[case]
    arrays = {name: np.array(values, np.int64 if name in "abc" else np.float32) for name, values in more.items()}
    kernel = {"k": draw(2, 3, 2, 2)} if "k" in one.input else {}
    compare(one, {"x": draw(1, 2, 6, 7)} | kernel | arrays, opset=19)


def test_a_slice_of_nothing_is_empty():
    arrays = {"x": draw(3, 5), "a": np.array([1]), "b": np.array([3]), "c": np.array([-1])}
    module = Interpreter(graph(node("Slice", "x a b c c", "y"), arrays, "y"))
    assert module(torch.zeros(3, 5)).shape == (3, 0)


@pytest.mark.parametrize(("operator", "values", "wanted"), [
    ("Max", "s", [3, 4]), ("Max", "s a b", [5, 5]), ("Min", "s", [3, 4]), ("Min", "s a b", [3, 2]),
])  # fmt: skip
def test_the_largest_and_the_smallest_of_any_number_of_sizes(operator, values, wanted):
    nodes = [node("Shape", "x", "s"), node(operator, values, "y")]
    proto = model(nodes, {"a": np.array([4, 2]), "b": np.array(5)}, outputs=[port("y", None)])
    assert Interpreter(proto)(torch.zeros(3, 4)).tolist() == wanted


def test_an_even_picture_has_a_slope():
    module = Interpreter(graph(node("MeanVarianceNormalization", "x", "y"), {"x": draw(2, 3, 4, 4)}, "y", 13))
    rows = torch.zeros(2, 3, 4, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(module(rows)[:, :, 0].sum(), rows)
    assert slope.isfinite().all()


def stored(array, kind, name):
    return numpy_helper.from_array(array.astype(helper.tensor_dtype_to_np_dtype(kind)), name)


@pytest.mark.parametrize("kind", [TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4])
@pytest.mark.parametrize("blocks", [True, False])
def test_weights_stored_as_integers(tmp_path, kind, blocks):
    low = 0 if kind in (TensorProto.UINT8, TensorProto.UINT4) else -8
    places = (3, 3) if blocks else (3,)
    nodes = [
        node("DequantizeLinear", "q s z", "w", axis=0 if blocks else 1, **({"block_size": 4} if blocks else {})),
        node("MatMul", "x w", "y"),
    ]
    proto = model(nodes, {"s": np.abs(draw(*places)) + 0.1}, inputs=[port("x", ["n", 10])], opsets={"": 21})
    proto.ir_version = 10
    proto.graph.initializer.append(stored(BITS.integers(low, low + 16, (10, 3)), kind, "q"))
    proto.graph.initializer.append(stored(BITS.integers(low, low + 16, places), kind, "z"))
    opened = open_onnx(save(proto, tmp_path))
    x = draw(6, 10)
    assert opened.facts["compared"].startswith("with onnx")
    assert np.allclose(opened.module(torch.from_numpy(x)).numpy(), opened.reference(x), rtol=1e-4, atol=1e-4)


def test_cut_off_stored_weights_are_refused(tmp_path):
    proto = model([node("DequantizeLinear", "q s", "w"), node("MatMul", "x w", "y")], {"s": draw(1)})
    tensor = stored(BITS.integers(0, 16, (4, 3)), TensorProto.UINT4, "q")
    tensor.raw_data = tensor.raw_data[:5]
    proto.graph.initializer.append(tensor)
    with pytest.raises(ModelFileError, match="declares 6 bytes and has 5"):
        open_onnx(save(proto, tmp_path))


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_products_with_weights_of_a_few_bits(bits, zeros):
    inside, outside, block = 70, 5, 32
    blocks = -(-inside // block)
    arrays = {
        "x": draw(N, inside),
        "b": BITS.integers(0, 256, (outside, blocks, block * bits // 8)).astype(np.uint8),
        "s": np.abs(draw(outside * blocks, seed=1)) * 0.1,
    }
    if zeros:
        arrays["z"] = BITS.integers(0, 256, (outside * -(-blocks * bits // 8),)).astype(np.uint8)
    inputs = "x b s z" if zeros else "x b s"
    compare(node("MatMulNBits", inputs, "y", MS, K=inside, N=outside, bits=bits, block_size=block), arrays, within=1e-4)


def test_a_graph_made_for_one_processor_is_refused_with_what_to_do(tmp_path):
    proto = model([node("Conv", "x w", "y", "com.microsoft.nchwc")], {"w": draw(8, 4, 1, 1)}, opsets={"": 17, MS: 1})
    proto.opset_import.add(domain="com.microsoft.nchwc", version=1)
    with pytest.raises(ModelFileError, match="for the processor that it ran on") as caught:
        open_onnx(save(proto, tmp_path))
    assert "ORT_ENABLE_EXTENDED" in caught.value.fix
