"""The captured step, driven through a capture that replays by running the work again."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from cake_cli.events import SILENT
from cake_cli.hardware import Hardware
from cake_cli.models.classifier import Classifier
from cake_cli.synthesis.engine import Engine
from cake_cli.synthesis.replay import ReplayedStep, capture_on
from cake_cli.synthesis.step import Walk
from tests.synthesis.test_engine import make_engine

STAGE = SILENT.stage("", 1, "")


class FakeGraph:
    """Warms up, captures and replays as the real one does.

    The captured memory is left in a state of its own, and a replay writes into that memory and binds no attribute.
    """

    def __init__(self) -> None:
        self.captures = 0
        self.replays = 0

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        for _ in range(4):
            work()
        walk = next(cell.cell_contents for cell in work.__closure__ or () if isinstance(cell.cell_contents, Walk))
        captured = walk.terms

        def replay() -> None:
            self.replays += 1
            bound = walk.terms
            work()
            for name, value in walk.terms.items():
                captured[name].copy_(value)
            walk.terms = bound

        return replay


def walks(engine: Engine, sets: range) -> Walk:
    return engine.begin(sets, *engine.draw(sets))


def replayed(engine: Engine, graph: FakeGraph) -> Engine:
    engine.__dict__["step"] = ReplayedStep(engine.step, graph)
    return engine


@pytest.mark.parametrize("langevin", [False, True])
def test_replayed_waves_are_those_of_the_plain_step(toy_teacher: Classifier, cpu: Hardware, langevin: bool) -> None:
    graph = FakeGraph()
    engine = replayed(make_engine(toy_teacher, cpu, langevin=langevin), graph)
    plain = make_engine(toy_teacher, cpu, langevin=langevin)
    for sets in engine.plan.waves:
        ours, theirs = engine.wave(sets, STAGE), plain.wave(sets, STAGE)
        assert torch.equal(ours.samples.inputs, theirs.samples.inputs)
        assert ours.terms == theirs.terms
    assert (graph.captures, graph.replays) == (1, 2 * 11), "the first step of a wave looks for dead starts"


def test_the_captured_memory_stays_where_it_is(toy_teacher: Classifier, cpu: Hardware) -> None:
    engine = replayed(make_engine(toy_teacher, cpu), FakeGraph())
    first, second = walks(engine, range(3)), walks(engine, range(3, 6))
    assert first is second
    assert int(first.steps_done) == 0, "the warm-up has left its steps behind"


def test_an_engine_of_other_steps_keeps_what_was_captured(toy_teacher: Classifier, cpu: Hardware) -> None:
    graph = FakeGraph()
    engine = replayed(make_engine(toy_teacher, cpu), graph)
    few = engine.lasting(3)
    few.walk_on(walks(few, range(3)), range(3), STAGE)
    assert few.step is engine.step
    assert (graph.captures, graph.replays) == (1, 2)


def test_a_smaller_wave_is_stepped_through_as_usual(toy_teacher: Classifier, cpu: Hardware) -> None:
    graph = FakeGraph()
    engine = replayed(make_engine(toy_teacher, cpu), graph)
    walks(engine, range(3))
    last = walks(engine, range(3, 5))
    engine.step(last)
    assert graph.replays == 0
    assert int(last.steps_done) == 1


def test_a_refused_capture_falls_back_and_says_why(toy_teacher: Classifier, cpu: Hardware) -> None:
    def refuse(work: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    engine = replayed(make_engine(toy_teacher, cpu), refuse)  # type: ignore[arg-type]
    plain = make_engine(toy_teacher, cpu)
    ours, theirs = engine.wave(range(3), STAGE), plain.wave(range(3), STAGE)
    assert torch.equal(ours.samples.inputs, theirs.samples.inputs)
    assert engine.step.refused == "operation not permitted when stream is capturing"


def test_running_out_of_memory_is_not_taken_for_a_refusal(toy_teacher: Classifier, cpu: Hardware) -> None:
    def refuse(work: Callable[[], None]) -> Callable[[], None]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    engine = replayed(make_engine(toy_teacher, cpu), refuse)  # type: ignore[arg-type]
    with pytest.raises(torch.OutOfMemoryError):
        engine.wave(range(3), STAGE)


def stand_in_for_cuda(monkeypatch: pytest.MonkeyPatch, *, breaks: bool = False) -> list[str]:
    """Has torch.cuda's streams and graphs do nothing but say which stream is the current one; the stack of those."""
    current = ["given"]

    @contextmanager
    def stream(which: str) -> Iterator[None]:
        before = list(current)
        current.append(which)
        try:
            yield
        finally:
            current[:] = before

    class Graph:
        def __init__(self, graph: object, capture_error_mode: str) -> None:
            assert capture_error_mode == "thread_local"

        def __enter__(self) -> None:
            current.append("capturing")

        def __exit__(self, *fault: object) -> None:
            if breaks:
                raise RuntimeError("operation failed due to a previous error during capture")
            current.pop()

    side = SimpleNamespace(wait_stream=lambda other: None)
    for name, stands in {
        "device": lambda device: nullcontext(),
        "current_stream": lambda: side,
        "Stream": lambda: side,
        "stream": stream,
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
        "graph": Graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stands)
    return current


def test_what_a_graph_reads_lives_as_long_as_its_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_for_cuda(monkeypatch)

    def captured() -> tuple[Callable[[], None], weakref.ref[torch.Tensor]]:
        read = torch.ones(3)

        def work() -> None:
            read.add_(1)

        return capture_on(torch.device("cuda:0"))(work), weakref.ref(read)

    replay, read = captured()
    replay()
    assert read() is not None
    del replay
    assert read() is None


def test_a_capture_that_breaks_leaves_the_stream_that_was_current(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own context leaves the stream that it captured on."""
    current = stand_in_for_cuda(monkeypatch, breaks=True)
    with pytest.raises(RuntimeError, match="during capture"):
        capture_on(torch.device("cuda:0"))(lambda: None)
    assert current == ["given"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("langevin", [False, True])
def test_a_cuda_graph_gives_the_bits_of_the_plain_step(toy_teacher: Classifier, langevin: bool) -> None:
    hardware = Hardware(torch.device("cuda:0"), "fp32")
    teacher = toy_teacher.on(hardware)
    plain = make_engine(teacher, hardware, langevin=langevin)
    graphed = make_engine(teacher, hardware, langevin=langevin, graphed=True)
    for sets in plain.plan.waves:
        ours = graphed.wave(sets, STAGE)
        assert graphed.step.refused is None
        theirs = plain.wave(sets, STAGE)
        assert torch.equal(ours.samples.inputs, theirs.samples.inputs)
        assert ours.terms == theirs.terms
