"""A wave within the memory there is: when that runs out, fewer samples go through the teacher together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from cake_cli.errors import EnvironmentFault, is_out_of_memory
from cake_cli.hardware import Hardware
from cake_cli.synthesis.course import Course
from cake_cli.synthesis.engine import Engine, Wave


def fitting_wave(engine: Engine, sets: range, course: Course, warn: Callable[[str], None]) -> tuple[Engine, Wave]:
    """Synthesizes some sets; out of memory it begins again with half as many rows a pass, down to one row.

    The samples are the same up to rounding.

    Args:
        engine: that makes them.
        sets: side by side.
        course: told of progress.
        warn: told when rows are halved.

    Returns:
        The engine that fitted, to go on with, and the wave.

    Raises:
        EnvironmentFault: if memory does not hold even that.
        RunError: as `Engine.wave`.
    """
    while True:
        course.begin_wave()
        try:
            return engine, engine.wave(sets, course)
        except (RuntimeError, MemoryError) as fault:
            if not is_out_of_memory(fault):
                raise
        # after the handler: until its end the fault holds the tensors of the wave that failed
        course.take_back()
        engine = with_fewer_rows(engine, sets, warn)


def with_fewer_rows(engine: Engine, sets: range, warn: Callable[[str], None]) -> Engine:
    """The engine with half the samples in a pass of these sets, as a multiple of what must stay together.

    Args:
        engine: that ran out of memory.
        sets: that it worked on.
        warn: told of it.

    Raises:
        EnvironmentFault: if there is nothing to halve.
    """
    least = engine.least_rows
    rows = min(engine.rows_per_pass, len(sets) * engine.plan.set_size)
    if rows <= least:
        raise EnvironmentFault(
            f"memory ran out with only {rows} samples in a pass through the teacher",
            "--set synthesis.sets_at_once=1, --device cpu, or a machine with more memory",
        )
    fewer = max(1, rows // (2 * least)) * least
    warn(f"memory ran out with {rows} samples in a pass through the teacher: going on with {fewer}")
    engine.let_go()
    _release(engine.hardware)
    return replace(engine, rows_per_pass=fewer)


def _release(hardware: Hardware) -> None:
    """Gives back what the allocator of the device keeps for later, which may lie in the wrong pieces."""
    if hardware.device.type == "cuda":
        torch.cuda.empty_cache()
    elif hardware.device.type == "mps":
        torch.mps.empty_cache()
