import copy

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from cake_cli.models.onnx import open_onnx
from cake_cli.models.onnx.comparison import probe_rows
from cake_cli.models.onnx.interpreter import GraphError, Interpreter, UnsupportedOperator
from cake_cli.models.onnx.interpreter import module as interpreting
from cake_cli.models.onnx.interpreter.host import Host
from cake_cli.models.onnx.signature import Rows
from cake_cli.models.onnx.trial import Mismatch, Trial, Witness
from tests.models.onnx.files import INT64, draw, linear, model, node, port, save


def ints(*values):
    return np.array(values, dtype=np.int64)


def flattening():
    """Flattens with shape arithmetic, as the legacy exporter writes `x.view(x.size(0), -1)`."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n", axis=0),
        node("Unsqueeze", "n first", "u"),
        node("Concat", "u rest", "t", axis=0),
        node("Reshape", "x t", "f"),
        node("MatMul", "f w", "y"),
    ]
    weights = {"zero": np.array(0, dtype=np.int64), "first": ints(0), "rest": ints(-1), "w": draw(8, 3)}
    return model(nodes, weights, inputs=[port("x", ["n", 2, 4])])


def test_shape_arithmetic_never_reads_the_device(monkeypatch):
    module = Interpreter(flattening())

    def forbidden(*_):
        raise AssertionError("a tensor was read on the host")

    monkeypatch.setattr(Host, "of", forbidden)
    monkeypatch.setattr(torch.Tensor, "tolist", forbidden)
    monkeypatch.setattr(torch.Tensor, "item", forbidden)
    for rows in (1, 4, 7):
        assert module(torch.zeros(rows, 2, 4)).shape == (rows, 3)


def test_what_is_constant_is_computed_once():
    nodes = [node("Transpose", "w", "t"), node("Mul", "t two", "v"), node("MatMul", "x v", "y")]
    module = Interpreter(model(nodes, {"w": draw(3, 4), "two": np.array(2, dtype=np.float32)}))
    assert [step.node.operator for step in module.program.steps] == ["MatMul"]


def test_a_graph_can_be_compiled_whole():
    module = Interpreter(flattening())
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="eager", fullgraph=True, dynamic=True)
    x = torch.from_numpy(draw(5, 2, 4))
    assert torch.equal(compiled(x), module(x))


def test_a_graph_can_be_mapped_over_batches_of_one():
    module = Interpreter(flattening())
    x = torch.from_numpy(draw(5, 2, 4))
    assert torch.allclose(torch.func.vmap(lambda row: module(row[None])[0])(x), module(x), atol=1e-6)


def test_weights_move_with_the_module():
    module = Interpreter(flattening())
    assert not list(module.parameters())
    twin = copy.deepcopy(module).double()
    x = torch.from_numpy(draw(5, 2, 4))
    assert twin(x.double()).dtype is torch.float64
    assert module(x).dtype is torch.float32
    assert torch.allclose(twin(x.double()).float(), module(x), atol=1e-5)


def test_float_casts_follow_the_precision_of_the_module():
    nodes = [
        node("Shape", "x", "s"),
        node("Cast", "s", "f", to=1),
        node("Gather", "f one", "n"),
        node("Mul", "x n", "z"),
    ]
    proto = model([*nodes, node("MatMul", "z w", "y")], {"one": np.array(1, dtype=np.int64), "w": draw(4, 3)})
    module = Interpreter(proto).to(torch.bfloat16)
    assert module(torch.ones(2, 4, dtype=torch.bfloat16)).dtype is torch.bfloat16


def test_batch_normalisations_are_modules_that_can_be_hooked():
    names = ("scale", "bias", "mean", "variance")
    weights = {name: np.abs(draw(2, seed=index)) + 0.1 for index, name in enumerate(names)}
    proto = model(
        [
            node("BatchNormalization", "x " + " ".join(names), "b"),
            node("ReduceMean", "b", "y", axes=[2, 3], keepdims=0),
        ],
        weights,
        inputs=[port("x", ["n", 2, 3, 3])],
    )
    module = Interpreter(proto)
    norms = [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)]
    assert len(norms) == 1
    assert torch.equal(norms[0].running_var, torch.from_numpy(weights["variance"]))
    seen = []
    norms[0].register_forward_hook(lambda *arguments: seen.append(arguments))
    module(torch.zeros(4, 2, 3, 3))
    assert len(seen) == 1


def test_rows_that_multiply_or_vanish_raise(tmp_path):
    nodes = [node("Reshape", "x s", "f"), node("MatMul", "f w", "y")]
    proto = model(nodes, {"s": ints(-1, 4), "w": draw(4, 3)}, inputs=[port("x", ["n", 8])], outputs=[port("y", None)])
    with pytest.raises(Exception, match="not \\(batch, classes\\)"):
        open_onnx(save(proto, tmp_path))


def test_a_failing_step_names_its_node():
    proto = linear(end=[helper.make_node("Add", ["z", "b"], ["y"], "the_sum")])
    proto.graph.initializer.append(numpy_helper.from_array(draw(7), "b"))
    with pytest.raises(GraphError, match=r"Add \(opset 13, node 'the_sum'\)"):
        Interpreter(proto)(torch.zeros(2, 4))


def test_training_mode_is_refused():
    proto = linear(end=[node("Dropout", "z ratio on", "y")])
    proto.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(0.5, dtype=np.float32), "ratio"),
            numpy_helper.from_array(np.array(True), "on"),
        ]
    )
    with pytest.raises(UnsupportedOperator, match="training mode"):
        Interpreter(proto)(torch.zeros(2, 4))


@pytest.mark.parametrize(("opset", "share"), [(12, 0.25), (13, 0.5)])
def test_softmax_normalises_what_its_opset_says(opset, share):
    nodes = [node("Softmax", "x", "y", axis=1)]
    proto = model(nodes, inputs=[port("x", [1, 2, 2])], outputs=[port("y", None)], opsets={"": opset})
    assert torch.equal(Interpreter(proto)(torch.zeros(1, 2, 2)), torch.full((1, 2, 2), share))


def test_a_loop_of_known_length_is_differentiable():
    body = helper.make_graph(
        [node("Identity", "going", "still"), node("Mul", "state half", "next")],
        "body",
        [port("turn", [], INT64), port("going", [], 9), port("state", None)],
        [port("still", [], 9), port("next", None)],
        [numpy_helper.from_array(np.array(0.5, dtype=np.float32), "half")],
    )
    proto = linear(end=[node("Loop", "three - z", "y", body=body)])
    proto.graph.initializer.append(numpy_helper.from_array(np.array(3, dtype=np.int64), "three"))
    x = torch.ones(2, 4, requires_grad=True)
    y = Interpreter(proto)(x)
    assert torch.allclose(y, (x @ torch.from_numpy(draw(4, 3))) / 8, atol=1e-6)
    assert torch.autograd.grad(y.sum(), x)[0].abs().sum() > 0


def looping(name, inside=None):
    """A Loop of ``turns`` turns that doubles its state, or runs another Loop on it."""
    body = helper.make_graph(
        [node("Identity", f"{name}_on", f"{name}_still"),
         node("Add", f"{name}_in {name}_in", f"{name}_out") if inside is None else inside(f"{name}_in", f"{name}_out")],
        "body",
        [port(f"{name}_turn", [], INT64), port(f"{name}_on", [], 9), port(f"{name}_in", None)],
        [port(f"{name}_still", [], 9), port(f"{name}_out", None)],
    )  # fmt: skip
    return lambda before, after: node("Loop", f"turns - {before}", after, body=body)


@pytest.mark.parametrize("turns", [9, 12])
def test_loops_in_loops_are_counted_together(monkeypatch, turns):
    monkeypatch.setattr(interpreting, "MOST_STEPS", 300)
    proto = linear(end=[looping("outer", looping("inner"))("z", "y")])
    proto.graph.initializer.append(numpy_helper.from_array(np.array(turns, dtype=np.int64), "turns"))
    module = Interpreter(proto)
    if turns == 12:
        with pytest.raises(UnsupportedOperator, match="loops of more than 300 steps in all"):
            module(torch.zeros(2, 4))
        return
    for _ in range(3):
        assert module(torch.zeros(2, 4)).shape == (2, 3), "each forward is counted by itself"


@pytest.mark.parametrize("converter", ["interpreter", "onnx2torch"])
def test_both_ways_are_open(tmp_path, converter):
    opened = open_onnx(save(linear(), tmp_path), converter=converter)
    assert opened.converter == converter
    x = torch.from_numpy(draw(5, 4))
    assert torch.allclose(opened.module(x), x @ torch.from_numpy(draw(4, 3)), atol=1e-5)


def test_an_unfaithful_conversion_is_refused(tmp_path, monkeypatch):
    from cake_cli.errors import ModelFileError
    from cake_cli.models.onnx import opening

    class Off(nn.Module):
        def forward(self, x):
            return x[:, :3] * 1.001

    monkeypatch.setattr(opening, "convert", lambda model, way: Off())
    with pytest.raises(ModelFileError, match=r"cannot be converted faithfully: it differs from onnxruntime by"):
        open_onnx(save(linear(), tmp_path))


def test_a_file_that_float32_rounds_off_is_held_to_no_more_than_that(tmp_path):
    wide = np.abs(draw(4, 4000)) * 3000
    back = draw(4000, 3, seed=1)
    back -= back.mean(0)  # what is left of large sums
    nodes = [node("MatMul", "x u", "h"), node("Add", "h far", "s"), node("MatMul", "s v", "y")]
    proto = model(nodes, {"u": wide * 1e-4, "far": np.array(60, np.float32), "v": back})
    opened = open_onnx(save(proto, tmp_path))
    assert float(opened.facts["compared"].split()[-1]) > 1e-4
    proto.graph.initializer[2].CopyFrom(numpy_helper.from_array(back * 1.01, "v"))
    other = open_onnx(save(proto, tmp_path, "other.onnx"))
    trial = Trial(Rows((4,), True, None), is_float=True, kind="logits", opinion=lambda: [off(other.reference)])
    with pytest.raises(Mismatch):
        trial.settle(opened.module.body)


def off(reference):
    return Witness("test", reference(probe_rows(Rows((4,), True, None), True)), lambda: None, "logits")


def test_without_verification_nothing_is_compared(tmp_path):
    opened = open_onnx(save(linear(), tmp_path), verify=False)
    assert opened.reference is None
    assert "compared" not in opened.facts
