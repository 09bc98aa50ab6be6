"""``file.py:function``: a function that returns a module. Naming one runs the file's code."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from cake_cli.config import TeacherConfig
from cake_cli.errors import ModelFileError, did_you_mean
from cake_cli.models.layouts import attempts, find_layout
from cake_cli.models.opened import OpenedModel

_FORM = re.compile(r"(?P<file>.+\.py):(?P<function>[A-Za-z_]\w*)")


class Source(NamedTuple):
    """A function in a Python file."""

    file: Path
    function: str


def read_source(path: Path) -> Source | None:
    """The two parts of ``file.py:function``; None for any other path."""
    match = _FORM.fullmatch(str(path))
    return None if match is None else Source(Path(match["file"]), match["function"])


def open_source(source: Source, settings: TeacherConfig) -> OpenedModel:
    """Runs a Python file and calls its function, which returns a module with its weights in it.

    Args:
        source: the file, and the function without arguments.
        settings: `input_shape` is needed: code does not state it.

    Raises:
        ModelFileError: if there is no such file or function, it fails, does not return a module, or the
            module is no classifier.
    """
    require_file(source)
    if settings.input_shape is None:
        raise ModelFileError(
            f"{source.file.name}:{source.function} does not state the shape of its input", "--input-shape C,H,W or D"
        )
    module = call_function(
        source, (), contract="make it a function without arguments that returns a torch.nn.Module with its weights"
    )
    mends = ["returned in training mode: put in eval mode"] if module.training else []
    module = module.float().eval().requires_grad_(False)
    layout = find_layout(module, attempts(settings.input_shape), output=settings.output)
    return OpenedModel(
        module=layout.module,
        input_shape=layout.shape,
        output_kind="logits",
        converter="torch",
        facts={"format": "Python: the file's own code, which was run", "function": source.function},
        mends=tuple(mends),
        fixed_batch=layout.fixed_batch,
        has_batch_axis=layout.has_batch_axis,
    )


def require_file(source: Source) -> None:
    """Raises `ModelFileError` unless the file is there."""
    if not source.file.is_file():
        raise ModelFileError(f"there is no file {source.file}", "name it as path/to/file.py:function")


def call_function(source: Source, arguments: tuple[Any, ...], *, contract: str) -> nn.Module:
    """Runs a Python file and calls its function.

    Args:
        source: the file and the function.
        arguments: what it is called with.
        contract: what it has to be, in words: told where it fails.

    Raises:
        ModelFileError: if there is no such file or function, it fails, or does not return a module.
    """
    require_file(source)
    name = f"cake_source_{source.file.stem}"
    spec = importlib.util.spec_from_file_location(name, source.file.resolve())
    if spec is None or spec.loader is None:
        raise ModelFileError(f"{source.file} is not a Python file", "name it as path/to/file.py:function")
    loaded = importlib.util.module_from_spec(spec)
    folder = str(source.file.resolve().parent)
    sys.path.insert(0, folder)
    sys.modules[name] = loaded
    try:
        spec.loader.exec_module(loaded)
        function = getattr(loaded, source.function, None)
        if not callable(function):
            callables = [key for key, value in vars(loaded).items() if callable(value)]
            hint = did_you_mean(source.function, callables)
            absent = f"{source.file} has no function {source.function!r}" + (f", {hint}" if hint else "")
            raise ModelFileError(absent, f"{source.file}:FUNCTION")
        made = function(*arguments)
    except ModelFileError:
        raise
    except (Exception, SystemExit) as fault:  # foreign code fails, or ends, in any way it likes
        reason = str(fault).strip().partition("\n")[0]
        told = f"{type(fault).__name__}: {reason}" if reason else type(fault).__name__
        raise ModelFileError(f"{source.file}:{source.function} failed: {told}", contract) from fault
    finally:
        sys.path.remove(folder)
    if not isinstance(made, nn.Module):
        raise ModelFileError(
            f"{source.file}:{source.function} returned something of type {type(made).__name__}, not a torch.nn.Module",
            contract,
        )
    return made
