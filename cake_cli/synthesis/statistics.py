"""A prior from inside the teacher: the statistics that its BatchNorm layers keep of the training data.

It leaves CAKE's strict contract, which asks of a teacher nothing but its logits and their gradient in the input: it
reads intermediate activations and numbers that were computed from real data. It is off unless asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cake_cli.errors import UsageError
from cake_cli.models.classifier import Classifier
from cake_cli.synthesis.terms import Candidates


@dataclass(frozen=True)
class BatchNormStatistics:
    """How far a set's activations are from the statistics that BatchNorm layers keep.

    Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion" (CVPR 2020), Section 3.2: the sum
    over layers of ``‖mean of the set - running mean‖₂ + ‖variance of the set - running variance‖₂``, mean and variance
    by channel over the samples of a set and the places of a layer. Every sample of a set has the value of the set,
    so that the size of a set does not change the pull on one sample.

    Attributes:
        layers: with running statistics, in the order of `Candidates.heard`.
    """

    layers: tuple[_BatchNorm, ...]

    def __call__(self, candidates: Candidates) -> Tensor:
        """(N,)."""
        size = candidates.own_set_size
        total = candidates.logits.new_zeros(len(candidates.logits) // size)  # (S,)
        for layer, given in zip(self.layers, candidates.heard, strict=True):
            values = given.to(total.dtype).reshape(-1, size, given.shape[1], given[0, 0].numel())  # (S, B, C, ...)
            variance, mean = torch.var_mean(values, dim=(1, 3), correction=0)  # (S, C)
            total = total + torch.linalg.vector_norm(mean - layer.get_buffer("running_mean"), dim=1)
            total = total + torch.linalg.vector_norm(variance - layer.get_buffer("running_var"), dim=1)
        return total.repeat_interleave(size, output_size=len(candidates.logits))  # (S,) -> (N,)


def batchnorm_layers(teacher: Classifier) -> tuple[_BatchNorm, ...]:
    """The BatchNorm layers of a teacher that keep running statistics, each of which is run once a pass.

    Raises:
        UsageError: if there are none, or their inputs cannot be had, with the reason.
    """
    fix = "--set synthesis.batchnorm_weight=0, or the PyTorch weights of the teacher with --arch"
    if any(isinstance(module, torch.jit.ScriptModule) for module in teacher.module.modules()):
        raise UsageError(
            f"BatchNorm statistics cannot be compared in {teacher.name}: TorchScript shows nothing of its inside", fix
        )
    found = [module for module in teacher.module.modules() if isinstance(module, _BatchNorm)]
    found = [layer for layer in found if layer.running_mean is not None and layer.running_var is not None]
    if not found:
        raise UsageError(
            f"{teacher.name} has no BatchNorm layers with running statistics: exporters usually fold them away", fix
        )
    if teacher.batching != "direct":
        raise UsageError(
            f"BatchNorm statistics cannot be compared in {teacher.name}, which does not take whole batches", fix
        )
    device = next(teacher.module.buffers()).device
    with torch.no_grad(), listening(found) as heard:
        teacher(torch.zeros(2, *teacher.spec.shape, device=device))
    if sorted(index for index, _ in heard) != list(range(len(found))) or any(len(given) != 2 for _, given in heard):
        raise UsageError(f"the BatchNorm layers of {teacher.name} are not each run once on the whole batch", fix)
    return tuple(found)


@contextmanager
def listening(layers: Sequence[nn.Module]) -> Iterator[list[tuple[int, Tensor]]]:
    """Collects what layers are given while it lasts: the place of the layer and a tensor (N, C, ...), call by call."""
    heard: list[tuple[int, Tensor]] = []

    def listener(index: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda layer, arguments: heard.append((index, arguments[0]))

    handles = [layer.register_forward_pre_hook(listener(index)) for index, layer in enumerate(layers)]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def in_order(heard: Sequence[tuple[int, Tensor]]) -> tuple[Tensor, ...]:
    """What each layer was given, in the order of the layers."""
    return tuple(given for _, given in sorted(heard, key=lambda entry: entry[0]))
