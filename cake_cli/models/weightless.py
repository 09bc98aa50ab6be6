"""Networks without memory for their weights: what they hold and cost is known without making it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_FACTORIES = (torch.empty, torch.zeros, torch.ones)
_DRAWS = frozenset(
    {
        *("normal_", "uniform_", "fill_", "zero_", "erfinv_", "clamp_"),
        *("kaiming_uniform_", "kaiming_normal_", "constant_", "trunc_normal_"),
    }
)
"""What initialisation does to weights: without memory there is nothing to do, and torch takes long to find that out."""


class Weightless(TorchFunctionMode):
    """Inside it `torch.empty`, `zeros` and `ones` give tensors without memory: a model takes its shape only.

    Unlike ``torch.device("meta")`` it leaves alone the arithmetic that some architectures do while they are
    built (RegNet's widths, Swin's tables of relative positions).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Sends the factories to the meta device, where no device is asked for; draws nothing into it."""
        kwargs = dict(kwargs or {})
        if func in _FACTORIES and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        if getattr(func, "__name__", "") in _DRAWS:
            target = args[0] if args else kwargs.get("tensor")
            if isinstance(target, Tensor) and target.is_meta:
                return target
        return func(*args, **kwargs)
