"""Times of forward passes: medians, and the batch with the most rows a second."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cake_cli.hardware import Hardware
from cake_cli.models import speed
from cake_cli.models.speed import measure_speed


class Clock:
    """A model whose passes take what `seconds` says of their rows, on a clock of its own."""

    def __init__(self, seconds) -> None:
        self.seconds, self.now, self.seen = seconds, 0.0, []

    def __call__(self, rows: Tensor) -> Tensor:
        self.seen.append(len(rows))
        self.now += self.seconds(len(rows))
        return rows

    def measure(self, cpu: Hardware, monkeypatch: pytest.MonkeyPatch) -> speed.Speed:
        monkeypatch.setattr(speed.time, "perf_counter", lambda: self.now)
        return measure_speed(self, (3,), cpu, seconds=0.01)


def test_a_fixed_cost_is_shared_by_larger_batches(cpu: Hardware, monkeypatch: pytest.MonkeyPatch):
    found = Clock(lambda rows: 0.01 + 0.001 * max(0, rows - 8)).measure(cpu, monkeypatch)
    assert found.latency == pytest.approx(0.01)
    assert found.best_batch == 256
    assert found.throughput == pytest.approx(256 / 0.258)


def test_where_batches_gain_nothing_the_search_ends(cpu: Hardware, monkeypatch: pytest.MonkeyPatch):
    clock = Clock(lambda rows: 0.01 * rows)
    assert clock.measure(cpu, monkeypatch).best_batch == 1
    assert max(clock.seen) == 4


def test_a_slow_model_is_not_asked_for_more(cpu: Hardware, monkeypatch: pytest.MonkeyPatch):
    clock = Clock(lambda rows: 3.0)
    assert clock.measure(cpu, monkeypatch) == speed.Speed(3.0, 1, pytest.approx(1 / 3))
    assert len(clock.seen) == speed.WARM_UP + speed.LEAST


def test_memory_that_runs_out_ends_the_search(cpu: Hardware):
    def limited(rows: Tensor) -> Tensor:
        if len(rows) > 4:
            raise torch.OutOfMemoryError
        return rows

    assert measure_speed(limited, (3,), cpu, seconds=0.001).best_batch <= 4
