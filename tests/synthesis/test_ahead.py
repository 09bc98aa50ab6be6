from __future__ import annotations

import threading

import torch

from cake_cli.hardware import Hardware
from cake_cli.models.classifier import Classifier
from cake_cli.synthesis.ahead import DrawnAhead
from tests.synthesis.test_engine import make_engine


class Counted:
    def __init__(self) -> None:
        self.drawn: list[tuple[range, str]] = []

    def __call__(self, sets: range) -> tuple[torch.Tensor, torch.Tensor]:
        self.drawn.append((sets, threading.current_thread().name))
        return torch.full((2,), float(sets.start)), torch.zeros(2)


def test_what_was_expected_is_drawn_once_in_a_thread() -> None:
    draw = Counted()
    ahead = DrawnAhead(draw, pin=False)
    ahead.expect(range(3, 6))
    assert ahead.take(range(3, 6))[0].tolist() == [3.0, 3.0]
    assert [(sets, name.startswith("starting-points")) for sets, name in draw.drawn] == [(range(3, 6), True)]


def test_what_was_not_expected_is_drawn_when_asked_for() -> None:
    draw = Counted()
    ahead = DrawnAhead(draw, pin=False)
    ahead.expect(range(3, 6))
    assert ahead.take(range(6, 9))[0].tolist() == [6.0, 6.0]
    assert ahead.take(range(3, 6))[0].tolist() == [3.0, 3.0]
    assert len(draw.drawn) == 2


def test_sets_are_the_same_drawn_ahead_or_not(toy_teacher: Classifier, cpu: Hardware) -> None:
    engine = make_engine(toy_teacher, cpu)
    ahead = DrawnAhead(engine.draw, pin=False)
    ahead.expect(range(3))
    for one, other in zip(ahead.take(range(3)), engine.draw(range(3)), strict=True):
        assert torch.equal(one, other)
