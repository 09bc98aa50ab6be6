"""Multiply-adds are those that torch counts, also where it would count none."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cake_cli.models.architectures import build_student
from cake_cli.models.classifier import Classifier
from cake_cli.models.counting import count_multiply_adds, without_memory
from cake_cli.models.counting import multiply_adds as counted_of
from cake_cli.spec import InputSpec


def multiply_adds(module: nn.Module, shape: tuple[int, ...]) -> int:
    return counted_of(Classifier(module, InputSpec(shape), classes=4, name="m", sha256=""))


@pytest.mark.parametrize("name", ["cnn", "resnet18", "vit", "mobilenet_v3_small", "swin_t"])
def test_as_torch_counts(name: str) -> None:
    torch.manual_seed(0)
    network = build_student(name, (1, 8, 8), 4).eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, 8, 8))
    assert multiply_adds(network, (1, 8, 8)) == counter.get_total_flops() // 2 > 0
    rows = torch.empty(2, 1, 8, 8, device="meta")
    counted, logits = count_multiply_adds(lambda given: without_memory(network.train(), given), rows)
    assert (counted, tuple(logits.shape)) == (multiply_adds(network.eval(), (1, 8, 8)), (2, 4))


def test_fused_attention_is_counted() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval().requires_grad_(False)
    before = torch.backends.mha.get_fastpath_enabled()
    counted, _ = count_multiply_adds(layer, torch.zeros(1, 5, 16))
    assert counted == 5 * (3 * 16 * 16 + 16 * 16 + 2 * 16 * 32) + 2 * 5 * 5 * 16
    assert torch.backends.mha.get_fastpath_enabled() == before


@pytest.mark.filterwarnings("ignore")
def test_a_traced_program_is_counted() -> None:
    network = build_student("cnn", (1, 8, 8), 4).eval()
    traced = torch.jit.trace(network, torch.zeros(1, 1, 8, 8))
    assert multiply_adds(traced, (1, 8, 8)) == multiply_adds(network, (1, 8, 8))
