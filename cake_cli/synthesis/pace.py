"""Telling of progress without holding up the device.

On a CPU a step is done when it returns. On CUDA it has only been queued: to look at its loss would wait for it, and
let the device run dry. There marks are queued between steps, and polled.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from cake_cli.events import Stage
from cake_cli.hardware import Hardware

REPORT_EVERY = 16
"""Steps between two looks at the loss."""
MARKS_AHEAD = 4
"""How many marks the host may be ahead of the device: enough to keep it busy, few enough to stop soon on Ctrl-C."""
POLL_SECONDS = 5e-4


class Pace(Protocol):
    """Tells a stage how far a wave has come."""

    def after_step(self, loss: Tensor) -> None:
        """A step was taken, or queued; the objective before it was `loss` (N,)."""

    def finish(self) -> None:
        """All steps were queued: tells of those that were not told of yet, when they are done."""


class Mark(Protocol):
    """A place in the queue of a device, and the mean loss there."""

    def reached(self) -> bool:
        """Whether the device has come so far; does not wait."""

    def loss(self) -> float:
        """The mean loss, once reached."""


class ImmediatePace:
    """For devices that have finished a step when it returns."""

    def __init__(self, stage: Stage, rows: int, steps: int) -> None:
        self.stage = stage
        self.share = rows / max(steps, 1)
        self.taken = 0

    def after_step(self, loss: Tensor) -> None:
        """Tells of the step, and every now and then of the loss."""
        self.taken += 1
        looked = self.taken % REPORT_EVERY == 0
        self.stage.advance(self.share, **({"loss": float(loss.mean())} if looked else {}))

    def finish(self) -> None:
        """Nothing is left."""


class PolledPace:
    """For devices with a queue.

    Args:
        stage: told of progress in samples.
        rows: samples of the wave.
        steps: that will be taken.
        mark: queues a mark behind the work so far.
        sleep: waits between two polls.
    """

    def __init__(
        self,
        stage: Stage,
        rows: int,
        steps: int,
        mark: Callable[[Tensor], Mark],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.stage = stage
        self.share = rows / max(steps, 1)
        self.mark = mark
        self.sleep = sleep
        self.marks: deque[tuple[int, Mark]] = deque()
        self.unmarked = 0
        self.loss: Tensor | None = None

    def after_step(self, loss: Tensor) -> None:
        """Queues a mark every now and then, and tells of those that were reached."""
        self.unmarked += 1
        self.loss = loss
        if self.unmarked == REPORT_EVERY:
            self._set_mark(loss)
            self._tell(MARKS_AHEAD)

    def finish(self) -> None:
        """Polls until the device has done everything."""
        if self.unmarked and self.loss is not None:
            self._set_mark(self.loss)
        self._tell(0)

    def _set_mark(self, loss: Tensor) -> None:
        self.marks.append((self.unmarked, self.mark(loss)))
        self.unmarked = 0

    def _tell(self, most: int) -> None:
        while self.marks:
            steps, mark = self.marks[0]
            if mark.reached():
                self.marks.popleft()
                self.stage.advance(self.share * steps, loss=mark.loss())
            elif len(self.marks) > most:
                self.sleep(POLL_SECONDS)
            else:
                return


class CudaMark:
    """An event behind a copy of the mean loss into pinned memory."""

    def __init__(self, loss: Tensor) -> None:
        self.value = torch.empty((), pin_memory=True)
        self.value.copy_(loss.mean(), non_blocking=True)
        self.event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.event.record(torch.cuda.current_stream(loss.device))

    def reached(self) -> bool:
        """Asks the event."""
        return bool(self.event.query())  # type: ignore[no-untyped-call]

    def loss(self) -> float:
        """Reads the pinned copy."""
        return float(self.value)


def pace_of(hardware: Hardware, stage: Stage, rows: int, steps: int) -> Pace:
    """How progress is told of on this hardware."""
    if hardware.device.type == "cuda":
        return PolledPace(stage, rows, steps, CudaMark)
    return ImmediatePace(stage, rows, steps)
