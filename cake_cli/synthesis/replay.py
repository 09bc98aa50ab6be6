"""A step that is captured once and replayed: on CUDA a small teacher's step is mostly the launching of its kernels.

A captured step works on the memory it was captured with. So there is one walk of its own, into which the walk of each
wave is copied; a wave of another size is stepped through as usual.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cake_cli.errors import is_out_of_memory
from cake_cli.synthesis.step import Step, Walk

WARM_UPS = 3
"""Steps on a side stream before the capture, in which libraries choose their kernels and take their memory."""

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Captures work, which may run a few times before, and returns what replays it."""


class ReplayedStep:
    """A step that is captured on the first wave, and replayed from then on.

    Attributes:
        refused: why it could not be captured, where it could not; then each step is taken as usual.
    """

    def __init__(self, step: Step, capture: Capture) -> None:
        self.step = step
        self.capture = capture
        self.refused: str | None = None
        self._own: Walk | None = None
        self._terms: dict[str, Tensor] = {}
        self._replay: Callable[[], None] | None = None

    def adopt(self, walk: Walk) -> Walk:
        """The captured walk in the state of `walk`, or `walk` where the capture does not fit."""
        if self._own is None and self.refused is None:
            self._capture(walk)
        own = self._own
        if own is None or own.inputs.shape != walk.inputs.shape:
            return walk
        own.copy_from(walk)
        return own

    def __call__(self, walk: Walk) -> None:
        """Takes one step."""
        if self._replay is not None and walk is self._own:
            self._replay()
            walk.terms = self._terms  # a first step, which is not replayed, has bound its own
        else:
            self.step(walk)

    def _capture(self, walk: Walk) -> None:
        own = walk.copy()
        try:
            replay = self.capture(lambda: self.step(own))
        except RuntimeError as fault:
            if is_out_of_memory(fault):
                raise
            self.refused = str(fault).splitlines()[0]
            return
        self._own, self._replay, self._terms = own, replay, own.terms


@dataclass(frozen=True)
class _Replay:
    """Replays a graph, and holds on to the work: its kernels read and write the tensors that the work refers to."""

    graph: torch.cuda.CUDAGraph
    work: Callable[[], None]

    def __call__(self) -> None:
        self.graph.replay()


def capture_on(device: torch.device) -> Capture:
    """Captures work as a CUDA graph on a device."""

    def capture(work: Callable[[], None]) -> Callable[[], None]:
        with torch.cuda.device(device):
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    work()
            current.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # a capture that fails leaves its own stream the current one; thread_local: other threads draw starting
            # points and write shards meanwhile
            with torch.cuda.stream(current), torch.cuda.graph(graph, capture_error_mode="thread_local"):
                work()
        return _Replay(graph, work)

    return capture
