"""The step itself: what chunks, passes in parts and layouts may change (nothing but rounding), and walks copied."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cake_cli.hardware import Hardware
from cake_cli.models.classifier import Classifier
from cake_cli.synthesis import step as steps
from cake_cli.synthesis.step import Walk, even_part
from tests.synthesis.test_engine import make_engine


def begun(teacher: Classifier, cpu: Hardware, **changes: object) -> tuple[object, Walk]:
    engine = make_engine(teacher, cpu, **changes)
    sets = range(3)
    return engine.step, engine.begin(sets, *engine.draw(sets))


@pytest.mark.parametrize(
    ("rows", "most", "unit", "part"),
    [(500, 480, 10, 250), (500, 500, 10, 500), (20, 480, 10, 20), (100, 30, 10, 30), (24, 8, 4, 8), (7, 3, 1, 3)],
)
def test_parts_are_even(rows: int, most: int, unit: int, part: int) -> None:
    assert even_part(rows, most, unit) == part


def test_priors_and_update_in_chunks_change_no_bit(
    toy_teacher: Classifier, cpu: Hardware, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, walk = begun(toy_teacher, cpu)
    whole = walk.copy()
    take(whole)
    monkeypatch.setattr(steps, "VALUES_IN_CACHE", 40)  # two rows of 1x4x4
    take(walk)
    assert torch.equal(walk.inputs, whole.inputs)


def test_a_contiguous_layout_changes_nothing_but_rounding(toy_teacher: Classifier, cpu: Hardware) -> None:
    take, walk = begun(toy_teacher, cpu)
    take(walk)
    take, plain = begun(toy_teacher, replace(cpu, layout="contiguous"))
    assert plain.inputs.is_contiguous()
    take(plain)
    torch.testing.assert_close(plain.inputs, walk.inputs, rtol=1e-4, atol=1e-5)


def test_a_walk_takes_over_the_state_of_another_in_its_own_memory(toy_teacher: Classifier, cpu: Hardware) -> None:
    _, walk = begun(toy_teacher, cpu)
    _, other = begun(toy_teacher, cpu, seed=1)
    walk.update_state["mean"], other.update_state["mean"] = torch.zeros(3), torch.ones(3)
    place = walk.inputs.data_ptr()
    walk.copy_from(other)
    assert walk.inputs.data_ptr() == place
    for name, value in walk.tensors().items():
        assert torch.equal(value, other.tensors()[name]), name
    assert "update_state.mean" in walk.tensors()


def test_the_first_bad_step_is_kept(toy_teacher: Classifier, cpu: Hardware) -> None:
    take, walk = begun(toy_teacher, cpu)
    take(walk)
    assert int(walk.first_bad) > 10**9
    walk.inputs[0] = torch.nan
    take(walk)
    take(walk)
    assert int(walk.first_bad) == 1
    assert int(walk.steps_done) == 3
