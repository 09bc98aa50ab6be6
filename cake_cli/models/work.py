"""How much a pass of a classifier computes."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cake_cli.models.classifier import Classifier


def multiply_adds(model: Classifier) -> int:
    """Multiply-adds of one row's forward pass: matrix products and convolutions, as torch counts them."""
    own = next(chain(model.module.parameters(), model.module.buffers()), torch.empty(0))
    counter = _Flops()
    with torch.no_grad(), counter:
        model(torch.zeros(1, *model.spec.shape, device=own.device))
    return counter.total // 2


class _Flops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up torch's own formulas; as `FlopCounterMode` does, which imports the compiler, for seconds."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is compiled

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operator = func._overloadpacket
        if operator not in flop_registry:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if operator in flop_registry:
            self.total += flop_registry[operator](*args, **kwargs, out_val=result)
        return result
