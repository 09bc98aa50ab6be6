"""Samples lie in the nearest memory that has room."""

from __future__ import annotations

import pytest
import torch

from cake_cli.distillation import placement
from cake_cli.distillation.order import WINDOW_BYTES
from cake_cli.distillation.placement import choose_place, held_bytes
from cake_cli.hardware import Hardware

CPU, CUDA = (Hardware(torch.device(name), "fp32") for name in ("cpu", "cuda:0"))
GIB = 2**30


@pytest.fixture(autouse=True)
def memories(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device with 8 GiB free in a machine with 32."""
    monkeypatch.setattr(placement, "available_memory", lambda: 32 * GIB)
    monkeypatch.setattr(placement, "free_device_memory", lambda device: 8 * GIB if device.type == "cuda" else None)


@pytest.mark.parametrize(
    ("size", "on_cpu", "on_cuda"),
    [(3 * GIB, "device", "device"), (10 * GIB, "device", "host"), (20 * GIB, "disk", "disk")],
)
def test_the_nearest_with_room(size: int, on_cpu: str, on_cuda: str):
    assert choose_place(size, CPU) == on_cpu
    assert choose_place(size, CUDA) == on_cuda


def test_what_was_asked_for_is_done():
    assert choose_place(GIB, CUDA, "disk") == "disk"
    assert choose_place(100 * GIB, CPU, "device") == "device"


def test_where_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(placement, "available_memory", lambda: None)
    assert choose_place(100 * GIB, CPU) == "device"
    assert choose_place(100 * GIB, CUDA) == "host"


def test_main_memory_that_it_takes():
    assert held_bytes(5 * GIB, "device", CPU) == held_bytes(5 * GIB, "host", CUDA) == 5 * GIB
    assert held_bytes(5 * GIB, "device", CUDA) == 0
    assert held_bytes(50 * GIB, "disk", CPU) == 2 * WINDOW_BYTES
    assert held_bytes(1000, "disk", CPU) == 1000
