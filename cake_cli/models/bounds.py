"""A foreign graph's first run, in which no operator makes a value of more than a gigabyte.

What a graph computes need not be as large as its file: the product of two short vectors is a matrix. So before an
operator of the first run is executed it is asked for the size of its result, on tensors without memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cake_cli.errors import ModelFileError
from cake_cli.spec import format_shape

LARGEST = 1 << 28
"""The most elements of a value: a gigabyte of float32."""


@contextmanager
def bounded_values() -> Iterator[None]:
    """Refuses, within it, operators that would make values of more than `LARGEST` elements.

    Raises:
        ModelFileError: with the operator and the size.
    """
    mode = _Bounded()
    try:
        with mode:
            yield
    except Exception as fault:
        if mode.refused is None:
            raise
        raise ModelFileError(  # whatever became of the refusal inside a foreign graph
            f"the model would make a value of {mode.refused}, more than {LARGEST * 4 >> 30} GiB",
            "check --input-shape; a classifier needs no such value for a few inputs",
        ) from fault


class _Bounded(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.refused: str | None = None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is compiled

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            named = _weightless(kwargs)
            if any(argument.name == "device" for argument in func._schema.arguments):
                named["device"] = torch.device("meta")
            made = func(*_weightless(args), **named)
        except (RuntimeError, NotImplementedError, TypeError, ValueError):
            made = None  # its size depends on data, or it fails: then it does so below
        for value in _tensors(made):
            if value.numel() > LARGEST:
                self.refused = f"{format_shape(value.shape)} ({func._overloadpacket})"
                raise ValueError(self.refused)
        return func(*args, **kwargs)


def _weightless(value: Any) -> Any:
    """The same arguments with tensors that have a shape and no memory."""
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    if isinstance(value, (list, tuple)):
        return type(value)([_weightless(inner) for inner in value])
    return {key: _weightless(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _tensors(inner)
