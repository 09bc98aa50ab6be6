"""Points on the way: kept where they were, with the labels that the steps had asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cake_cli.hardware import Hardware
from cake_cli.models.classifier import Classifier
from cake_cli.synthesis.engine import Wave, waypoint_steps
from cake_cli.synthesis.estimated import Estimator
from tests.synthesis.test_engine import STAGE, make_engine


@pytest.mark.parametrize(
    ("steps", "waypoints", "expected"),
    [(8, 7, {1, 2, 3, 4, 5, 6, 7}), (8, 9, {1, 2, 3, 4, 5, 6, 7}), (8, 1, {4}), (9, 2, {3, 6}), (1, 7, set())],
)
def test_they_are_spread_evenly_without_the_start(steps: int, waypoints: int, expected: set[int]) -> None:
    assert waypoint_steps(steps, waypoints) == expected
    assert waypoint_steps(steps, 0) == set()


@pytest.mark.parametrize("rows_per_pass", [24, 4])
@pytest.mark.parametrize("langevin", [False, True])
def test_they_are_what_fewer_steps_would_have_made(
    toy_teacher: Classifier, cpu: Hardware, rows_per_pass: int, langevin: bool
) -> None:
    engine = make_engine(toy_teacher, cpu, steps=6, waypoints=2, rows_per_pass=rows_per_pass, langevin=langevin)
    wave = engine.wave(range(3), STAGE)
    assert wave.waypoints is not None
    inputs, logits = wave.waypoints
    assert (inputs.shape, logits.shape) == ((24 * 2, 1, 4, 4), (24 * 2, 4))
    for number, steps in enumerate((2, 4)):
        shorter = replace(engine, steps=steps).wave(range(3), STAGE)
        torch.testing.assert_close(inputs[number::2], shorter.samples.inputs)
        torch.testing.assert_close(logits[number::2], shorter.samples.logits)


def test_they_change_no_sample_and_cost_no_pass(toy_teacher: Classifier, cpu: Hardware) -> None:
    def made(waypoints: int) -> Wave:
        return make_engine(toy_teacher, cpu, steps=5, waypoints=waypoints).wave(range(3), STAGE)

    with_them, without = made(3), made(0)
    assert without.waypoints is None
    assert torch.equal(with_them.samples.inputs, without.samples.inputs)
    assert with_them.passes == without.passes


def test_estimated_steps_have_them_too(toy_teacher: Classifier, cpu: Hardware) -> None:
    estimator = Estimator((1, 4, 4), 2, 0.1, 0)
    engine = make_engine(toy_teacher, cpu, steps=3, waypoints=2, estimator=estimator)
    wave = engine.wave(range(3), STAGE)
    assert wave.waypoints is not None
    inputs, logits = wave.waypoints
    with torch.no_grad():
        torch.testing.assert_close(logits, toy_teacher(inputs))
