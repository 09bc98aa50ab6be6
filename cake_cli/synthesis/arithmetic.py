"""What decides the last bits of a sample: recorded with a bank, and used again when it is gone on with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.engine import Engine
from cake_cli.synthesis.step_plan import StepPlan


def arithmetic_of(engine: Engine) -> dict[str, Any]:
    """Device, version and step plan, as a manifest records them; threads as a number."""
    device = engine.hardware.device
    name = f"cpu ({torch.backends.cpu.get_cpu_capability()})" if device.type == "cpu" else device.type
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else name,
        "torch": torch.__version__,
        **engine.step_plan.to_json(),
        "threads": (engine.threads or torch.get_num_threads()) if device.type == "cpu" else None,
    }


def as_begun(engine: Engine, bank: SampleBank) -> Engine:
    """The engine with steps computed as the bank was begun, as far as this device is the one of that time.

    On another there are no more rows in a pass than are usual there: a bank of a GPU may have more than a CPU's memory.
    """
    rows = rows_per_pass(bank, engine.rows_per_pass)
    if bank.arithmetic.get("device") != arithmetic_of(engine)["device"]:
        return replace(engine, rows_per_pass=min(rows, engine.rows_per_pass))
    try:
        return engine.planned(replace(StepPlan.from_json(bank.arithmetic), rows_per_pass=rows))
    except ValueError:
        return replace(engine, rows_per_pass=rows)


def rows_per_pass(bank: SampleBank, otherwise: int) -> int:
    """As many rows of a pass as a bank was begun with, or as few as memory has forced upon it since."""
    recorded = [bank.arithmetic.get("rows_per_pass"), *(shard["rows_per_pass"] for shard in bank.manifest["shards"])]
    return min((rows for rows in recorded if rows), default=otherwise)


@contextmanager
def same_threads(bank: SampleBank) -> Iterator[None]:
    """As many threads as the bank was begun with: a sum cut into other parts rounds otherwise."""
    before, wanted = torch.get_num_threads(), bank.arithmetic.get("threads")
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def differences(bank: SampleBank, now: dict[str, Any], sets_at_once: int | None) -> list[str]:
    """Why the rest of a bank would equal that of an undisturbed one only up to rounding; sentences for the user.

    Args:
        bank: to go on with.
        now: `arithmetic_of` the engine that is there.
        sets_at_once: as the configuration asks for it.
    """
    if bank.is_complete:
        return []
    found = []
    begun, at_once = bank.manifest["synthesis"].get("sets_at_once"), bank.plan.at_once
    if sets_at_once not in (None, at_once, begun):
        found.append(
            f"the bank goes on with {at_once} sets at once, as it was begun; with {sets_at_once} its samples would be "
            "the same only up to rounding"
        )
    for name in ("device", "torch", "precision"):
        before = bank.arithmetic.get(name)
        if before not in (None, now[name]):
            found.append(
                f"the bank was begun with {name} {before} and goes on with {now[name]}: its samples are those of an "
                "undisturbed run only up to rounding"
            )
    return found
