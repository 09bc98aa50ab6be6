"""Which starting points two students choose: those on which their probabilities differ most."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cake_cli.hardware import Hardware
from cake_cli.models.classifier import Classifier
from cake_cli.synthesis.choice import CANDIDATES, Choice
from cake_cli.synthesis.engine import Passes
from tests.synthesis.test_engine import STAGE, joined, make_engine


def first(rows: Tensor) -> Tensor:
    """Of two classes, by the mean of a row."""
    level = rows.flatten(1).mean(dim=1)
    return torch.stack([level, -level], dim=1)


def second(rows: Tensor) -> Tensor:
    """Sure of the first class whatever it sees: the lower the mean, the more it differs from `first`."""
    return torch.tensor([[9.0, -9.0]]).expand(len(rows), 2)


def test_those_that_differ_most_in_the_order_that_they_came_in(cpu: Hardware) -> None:
    levels = torch.tensor([0.5, -2.0, 1.0, -3.0, 0.0])
    chosen = Choice((first, second), cpu).best(levels[:, None].expand(5, 3), 2, 5)
    assert chosen.tolist() == [[-2.0] * 3, [-3.0] * 3]
    for together in (1, 2, 5, 9):
        choice = Choice((second, first), cpu)
        assert choice.best(levels[:, None], 3, together).flatten().tolist() == [-2.0, -3.0, 0.0]


def test_no_more_go_through_a_student_together_than_may(cpu: Hardware) -> None:
    seen: list[int] = []

    def student(rows: torch.Tensor) -> torch.Tensor:
        seen.append(len(rows))
        return second(rows)

    Choice((student, first), cpu).best(torch.zeros(9, 3), 2, 4)
    assert seen == [4, 4, 1]


def test_of_four_times_as_many_each_set_takes_its_best(toy_teacher: Classifier, cpu: Hardware) -> None:
    plain = make_engine(toy_teacher, cpu, steps=0)
    engine = replace(plain, choice=Choice((first, second), cpu))
    for index in range(plain.plan.sets):
        own = range(index, index + 1)
        purposes = ["start", *(f"candidate-{number}" for number in range(1, CANDIDATES))]
        drawn = torch.cat([plain._starts(own, purpose) for purpose in purposes])
        assert len(drawn) == CANDIDATES * plain.plan.set_size
        levels, (taken, labels) = drawn.flatten(1).mean(dim=1), engine.draw(own)
        assert sorted(taken.flatten(1).mean(dim=1).tolist()) == sorted(levels.tolist())[: plain.plan.set_size]
        assert (labels == plain.draw(own)[1]).all()


def test_a_chosen_set_is_the_same_in_any_company_and_costs_a_label_a_sample(
    toy_teacher: Classifier, cpu: Hardware
) -> None:
    engine = make_engine(toy_teacher, cpu, steps=0, choice=Choice((first, second), cpu))
    together = joined(engine)
    alone = torch.cat([engine.wave(range(index, index + 1), STAGE).samples.inputs for index in range(6)])
    assert (together.inputs == alone).all()
    with torch.no_grad():
        torch.testing.assert_close(together.logits, toy_teacher(together.inputs))
    assert engine.wave(range(3), STAGE).passes == Passes(forward=3 * engine.plan.set_size)
