"""Dead starts are noticed, drawn again from the set's own stream, and counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cake_cli.hardware import Hardware
from cake_cli.models.classifier import Classifier
from cake_cli.synthesis.disagreement import Disagreement
from cake_cli.synthesis.engine import Engine, Wave
from cake_cli.synthesis.noise import draw_start, stream
from cake_cli.synthesis.objective import cake_objective
from cake_cli.synthesis.starts import is_dead
from cake_cli.synthesis.update import Adam
from tests.synthesis.test_engine import STAGE, joined, make_engine, waves


class HalfDead(nn.Module):
    """The given network where the first value of a row is positive; constant logits elsewhere."""

    def __init__(self, module: nn.Module, everywhere: bool = False) -> None:
        super().__init__()
        self.module = module
        self.everywhere = everywhere

    def forward(self, rows: Tensor) -> Tensor:
        on = (rows[:, 0, 0, :1] > 0).float() * (0.0 if self.everywhere else 1.0)
        return self.module(rows * on[:, :, None, None]) * on


@pytest.fixture
def half_dead(toy_teacher: Classifier) -> Classifier:
    return replace(toy_teacher, module=HalfDead(toy_teacher.module))


def count(mask: Tensor | None) -> int:
    assert mask is not None
    return int(mask.sum())


def first_values(samples: Tensor) -> Tensor:
    return samples[:, 0, 0, 0]


def start_of(engine: Engine, wave: Wave) -> Tensor:
    """Where the samples of a wave would begin, without redraws."""
    shape, size = engine.teacher.spec.shape, engine.plan.set_size
    return torch.cat([draw_start(shape, size, stream(0, index, "start"), engine.init) for index in wave.sets])


def test_dead_rows_are_told_from_live_ones(half_dead: Classifier) -> None:
    inputs = draw_start((1, 4, 4), 50, stream(0, 0, "start"))
    assert torch.equal(is_dead(half_dead, inputs, 7), first_values(inputs) <= 0)


def test_dead_starts_are_drawn_again(half_dead: Classifier, cpu: Hardware) -> None:
    engine = make_engine(half_dead, cpu, redraws=30, steps=1, step_sizes=(1e-6,) * 6)
    for wave in waves(engine):
        before = start_of(engine, wave)
        dead = first_values(before) <= 0
        assert wave.redrawn is not None
        assert wave.dead is not None
        assert torch.equal(wave.redrawn, dead)
        assert not bool(wave.dead.any())
        assert bool((first_values(wave.samples.inputs) > 0).all())
        torch.testing.assert_close(wave.samples.inputs[~dead], before[~dead], rtol=0, atol=1e-3)


def test_what_stays_dead_is_counted(half_dead: Classifier, cpu: Hardware) -> None:
    without = waves(make_engine(half_dead, cpu, redraws=0))
    once = waves(make_engine(half_dead, cpu, redraws=1))
    assert [count(wave.redrawn) for wave in without] == [0, 0]
    assert sum(count(wave.dead) for wave in without) > sum(count(wave.dead) for wave in once) > 0
    never = waves(make_engine(replace(half_dead, module=HalfDead(half_dead.module, everywhere=True)), cpu, redraws=3))
    assert [count(wave.dead) for wave in never] == [24, 24]


def test_passes_of_redrawing_are_counted(half_dead: Classifier, cpu: Hardware) -> None:
    calls = {"rows": 0}
    module = half_dead.module

    class Counting(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            calls["rows"] += len(rows)
            return module(rows)

    engine = make_engine(replace(half_dead, module=Counting()), cpu, redraws=4)
    wave = engine.wave(engine.plan.waves[0], STAGE)
    assert count(wave.redrawn) > 0
    assert wave.passes.forward == calls["rows"]
    assert wave.passes.backward == calls["rows"] - len(wave.samples)


def test_redrawing_does_not_depend_on_what_runs_beside(half_dead: Classifier, cpu: Hardware) -> None:
    engine = make_engine(half_dead, cpu, redraws=3, langevin=True)
    alone = replace(engine, plan=replace(engine.plan, at_once=1))
    torch.testing.assert_close(joined(engine).inputs, joined(alone).inputs, rtol=1e-4, atol=1e-4)
    assert torch.equal(joined(engine).inputs, joined(engine).inputs)


def test_a_sample_on_its_target_to_the_last_bit_is_not_dead(toy_teacher: Classifier, cpu: Hardware) -> None:
    """Its loss has no gradient, its teacher has one."""

    class Sure(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            logits = toy_teacher.module(rows)
            return logits * 1e6

    engine = make_engine(replace(toy_teacher, module=Sure()), cpu, redraws=5, steps=1, step_sizes=(1e-20,) * 6)
    flat = replace(engine, objective=replace(engine.objective, terms={"cls": engine.objective.terms["cls"]}))
    wave = flat.wave(flat.plan.waves[0], STAGE)
    assert (count(wave.redrawn), count(wave.dead)) == (0, 0)
    assert wave.passes.backward > len(wave.samples), "the suspects were looked at"


def test_only_labelled_samples_have_no_dead(half_dead: Classifier, cpu: Hardware) -> None:
    assert {wave.dead for wave in waves(make_engine(half_dead, cpu, steps=0, redraws=5))} == {None}


def test_passes_through_the_student_are_counted_where_a_step_is_repeated(half_dead: Classifier, cpu: Hardware) -> None:
    torch.manual_seed(7)
    student = HalfDead(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).eval().requires_grad_(False))
    asked: list[int] = []

    def counted(inputs: Tensor) -> Tensor:
        asked.append(len(inputs))
        return student(inputs)  # type: ignore[no-any-return]

    engine = make_engine(half_dead, cpu, redraws=4)
    engine = replace(engine, objective=engine.objective.against(Disagreement(counted, cpu), 1.0))  # type: ignore[arg-type]
    wave = engine.wave(engine.plan.waves[0], STAGE)
    assert count(wave.redrawn) > 0
    assert wave.student_passes.forward == wave.student_passes.backward == sum(asked)


def test_a_repeated_step_is_the_first_of_all_rows(half_dead: Classifier, cpu: Hardware) -> None:
    """Rows that were alive go the way that they go without redraws, whatever the optimizer remembers."""
    engine = make_engine(half_dead, cpu, update=Adam(), redraws=30, steps=3)
    engine = replace(engine, objective=cake_objective(half_dead.spec, cls=5.0, contrastive=0.0, tv=1.0))
    drawn, plain = waves(engine)[0], waves(replace(engine, redraws=0))[0]
    assert drawn.redrawn is not None
    assert 0 < count(drawn.redrawn) < len(drawn.redrawn)
    alive = ~drawn.redrawn
    torch.testing.assert_close(drawn.samples.inputs[alive], plain.samples.inputs[alive])
