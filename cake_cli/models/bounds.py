"""A foreign graph's first run, in which no operator makes a value of more than a gigabyte.

What a graph computes need not be as large as its file: the product of two short vectors is a matrix. So before an
operator of the first run is executed it is asked for the size of its result, on tensors without memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
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
        known = _bound(func, args)
        if known is not None and known <= LARGEST:
            return func(*args, **kwargs)
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


def _of_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int,
) -> int:  # fmt: skip
    elements = len(x) * (weight.shape[1] * groups if transposed else len(weight))
    for axis, size in enumerate(x.shape[2:]):
        more = output_padding[axis % len(output_padding)]  # each list has a number an axis, or one for all
        reach = dilation[axis % len(dilation)] * (weight.shape[2 + axis] - 1) + more + 1
        grown = (size - 1) * stride[axis % len(stride)] + reach
        elements *= max(0, grown if transposed else size + 2 * padding[axis % len(padding)])
    return elements


def _bound(func: Any, args: tuple[Any, ...]) -> int | None:
    """At most how many elements a result has, by what kind of operator it is; None for all others.

    For those torch is asked, which it can answer only after a second of imports.
    """
    own = _BOUNDS.get(func._overloadpacket)
    if own is not None:
        return int(own(*args))
    if torch.Tag.pointwise in func.tags:
        shapes = [tuple(reversed(tensor.shape)) for tensor in _tensors(args)]
        return math.prod(max(sizes) for sizes in zip_longest(*shapes, fillvalue=1))
    if func._overloadpacket in _NO_LARGER:
        return sum(tensor.numel() for tensor in _tensors(args))
    returns = func._schema.returns
    is_view = bool(returns) and all(one.alias_info is not None and not one.alias_info.is_write for one in returns)
    return 0 if is_view else None


def _of_pooling(x: Tensor, *_: Any) -> int:
    return x.numel() << (x.dim() - 2)  # windows step by one at least, and begin less than one outside


_ATEN = torch.ops.aten
_BOUNDS: dict[Any, Callable[..., int]] = {
    _ATEN.convolution: _of_convolution,
    _ATEN.mm: lambda left, right: len(left) * right.shape[1],
    _ATEN.addmm: lambda added, left, right, *_: max(added.numel(), len(left) * right.shape[1]),
    _ATEN.bmm: lambda left, right: left.shape[0] * left.shape[1] * right.shape[2],
    _ATEN.max_pool2d_with_indices: _of_pooling,
    _ATEN.avg_pool2d: _of_pooling,
}
_NO_LARGER = {
    *(_ATEN.cat, _ATEN.stack, _ATEN.clone, _ATEN._to_copy, _ATEN._softmax, _ATEN._log_softmax),
    *(_ATEN.mean, _ATEN.sum, _ATEN.amax, _ATEN.amin, _ATEN.argmax),
    *(_ATEN.native_batch_norm, _ATEN._native_batch_norm_legit_no_training, _ATEN.native_layer_norm),
}
"""Operators whose results are no larger than what they are given."""


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
