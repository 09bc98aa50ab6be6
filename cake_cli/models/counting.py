"""Multiply-adds and sizes of networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not type its hooks
    """Adds up torch's own formulas; as `FlopCounterMode` does, which imports the compiler, for seconds."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is compiled

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula: Callable[..., int] | None = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        return out


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention as its matrix products: of fused kernels, some have no formula (torch 2.11's on the CPU)."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def count_multiply_adds(forward: Callable[[Tensor], Any], rows: Tensor) -> tuple[int, Any]:
    """Multiply-adds of one row's forward pass, matrix products and convolutions as torch counts them.

    Args:
        forward: the network.
        rows: (N, ...) that are put through it, on its device or without memory.

    Returns:
        The figure, and what came out.
    """
    counter = _Counter()
    with _plain_attention(), counter:
        output = forward(rows)
    return counter.flops // (2 * len(rows)), output


def multiply_adds(model: Callable[[Tensor], Any], shape: tuple[int, ...]) -> int:
    """Multiply-adds of one row (*shape) through a model on the CPU."""
    with torch.no_grad():
        return count_multiply_adds(model, torch.zeros(1, *shape))[0]


def parameters(network: nn.Module) -> int:
    """How many weights are learned."""
    return sum(parameter.numel() for parameter in network.parameters())


def stored_bytes(network: nn.Module) -> int:
    """What its weights and running figures take in a file."""
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())


class _ShapesOnly(TorchFunctionMode):
    """Passes over functions that change no shape, which without memory take most of the time."""

    skipped = frozenset(
        {F.batch_norm, F.layer_norm, F.dropout, F.relu, F.relu6, F.gelu, F.silu, F.hardswish, F.hardsigmoid, F.hardtanh}
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The input in place of what has its shape."""
        return args[0] if func in self.skipped else func(*args, **(kwargs or {}))


def without_memory(network: nn.Module, rows: Tensor) -> Tensor:
    """The forward pass of rows on the meta device: shapes only, whatever device the network is on."""
    tensors = (*network.named_parameters(), *network.named_buffers())
    state = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    with _ShapesOnly():
        output: Tensor = torch.func.functional_call(network, state, (rows,))
    return output
