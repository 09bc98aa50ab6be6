"""Where samples lie while a student learns from them: as near to the device as there is room."""

from __future__ import annotations

from typing import Literal

import torch

from cake_cli.config import BankMemory
from cake_cli.distillation.feeding import Feed, Streamed, load
from cake_cli.distillation.order import WINDOW_BYTES
from cake_cli.distillation.pool import Pool
from cake_cli.hardware import Hardware, available_memory, free_device_memory

Place = Literal["device", "host", "disk"]

SHARE = 0.5
"""Of the memory that is free, what samples may take; student, activations and other programs need theirs."""


def choose_place(size: int, hardware: Hardware, wanted: BankMemory = "auto") -> Place:
    """The nearest memory that holds samples.

    Args:
        size: bytes that they take.
        hardware: whose device learns.
        wanted: what was asked for; auto is what there is room for.
    """
    if wanted != "auto":
        return wanted
    main = available_memory()
    own = main if hardware.device.type == "cpu" else free_device_memory(hardware.device)
    if own is None or size <= SHARE * own:
        return "device"
    return "host" if hardware.device.type != "cpu" and (main is None or size <= SHARE * main) else "disk"


def held_bytes(size: int, place: Place, hardware: Hardware) -> int:
    """Main memory that samples of `size` bytes take at a place: all of them, or two windows."""
    if place == "disk":
        return min(size, 2 * WINDOW_BYTES)
    return size if place == "host" or hardware.device.type != "cuda" else 0


def feed_from(pool: Pool, place: Place, hardware: Hardware) -> Feed:
    """The samples of a pool as batches for the trainer, read into the memory they are to lie in."""
    if place == "device":
        return load(pool, torch.arange(len(pool)), hardware.device)
    return Streamed(pool, hardware, whole=place == "host")
