"""The teacher through torch.compile, for as many rows as a full pass has."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class CompiledFor(nn.Module):
    """A module that runs compiled for passes of one size, and as it is for others: each size would be compiled anew."""

    def __init__(self, module: nn.Module, rows: int) -> None:
        super().__init__()
        self.module = module
        self.rows = rows
        self._compiled: Callable[[Tensor], Tensor] = torch.compile(module, dynamic=False)

    def forward(self, rows: Tensor) -> Tensor:
        """(N, *shape) to (N, K)."""
        logits: Tensor = self._compiled(rows) if len(rows) == self.rows else self.module(rows)
        return logits


def compiled(module: nn.Module, rows: int) -> nn.Module:
    """The module compiled for passes of `rows` rows, when it is first called.

    Compilers warn of much that no user of `cake` can mend: all they log stays below the level that is shown.
    """
    from torch._logging import set_logs  # type: ignore[attr-defined]

    set_logs(all=CRITICAL)
    return CompiledFor(module, rows)


CRITICAL = 50
"""The level of that name in Python's logging."""
