"""Progress that does not wait: told when a mark is reached, and never far behind the device."""

from __future__ import annotations

import pytest
import torch

from cake_cli.synthesis.pace import MARKS_AHEAD, REPORT_EVERY, CudaMark, ImmediatePace, PolledPace

LOSS = torch.tensor([1.0, 3.0])


class Told:
    """A stage that remembers."""

    def __init__(self) -> None:
        self.amounts: list[float] = []
        self.losses: list[float] = []

    def advance(self, amount: float = 1, **figures: float) -> None:
        self.amounts.append(amount)
        self.losses += figures.values()

    def conclude(self, summary: str) -> None: ...


class Device:
    """A queue whose marks are reached when it says so; each poll of `sleep` lets it reach one more."""

    def __init__(self) -> None:
        self.done = 0
        self.queued = 0
        self.slept = 0

    def mark(self, loss: torch.Tensor) -> Device.Mark:
        self.queued += 1
        return Device.Mark(self, self.queued, float(loss.mean()))

    def sleep(self, seconds: float) -> None:
        self.slept += 1
        self.done += 1

    class Mark:
        def __init__(self, device: Device, number: int, value: float) -> None:
            self.device, self.number, self.value = device, number, value

        def reached(self) -> bool:
            return self.device.done >= self.number

        def loss(self) -> float:
            assert self.reached(), "read before the device was there"
            return self.value


def polled(rows: int, steps: int) -> tuple[PolledPace, Told, Device]:
    told, device = Told(), Device()
    return PolledPace(told, rows, steps, device.mark, device.sleep), told, device


def test_immediate_progress_adds_up_to_the_rows() -> None:
    told = Told()
    pace = ImmediatePace(told, 24, 2 * REPORT_EVERY)
    for _ in range(2 * REPORT_EVERY):
        pace.after_step(LOSS)
    pace.finish()
    assert sum(told.amounts) == pytest.approx(24)
    assert told.losses == [2.0, 2.0]


def test_nothing_is_told_and_nothing_waits_before_the_device_is_there() -> None:
    pace, told, device = polled(24, 100)
    for _ in range(MARKS_AHEAD * REPORT_EVERY):
        pace.after_step(LOSS)
    assert (told.amounts, device.slept, device.queued) == ([], 0, MARKS_AHEAD)
    device.done = 2
    for _ in range(REPORT_EVERY):
        pace.after_step(LOSS)
    assert len(told.amounts) == 2
    assert device.slept == 0


def test_the_host_does_not_run_far_ahead() -> None:
    pace, _, device = polled(24, 10 * REPORT_EVERY)
    for _ in range(10 * REPORT_EVERY):
        pace.after_step(LOSS)
        assert device.queued - device.done <= MARKS_AHEAD
    assert device.slept == 10 - MARKS_AHEAD


def test_the_end_waits_for_all_and_adds_up() -> None:
    steps = 2 * REPORT_EVERY + 5
    pace, told, device = polled(24, steps)
    for _ in range(steps):
        pace.after_step(LOSS)
    pace.finish()
    assert sum(told.amounts) == pytest.approx(24)
    assert device.done == device.queued == 3
    pace.finish()
    assert len(told.amounts) == 3


def test_no_steps_leave_nothing_to_tell() -> None:
    pace, told, _ = polled(24, 0)
    pace.finish()
    assert told.amounts == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_mark_on_cuda() -> None:
    mark = CudaMark(LOSS.cuda())
    torch.cuda.synchronize()
    assert mark.reached()
    assert mark.loss() == 2.0
