"""What a TorchScript archive would run, read before anything in it is run.

TorchScript is a program. Loading it runs only ``__setstate__`` methods, so an archive that has one is not
loaded; after loading, and before the first call, every operator of the inlined graph is looked at.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cake_cli.errors import ModelFileError

_FLOAT = "use the float model from before quantisation: torch.jit.save(torch.jit.trace(float_model, example), FILE)"
_PLAIN = "save the model without optimisation: torch.jit.save(torch.jit.trace(model.eval(), example), FILE)"
_OPTIMISED = {"prepacked", "mkldnn_prepacked", "xnnpack", "mkldnn", "mkl", "onednn", "vulkan", "vulkan_prepack"}
_QUANTISED = {"quantized", "_quantized", "quantization"}
_PURE = {"aten", "prim", "torchvision"}
_TOUCHES_FILES = {"aten::from_file", "aten::save"}
_CLASS = re.compile(rb"\b__torch__(\.\w+)+")
"""The path of a module's class, as in ``__torch__.torchvision.ops.misc.Conv2dNormActivation``: no operator."""
SPEAKS = {"prim::Print", "aten::_print", "aten::warn"}
"""Operators that write on the terminal, raw."""
_MAY_SPEAK = re.compile(rb"\b(print|warn|_print)\(")
_REACHES_OUT = re.compile(r"prim::(rpc_|PythonOp|IgnoredPythonOp)|\^")


def scan_archive(path: Path) -> None:
    """Reads the code of a TorchScript archive, with torch's own reader, without compiling it.

    Raises:
        ModelFileError: if it is quantised, optimised for inference, or runs code while it is loaded.
    """
    try:
        reader = torch._C.PyTorchFileReader(str(path))
        records = [str(name) for name in reader.get_all_records()]
        code = _code(reader)
        pickles = b"".join(bytes(reader.get_record(name)) for name in records if name in ("data.pkl", "constants.pkl"))
    except RuntimeError as fault:
        raise ModelFileError(f"{path} is a damaged TorchScript archive: {_first(fault)}", "copy it again") from fault
    spaces = {name.decode() for name in re.findall(rb"\bops\.(\w+)\.", _CLASS.sub(b"", code))}
    spaces |= {name.decode() for name in re.findall(rb"torch\.classes\.(\w+)", code + pickles)}
    _refuse_spaces(path, spaces - _PURE)
    if b"__setstate__" in code or b"torch.classes" in pickles:
        raise ModelFileError(
            f"{path} holds code that runs while it is loaded (__setstate__), so it is not loaded", _PLAIN
        )


def may_speak(path: Path) -> bool:
    """Whether the code of a scanned archive could write on the terminal.

    Told by its text: to look at the graph of all that is called would fix it as it is.
    """
    return _MAY_SPEAK.search(_code(torch._C.PyTorchFileReader(str(path)))) is not None


def _code(reader: Any) -> bytes:
    records = [str(name) for name in reader.get_all_records()]
    return b"\n".join(bytes(reader.get_record(name)) for name in records if name.endswith(".py"))


def scan_graph(path: Path, module: torch.jit.ScriptModule) -> None:
    """Looks at every operator that a call would run.

    Raises:
        ModelFileError: if one touches files or other processes, is quantised or fused, or cannot be read.
    """
    kinds = {node.kind() for node in every_node(module.inlined_graph)}
    hostile = sorted(kind for kind in kinds if kind in _TOUCHES_FILES or _REACHES_OUT.search(kind))
    spaces = {kind.partition("::")[0] for kind in kinds if "::" in kind}
    hostile += sorted(kind for kind in kinds if kind.startswith(("image::", "c10d::")))
    if hostile:
        raise ModelFileError(
            f"{path} reads or writes files, or reaches other processes ({', '.join(hostile)}), so it is not run",
            "do not use this file: no classifier needs that",
        )
    if kinds & SPEAKS:
        raise ModelFileError(f"{path} writes on the terminal while it runs, so it is not run", _PLAIN)
    _refuse_spaces(path, spaces - _PURE)
    if kinds & {"prim::CallMethod", "prim::CallFunction"}:
        raise ModelFileError(f"{path} calls code that cannot be read beforehand, so it is not run", _PLAIN)
    for kind in sorted(kinds):
        if "quantize" in kind:
            raise _quantised(path, kind)
        if kind.startswith("aten::mkldnn") or kind in ("aten::to_mkldnn", "prim::ConstantMKLDNNTensor"):
            raise _optimised(path, kind)


_PASSES_ON = {"aten::to", "aten::_cast_Long", "aten::_cast_Int", "aten::type_as", "aten::contiguous", "aten::detach"}
_PASSES_ON |= {"aten::view", "aten::reshape", "aten::unsqueeze", "aten::squeeze", "aten::flatten", "aten::t"}
"""Operators that a looked-up index is still an index after."""


def takes_indices(graph: Any) -> bool:
    """Whether the input of a graph is looked up in a table of embeddings: words, not numbers."""
    inputs = {value.debugName() for value in graph.inputs()}
    for node in every_node(graph):
        if node.kind() not in ("aten::embedding", "aten::embedding_bag"):
            continue
        value = node.inputsAt(1)
        while value.debugName() not in inputs and value.node().kind() in _PASSES_ON:
            value = value.node().inputsAt(0)
        if value.debugName() in inputs:
            return True
    return False


def every_node(graph: Any) -> Iterator[Any]:
    """The nodes of a TorchScript graph, of its blocks, and of the graphs that nodes carry."""
    pending = deque([graph])
    while pending:
        for node in pending.popleft().nodes():
            yield node
            pending.extend(node.blocks())
            pending.extend(node.g(name) for name in node.attributeNames() if node.kindOf(name) == "g")


def _refuse_spaces(path: Path, spaces: set[str]) -> None:
    if spaces & _QUANTISED:
        raise _quantised(path, min(spaces & _QUANTISED))
    if spaces & _OPTIMISED:
        raise _optimised(path, min(spaces & _OPTIMISED))
    if spaces - {"image", "c10d"}:
        raise ModelFileError(f"{path} uses operators of {', '.join(sorted(spaces))}, which torch does not have", _PLAIN)


def _quantised(path: Path, what: str) -> ModelFileError:
    return ModelFileError(f"{path} is quantised to int8 ({what} operators), so its output has no gradient", _FLOAT)


def _optimised(path: Path, what: str) -> ModelFileError:
    return ModelFileError(
        f"{path} was optimised for inference or mobile ({what} operators), so its output has no gradient", _PLAIN
    )


def _first(fault: BaseException) -> str:
    return str(fault).strip().partition("\n")[0][:160]
