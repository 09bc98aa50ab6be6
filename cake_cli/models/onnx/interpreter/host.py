"""Values that are known without looking at the data: shapes, axes and sizes, as plain Python numbers.

Keeping them off the device means that a forward pass never waits for the GPU, and that `torch.compile`
and `torch.func.vmap` see ordinary integers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cake_cli.models.bounds import LARGEST

Number = int | float | bool

HOST_LIMIT = 2048
"""The most numbers that are kept as a host value; larger constants only exist as tensors."""


@dataclass(frozen=True, slots=True)
class Host:
    """A small array of Python numbers in row-major order."""

    values: tuple[Number, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> Host:
        """The numbers of a tensor; a tensor on a device is waited for."""
        flat = tensor.detach().reshape(-1).tolist()
        return cls(tuple(flat), tuple(tensor.shape), tensor.dtype)

    @classmethod
    def vector(cls, values: Sequence[Number]) -> Host:
        """A one-dimensional int64 value, such as a shape."""
        return cls(tuple(values), (len(values),), torch.int64)

    @classmethod
    def scalar(cls, value: Number) -> Host:
        """A zero-dimensional int64 value, such as a size."""
        return cls((value,), (), torch.int64)

    @property
    def ints(self) -> list[int]:
        """The numbers as integers (symbolic integers of `torch.compile` stay as they are)."""
        return [int(value) if isinstance(value, float | bool) else value for value in self.values]

    @property
    def floats(self) -> list[float]:
        """The numbers as floats."""
        return [float(value) for value in self.values]

    def item(self) -> Number:
        """The single number.

        Raises:
            ValueError: if there are several.
        """
        if len(self.values) != 1:
            raise ValueError(f"one number was expected, not {len(self.values)}")
        return self.values[0]

    def tensor(self, like: Tensor) -> Tensor:
        """As a tensor on the device of `like`; floats take its precision."""
        dtype = like.dtype if self.dtype.is_floating_point and like.is_floating_point() else self.dtype
        return torch.tensor(list(self.values), dtype=dtype, device=like.device).reshape(self.shape)

    def with_shape(self, shape: tuple[int, ...]) -> Host:
        """The same numbers in another shape; the caller knows that it fits."""
        return Host(self.values, shape, self.dtype)


def check_size(shape: list[int] | tuple[int, ...]) -> None:
    """Refuses shapes that would take gigabytes, before anything is allocated.

    Raises:
        ValueError: with the shape.
    """
    if any(size < 0 for size in shape):
        raise ValueError(f"a negative size in {list(shape)}")
    if math.prod(shape) > LARGEST:
        raise ValueError(f"{list(shape)} would take more than {LARGEST * 4 >> 30} GiB")
