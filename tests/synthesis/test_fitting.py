from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from cake_cli.errors import EnvironmentFault, RunError, is_out_of_memory
from cake_cli.events import SILENT
from cake_cli.hardware import Hardware
from cake_cli.models.classifier import Classifier
from cake_cli.ranks import Ranks
from cake_cli.synthesis.course import Course
from cake_cli.synthesis.engine import Engine
from cake_cli.synthesis.fitting import fitting_wave
from cake_cli.synthesis.replay import ReplayedStep
from cake_cli.synthesis.step import Walk
from tests.synthesis.test_course import Seen
from tests.synthesis.test_engine import make_engine
from tests.synthesis.test_replay import FakeGraph

CPU = "[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB."


class Small(torch.nn.Module):
    """A module for which more than some rows are too many."""

    def __init__(self, inner: torch.nn.Module, rows: int, fault: type[Exception], said: str) -> None:
        super().__init__()
        self.inner, self.rows, self.fault, self.said = inner, rows, fault, said
        self.seen: list[int] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(inputs))
        if len(inputs) > self.rows:
            raise self.fault(self.said)
        return self.inner(inputs)


def small(
    teacher: Classifier, cpu: Hardware, rows: int, fault: type[Exception] = RuntimeError, said: str = CPU
) -> Engine:
    return make_engine(replace(teacher, module=Small(teacher.module, rows, fault, said)), cpu)


@pytest.mark.parametrize(("fault", "said"), [(RuntimeError, CPU), (torch.OutOfMemoryError, CUDA), (MemoryError, "")])
def test_rows_are_halved_until_they_fit(
    toy_teacher: Classifier, cpu: Hardware, fault: type[Exception], said: str
) -> None:
    engine = small(toy_teacher, cpu, 8, fault, said)
    seen, warned = Seen(), []
    fitted, wave = fitting_wave(engine, engine.plan.waves[0], Course(seen, Ranks()), warned.append)
    assert (engine.rows_per_pass, fitted.rows_per_pass) == (24, 4)
    assert [text.split(": going on with ")[1] for text in warned] == ["12", "4"]
    assert "memory ran out with 24 samples in a pass" in warned[0]
    assert seen.done == pytest.approx(24), "what the failed attempts had shown is taken back"
    expected = replace(make_engine(toy_teacher, cpu), rows_per_pass=4).wave(
        engine.plan.waves[0], SILENT.stage("", 1, "")
    )
    assert torch.equal(wave.samples.inputs, expected.samples.inputs)


def test_what_fitted_is_gone_on_with(toy_teacher: Classifier, cpu: Hardware) -> None:
    engine, course, warned = small(toy_teacher, cpu, 12), Course(Seen(), Ranks()), []
    for sets in engine.plan.waves:
        engine, _ = fitting_wave(engine, sets, course, warned.append)
    assert len(warned) == 1


def test_a_captured_step_is_let_go_before_less_is_tried(
    toy_teacher: Classifier, cpu: Hardware, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph owns its memory: an empty cache frees none of it while an engine holds the graph."""
    engine = make_engine(toy_teacher, cpu)
    engine.__dict__["step"] = ReplayedStep(engine.step, FakeGraph())
    captured: list[weakref.ref[torch.Tensor]] = []
    look = Engine._look

    def short(own: Engine, walk: Walk) -> object:
        if own.rows_per_pass == engine.rows_per_pass:
            captured.append(weakref.ref(walk.inputs))
            raise torch.OutOfMemoryError(CUDA)
        gc.collect()
        assert captured[0]() is None
        return look(own, walk)

    monkeypatch.setattr(Engine, "_look", short)
    fitted, _ = fitting_wave(engine, engine.plan.waves[0], Course(Seen(), Ranks()), lambda text: None)
    assert fitted.rows_per_pass == 12


def test_less_than_a_row_is_no_answer(toy_teacher: Classifier, cpu: Hardware) -> None:
    engine = small(toy_teacher, cpu, 3)
    with pytest.raises(EnvironmentFault, match="memory ran out with only 4 samples") as caught:
        fitting_wave(engine, engine.plan.waves[0], Course(Seen(), Ranks()), lambda text: None)
    assert caught.value.exit_code == 5
    assert "sets_at_once=1" in str(caught.value.fix)


def test_other_faults_are_not_about_memory(toy_teacher: Classifier, cpu: Hardware) -> None:
    engine = small(toy_teacher, cpu, 3, RuntimeError, "mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1"):
        fitting_wave(engine, engine.plan.waves[0], Course(Seen(), Ranks()), lambda text: None)
    assert not is_out_of_memory(RunError("out of memory of what it was"))
