"""Small edits of a loaded TorchScript graph, made before it is first run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from cake_cli.models.opened import OutputKind
from cake_cli.models.torchscript.scanning import SPEAKS, every_node

_TAILS: dict[str, OutputKind] = {
    "aten::softmax": "probs",
    "aten::log_softmax": "log-probs",
    "aten::sigmoid": "sigmoid",
}
_RESHAPES = {f"aten::{name}" for name in ("view", "reshape", "squeeze", "unsqueeze", "flatten", "contiguous", "detach")}
_TRAINING_FLAG = {"aten::dropout": 2, "aten::feature_dropout": 2, "aten::alpha_dropout": 2, "aten::batch_norm": 5}
"""Position of the argument that a trace in training mode bakes in as true."""


def silence(module: torch.jit.ScriptModule) -> str | None:
    """Takes out what would write on the terminal, whatever it says; a sentence if there was any.

    It may stand in a function, whose graph cannot be reached: so all is put into one graph first.
    """
    torch._C._jit_pass_inline(module.graph)
    speaking = [node for node in every_node(module.graph) if node.kind() in SPEAKS]
    for node in speaking:
        node.destroy()
    return f"prints and warnings of its code left out ({len(speaking)} places)" if speaking else None


def graphs(module: torch.jit.ScriptModule) -> Iterator[Any]:
    """The graph of every method of a module and of those inside it."""
    for part in module.modules():
        compiled: Any = part._c
        for name in compiled._method_names():
            yield compiled._get_method(name).graph


def undo_training(module: torch.jit.ScriptModule) -> str | None:
    """Turns off dropout and batch statistics that a trace baked in; a sentence if there were any."""
    changed = 0
    for graph in graphs(module):
        for node in list(every_node(graph)):
            position = _TRAINING_FLAG.get(node.kind())
            if position is None:
                continue
            value = node.inputsAt(position)
            if value.node().kind() == "prim::Constant" and value.toIValue() is True:
                node.replaceInput(position, _constant(graph, node, False))
                changed += 1
    return f"traced in training mode: {changed} layers put in eval mode" if changed else None


def set_device(module: torch.jit.ScriptModule, device: torch.device) -> str | None:
    """Replaces the device that a trace baked in; a sentence if there was one."""
    changed = 0
    for graph in graphs(module):
        for node in list(every_node(graph)):
            if node.kind() != "prim::Constant" or node.outputsSize() != 1:
                continue
            value = node.output().toIValue()
            if isinstance(value, torch.device):
                node.output().replaceAllUsesWith(_constant(graph, node, device))
                changed += 1
    return f"the device that the trace fixed is left free ({changed} places)" if changed else None


def _constant(graph: Any, before: Any, value: object) -> Any:
    """A new constant, placed before a node."""
    constant = graph.insertConstant(value)
    constant.node().moveBefore(before)
    return constant


def take_off_tail(module: torch.jit.ScriptModule) -> OutputKind:
    """Makes the module return what goes into its final softmax, log-softmax or sigmoid.

    Follows the output through submodules, and through operators that only change its shape; leaves the module
    alone where it ends in anything else.
    """
    graph, part, reader = module.graph, module, None
    outputs = list(graph.outputs())
    while len(outputs) == 1:
        value = outputs[0] if reader is None else reader.inputsAt(0)
        node = value.node()
        kind, position = _tail(node)
        if kind is not None:
            entered = node.inputsAt(position)
            if reader is not None:
                reader.replaceInput(0, entered)
            else:
                graph.eraseOutput(0)
                graph.registerOutput(entered)
            return kind
        if node.kind() in _RESHAPES:
            reader = node
            continue
        inner = _called(part, node)
        if inner is None:
            return "logits"
        graph, part, reader = inner.graph, inner, None
        outputs = list(graph.outputs())
    return "logits"


def _tail(node: Any) -> tuple[OutputKind | None, int]:
    """What a final node does to the logits, and which of its inputs they are."""
    if node.kind() == "prim::CallFunction" and node.inputsAt(0).node().hasAttribute("name"):
        return _TAILS.get("aten::" + node.inputsAt(0).node().s("name")), 1
    return _TAILS.get(node.kind()), 0


def _called(module: torch.jit.ScriptModule, node: Any) -> torch.jit.ScriptModule | None:
    """The direct submodule whose forward a node calls, if it is used once."""
    if node.kind() != "prim::CallMethod" or node.s("name") != "forward":
        return None
    owner = node.inputsAt(0).node()
    if owner.kind() != "prim::GetAttr":
        return None
    name = owner.s("name")
    return getattr(module, name, None) if _only_use(name, module.graph) else None


def _only_use(name: str, graph: Any) -> bool:
    owners = [n for n in every_node(graph) if n.kind() == "prim::GetAttr" and n.s("name") == name]
    return len(owners) == 1
