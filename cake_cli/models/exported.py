"""torch.export packages (.pt2): opened only where the user trusts the file, because loading can run code."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cake_cli.config import TeacherConfig
from cake_cli.errors import ModelFileError
from cake_cli.models.archive import require_sound_archive
from cake_cli.models.attached import read_attached
from cake_cli.models.layouts import Attempt, find_layout, last_line, puts_back
from cake_cli.models.opened import OpenedModel, OutputKind
from cake_cli.spec import format_shape

_TRAINING_FLAG = {"dropout": 2, "feature_dropout": 2, "alpha_dropout": 2, "batch_norm": 5}
"""Position of the argument that an export in training mode fixes as true."""
_RESHAPES = {"view", "reshape", "squeeze", "unsqueeze", "flatten", "contiguous", "clone", "_unsafe_view"}
_TAILS: dict[str, OutputKind] = {
    "softmax": "probs",
    "_softmax": "probs",
    "log_softmax": "log-probs",
    "_log_softmax": "log-probs",
    "sigmoid": "sigmoid",
}


def open_exported(path: Path, settings: TeacherConfig) -> OpenedModel:
    """Opens a torch.export package as a differentiable classifier.

    Args:
        path: the file.
        settings: `trust` must be set: torch 2.15 falls back to unpickling while it loads one.

    Raises:
        ModelFileError: if it is not trusted, compiled to native code, damaged, or no classifier.
        UsageError: if there is no output of the name that is wanted.
    """
    if not settings.trust:
        raise ModelFileError(
            f"{path} is a torch.export package; loading one can run code that is hidden in it, so it is not loaded",
            "--trust, if you know who made it; or export the model as ONNX",
        )
    names = [entry.filename for entry in require_sound_archive(path)]
    if any("aotinductor" in name or name.endswith((".so", ".cubin")) for name in names):
        raise ModelFileError(
            f"{path} is compiled by AOTInductor to native code, which has no gradient",
            "save the exported program itself: torch.export.save(torch.export.export(model, args), FILE)",
        )
    program = _load(path)
    shape = _input(path, program)
    module, mends = _module(program)
    batch, *row = shape
    form = _row(path, row, settings)
    tries: list[Attempt] = [(form, 3), (form, 1)]
    if isinstance(batch, int) and batch > 1:
        tries.append((form, batch))
    if not row:
        tries = [((int(batch),), 0)]
    layout = find_layout(module, tries, output=settings.output)
    kind: OutputKind = "logits"
    if layout.scores is None:
        bare, _ = _module(program)
        kind = _take_off_tail(bare.program)
        if kind != "logits" and puts_back(kind, bare, layout.module, layout):
            layout = find_layout(bare, [(layout.shape, layout.tried)])
        else:
            kind = "logits"
    return OpenedModel(
        module=layout.module,
        input_shape=layout.shape,
        output_kind=kind,
        converter="torch.export",
        facts={
            "format": "torch.export: loaded because it is trusted (--trust)",
            "input shape": format_shape([str(size) for size in shape]),
        },
        mends=tuple(mends),
        metadata=read_attached(path),
        fixed_batch=layout.fixed_batch,
        has_batch_axis=layout.has_batch_axis,
    )


class Exported(nn.Module):
    """An exported graph that stays as it is in ``eval()``, which it would refuse, and moves between devices."""

    def __init__(self, program: torch.fx.GraphModule) -> None:
        super().__init__()
        program.recompile()
        self.program = program  # not graph: torch's own modules have one, and exporters look there

    def forward(self, rows: Tensor) -> Any:
        """(N, *shape) to whatever the file returns."""
        return self.program(rows)

    def train(self, mode: bool = True) -> Exported:
        """Sets the flag of this wrapper only."""
        self.training = mode
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Exported:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = fn(torch.empty(0)).device
        nodes = [node for node in self.program.graph.nodes if isinstance(node.kwargs.get("device"), torch.device)]
        for node in nodes:
            node.kwargs = {**node.kwargs, "device": device}
        if nodes:
            self.program.recompile()
        return self


def _module(program: torch.export.ExportedProgram) -> tuple[Exported, list[str]]:
    """The program in float32 and eval mode, and what had to be mended."""
    graph = program.module()
    mends = _undo_training(graph.graph)
    if any(tensor.is_floating_point() and tensor.dtype != torch.float32 for tensor in graph.state_dict().values()):
        graph = graph.float()
        mends.append("weights to float32")
    return Exported(graph), mends


def _load(path: Path) -> torch.export.ExportedProgram:
    log = torch.export.log  # tells of older forms on the terminal, with a traceback
    silent, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.load(path)
    except Exception as fault:  # a damaged package fails in any way
        raise ModelFileError(
            f"{path} cannot be loaded as a torch.export package: {last_line(fault)}",
            "export it again with this version of torch: torch.export.save(torch.export.export(model, args), FILE)",
        ) from fault
    finally:
        log.disabled = silent


def _input(path: Path, program: torch.export.ExportedProgram) -> tuple[int | str, ...]:
    """The shape of the only input, open sizes by name."""
    inputs = set(program.graph_signature.user_inputs)
    values = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    if len(tensors) != 1 or len(inputs) != 1:
        raise ModelFileError(
            f"{path} takes {len(inputs)} inputs, a teacher takes one tensor",
            "wrap it in a module that holds the others: file.py:function, a function that returns it",
        )
    return tuple(size if isinstance(size, int) else str(size) for size in tensors[0].shape)


def _row(path: Path, row: list[int | str], settings: TeacherConfig) -> tuple[int, ...]:
    """One row, with the sizes that the file leaves open from the user.

    Raises:
        ModelFileError: if a size stays open.
    """
    if all(isinstance(size, int) for size in row):
        return tuple(int(size) for size in row)
    given = settings.input_shape
    if given is None or len(given) != len(row):
        raise ModelFileError(
            f"{path} leaves sizes of its input open: {format_shape(row)}", f"--input-shape {','.join(map(str, row))}"
        )
    return given


def _undo_training(graph: torch.fx.Graph) -> list[str]:
    """Turns off dropout and batch statistics that an export in training mode fixed."""
    changed = 0
    for node in graph.nodes:
        place = _TRAINING_FLAG.get(_operator(node))
        if place is not None and len(node.args) > place and node.args[place] is True:
            node.args = (*node.args[:place], False, *node.args[place + 1 :])
            changed += 1
    return [f"exported in training mode: {changed} layers put in eval mode"] if changed else []


def _take_off_tail(program: torch.fx.GraphModule) -> OutputKind:
    """Lets a program return what goes into its final softmax, log-softmax or sigmoid, if it has one output.

    Operators that only change the shape may stand after it.
    """
    graph = program.graph
    reader = next(node for node in graph.nodes if node.op == "output")
    returned: Any = reader.args[0]
    last = returned[0] if isinstance(returned, (tuple, list)) and len(returned) == 1 else returned
    while _operator(last) in _RESHAPES:
        reader, last = last, last.args[0]
    kind = _TAILS.get(_operator(last))
    if kind is None:
        return "logits"
    reader.replace_input_with(last, last.args[0])
    if not last.users:
        graph.erase_node(last)
    program.recompile()
    return kind


def _operator(node: Any) -> str:
    """``softmax`` of a call of aten.softmax.int; empty for anything else."""
    if getattr(node, "op", None) != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return ""
    return node.target._schema.name.removeprefix("aten::")
