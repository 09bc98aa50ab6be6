"""Opening a TorchScript file as a teacher: scan, load, mend, find its input."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cake_cli.config import TeacherConfig
from cake_cli.errors import ModelFileError
from cake_cli.models.archive import require_sound_archive
from cake_cli.models.attached import read_attached
from cake_cli.models.doubts import refuse_other_tasks
from cake_cli.models.layouts import (
    Layout,
    attempts,
    find_layout,
    last_line,
    puts_back,
    sides_that_run,
    traced_attempts,
)
from cake_cli.models.opened import OpenedModel, OutputKind
from cake_cli.models.torchscript.attention import FUSED, give_derivatives
from cake_cli.models.torchscript.editing import set_device, silence, take_off_tail, undo_training
from cake_cli.models.torchscript.records import read_extra, traced_shape
from cake_cli.models.torchscript.scanning import every_node, may_speak, scan_archive, scan_graph, takes_indices


def open_torchscript(path: Path, settings: TeacherConfig) -> OpenedModel:
    """Opens a TorchScript file as a differentiable classifier; runs the graph that it holds.

    Args:
        path: the file, scripted or traced.
        settings: the input's shape where the file does not carry its tracing example, and which output.

    Returns:
        A module from (N, *row), or one row without a batch axis, to logits.

    Raises:
        ModelFileError: if the file is damaged, touches other files, is quantised or optimised, does not state
            its input's shape, or is no classifier.
        UsageError: if there is no output of the name that is wanted.
    """
    entries = require_sound_archive(path)
    scan_archive(path)
    module, mends = _load(path, torch.device("cpu"))
    _require_one_input(path, module)
    scan_graph(path, module)
    if takes_indices(module.inlined_graph):
        raise ModelFileError(
            f"{path} looks its input up in a table of embeddings: it takes words or categories, not numbers",
            "give a classifier of images or vectors",
        )
    if FUSED & {node.kind() for node in every_node(module.inlined_graph)}:
        give_derivatives()
        mends.append("fused attention, which has no derivative, is computed by plain operators")
    metadata = read_extra(path, entries) | read_attached(path)
    refuse_other_tasks(metadata)
    layout, source = _layout(path, module, settings)
    kind = _kind(path, module, layout)
    if kind != "logits":
        module, _ = _load(path, torch.device("cpu"))
        take_off_tail(module)
    whole = Scripted(module, path, kind)
    rebuilt = find_layout(whole, [(layout.shape, layout.tried)], output=layout.scores)
    facts = {"format": "TorchScript: a program, whose graph is run", "input from": source}
    if layout.scores is not None:
        facts["scores"] = layout.scores
    return OpenedModel(
        module=rebuilt.module,
        input_shape=layout.shape,
        output_kind=kind,
        converter="torchscript",
        facts=facts,
        mends=tuple(mends),
        metadata=metadata,
        fixed_batch=layout.fixed_batch,
        has_batch_axis=layout.has_batch_axis,
    )


def _require_one_input(path: Path, module: torch.jit.ScriptModule) -> None:
    compiled: Any = module._c
    methods = compiled._method_names()
    if "forward" not in methods:
        raise ModelFileError(
            f"{path} has no forward method" + (f", only {', '.join(methods)}" if methods else ""),
            "save a module whose forward takes rows and returns scores: torch.jit.save(torch.jit.script(model), FILE)",
        )
    forward: Any = module.forward
    arguments = forward.schema.arguments[1:]
    names = [argument.name for argument in arguments if not argument.has_default_value()]
    if len(names) != 1:
        raise ModelFileError(
            f"{path} takes {len(names)} inputs ({', '.join(names)}), a teacher takes one"
            if names
            else f"{path} takes no input",
            "wrap it in a module that holds the others: file.py:function, a function that returns it",
        )
    kind = next(str(argument.type) for argument in arguments if argument.name == names[0])
    if kind not in ("Tensor", "Optional[Tensor]"):
        raise ModelFileError(
            f"{path} takes {kind} ({names[0]}), not a tensor of rows",
            "wrap it in a module that takes a tensor: file.py:function, a function that returns it",
        )


class Scripted(nn.Module):
    """A script module that tells its errors in one line, and is loaded anew for another device.

    A trace bakes in the device it was made on, and a graph cannot be changed once it has run: so moving to
    another device means to load and mend it again.
    """

    def __init__(self, module: torch.jit.ScriptModule, path: Path, kind: OutputKind) -> None:
        super().__init__()
        self.module = module
        self.path = path
        self.kind = kind

    def forward(self, rows: Tensor) -> Any:
        """(N, *shape) to whatever the file returns."""
        try:
            return self.module(rows)
        except (RuntimeError, torch.jit.Error) as fault:
            raise RuntimeError(last_line(fault)) from fault

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Scripted:
        target = fn(torch.empty(0)).device
        here = next((tensor.device for tensor in self.module.state_dict().values()), torch.device("cpu"))
        if target != here and target.type != "meta":
            self.module = _load(self.path, target)[0].requires_grad_(False)
            if self.kind != "logits":
                take_off_tail(self.module)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _load(path: Path, device: torch.device) -> tuple[torch.jit.ScriptModule, list[str]]:
    """The module in float32 and eval mode on a device, and what had to be mended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
        except Exception as fault:  # what torch's reader throws on damage comes out as any kind
            if "required keyword attribute 'value' is undefined" in str(fault):
                raise ModelFileError(
                    f"{path} was saved after optimize_for_inference, so its output has no gradient",
                    "save the module from before it: torch.jit.save(torch.jit.script(model.eval()), FILE)",
                ) from fault
            raise ModelFileError(
                f"{path} cannot be loaded as TorchScript: {last_line(fault)}",
                "save it again with this version of torch: torch.jit.save(torch.jit.trace(model, example), FILE)",
            ) from fault
    mends = []
    if any(getattr(part, "training", False) for part in module.modules()):
        mends.append("saved in training mode: put in eval mode")
    module = module.eval()
    if any(tensor.dtype in (torch.float16, torch.bfloat16, torch.float64) for tensor in module.state_dict().values()):
        module = module.float()
        mends.append("weights to float32")
    if may_speak(path):
        mends += [mend for mend in (silence(module),) if mend]
    mends += [mend for mend in (undo_training(module), set_device(module, device)) if mend]
    return module, mends


def _layout(path: Path, module: torch.jit.ScriptModule, settings: TeacherConfig) -> tuple[Layout, str]:
    """The form of a row, and who said so: the user, the file's tracing example, or its first weight."""
    whole = Scripted(module, path, "logits")
    example = traced_shape(path)
    if settings.input_shape is not None:
        tries = attempts(settings.input_shape)
        if example and example[1:] == settings.input_shape:  # perhaps it takes no other batch
            tries += [one for one in traced_attempts(example) if one not in tries]
        return find_layout(whole, tries, output=settings.output), "--input-shape"
    if example:
        return find_layout(whole, traced_attempts(example), output=settings.output), "the example it was traced with"
    first = next((tensor for tensor in _weights(module) if tensor.dim() in (2, 3, 4)), None)
    if first is not None and first.dim() == 2:
        try:
            found = find_layout(whole, attempts((first.shape[1],)), output=settings.output)
        except ModelFileError:
            pass
        else:
            return found, "its first weight"
    raise _shapeless(path, whole, first)


def _weights(module: torch.jit.ScriptModule) -> Iterator[Tensor]:
    """The weights of a module; of a frozen one, which has none of its own, those that its graph uses, in order."""
    yield from module.state_dict().values()
    for node in every_node(module.inlined_graph):
        for value in node.inputs():
            if value.node().kind() == "prim::Constant" and isinstance(value.toIValue(), Tensor):
                yield value.toIValue()


def _shapeless(path: Path, module: nn.Module, first: Tensor | None) -> ModelFileError:
    """What can be said of an input whose shape is not stated: channels, and the sizes that run."""
    told = f"{path} does not state the shape of its input"
    if first is None or first.dim() != 4:
        kind = "" if first is None or first.dim() == 2 else "; its first layer is a convolution along one axis"
        return ModelFileError(
            told + kind, "--input-shape 3,224,224, or as it was trained: C,H,W for images, D for vectors"
        )
    channels = first.shape[1]
    sides, all_tried = sides_that_run(module, channels)
    runs = f", and of the sizes tried it runs on {', '.join(map(str, sides))} pixels" if sides else ""
    if not sides:
        runs = ", and it runs on none of the sizes of square images that were tried" if all_tried else ""
    side = sides[0] if len(sides) == 1 else None
    return ModelFileError(
        f"{told}; its first convolution takes {channels} channel{'' if channels == 1 else 's'}{runs}",
        f"--input-shape {channels},{side or 'H'},{side or 'W'}"
        + ("" if side else " with the size that it was trained on"),
    )


def _kind(path: Path, module: torch.jit.ScriptModule, layout: Layout) -> OutputKind:
    """What the graph ends in, where taking that off and putting it back gives the same numbers."""
    if layout.scores is not None:
        return "logits"
    bare, _ = _load(path, torch.device("cpu"))
    kind = take_off_tail(bare)
    if kind == "logits":
        return kind
    return kind if puts_back(kind, bare, module, layout) else "logits"
