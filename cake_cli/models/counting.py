"""What a network holds and costs: parameters, multiply-adds, bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cake_cli.models.formats import weights_file

if TYPE_CHECKING:
    from cake_cli.models.classifier import Classifier


@dataclass(frozen=True)
class Size:
    """What a network holds and costs."""

    parameters: int
    multiply_adds: int
    """Of one row's forward pass."""
    bytes: int
    """Of its file, or of its weights in one."""


def size_of(model: Classifier, path: Path) -> Size:
    """What an opened model holds and costs.

    The bytes are those of its file or of a folder's weights; where they lie in other files (an ONNX file with
    external data is less than half as large as its weights) or nowhere, those that its weights take.
    """
    path, stored, found = weights_file(path), stored_bytes(model.module), 0
    if path.is_dir():
        found = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    elif path.is_file():
        found = path.stat().st_size
    return Size(model.parameters, multiply_adds(model), found if 2 * found >= stored else stored)


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


def multiply_adds(model: Classifier) -> int:
    """Multiply-adds of one row's forward pass through a classifier, on its device; 0 where asking may cost."""
    if model.seconds_a_row is not None:
        return 0
    own = next(chain(model.module.parameters(), model.module.buffers()), torch.empty(0))
    with torch.no_grad():
        return count_multiply_adds(model, torch.zeros(1, *model.spec.shape, device=own.device))[0]


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
