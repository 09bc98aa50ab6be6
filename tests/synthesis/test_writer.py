from __future__ import annotations

import threading
import time

import pytest
import torch

from cake_cli.synthesis.engine import Passes, Wave
from cake_cli.synthesis.samples import Samples
from cake_cli.synthesis.writer import ShardWriter


def wave(number: int) -> Wave:
    one = torch.zeros(1)
    return Wave(range(number, number + 1), Samples(one[:, None], one[:, None], one.long(), one), Passes(), {})


def test_waves_are_stored_in_order_by_another_thread() -> None:
    stored: list[tuple[int, int, bool]] = []

    def store(made: Wave, rows: int) -> None:
        stored.append((made.sets.start, rows, threading.current_thread() is threading.main_thread()))

    with ShardWriter(store) as writer:
        for number in range(4):
            writer.put(wave(number), 10 * number)
    assert stored == [(0, 0, False), (1, 10, False), (2, 20, False), (3, 30, False)]


def test_storing_takes_no_threads_from_computing() -> None:
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        with ShardWriter(lambda made, rows: seen.append(torch.get_num_threads())) as writer:
            writer.put(wave(0), 1)
            writer.put(wave(1), 1)
            torch.set_num_threads(3)
            writer.put(wave(2), 1)
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1, 1]


def test_at_most_one_wave_waits() -> None:
    gate, begun = threading.Event(), threading.Event()

    def store(made: Wave, rows: int) -> None:
        begun.set()
        assert gate.wait(10)

    with ShardWriter(store) as writer:
        writer.put(wave(0), 1)
        assert begun.wait(10)
        second = threading.Thread(target=writer.put, args=(wave(1), 1))
        second.start()
        second.join(0.1)
        assert second.is_alive(), "the second is taken only after the first is stored"
        gate.set()
        second.join(10)
        assert not second.is_alive()


def test_a_fault_surfaces_and_nothing_is_stored_after_it() -> None:
    stored: list[int] = []

    def store(made: Wave, rows: int) -> None:
        if made.sets.start == 1:
            raise OSError(28, "No space left on device")
        stored.append(made.sets.start)

    def write(*numbers: int) -> None:
        with ShardWriter(store) as writer:
            for number in numbers:
                writer.put(wave(number), 1)

    with pytest.raises(OSError, match="No space left"):
        write(0, 1, 2, 3)
    assert stored == [0]
    with pytest.raises(OSError, match="No space left"):
        write(1)


def test_an_interrupt_waits_for_what_was_handed_over() -> None:
    stored: list[int] = []

    def store(made: Wave, rows: int) -> None:
        time.sleep(0.05)
        stored.append(made.sets.start)

    def interrupted() -> None:
        with ShardWriter(store) as writer:
            writer.put(wave(0), 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert stored == [0]
