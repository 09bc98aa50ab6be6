"""What this machine reaches: the engine's step against the teacher alone, and training against a bare step.

Both sides of a comparison run in turn, block by block, because a machine's speed drifts; what is compared is the
median of the ratios of neighbouring blocks.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F

from cake_cli.distillation.feeding import Labelled
from cake_cli.distillation.losses import distillation_loss
from cake_cli.distillation.optimizers import UpdateRule
from cake_cli.distillation.trainer import train
from cake_cli.errors import NoGradient, is_out_of_memory
from cake_cli.events import SILENT
from cake_cli.hardware import Hardware, Layout
from cake_cli.methods import build_engine
from cake_cli.models.blueprint import Blueprint, plan_student
from cake_cli.models.counting import multiply_adds
from cake_cli.planning import Prepared
from cake_cli.runs import versions
from cake_cli.synthesis.engine import Engine
from cake_cli.synthesis.probe import probe
from cake_cli.synthesis.replay import capture_on
from cake_cli.synthesis.step import even_part
from cake_cli.threads import with_threads
from cake_cli.tuning import most_rows

BLOCK_SECONDS = 0.2
"""What is timed lasts about as long."""
LEAST_REPETITIONS = 5
PASSES = 2
"""Of the teacher in a step: forward, and the gradient in the input, which costs as much. Its weights need none."""
MATRIX_SIZE = 8192
Work = Callable[[], None]


@dataclass(frozen=True)
class Compared:
    """Two rates, measured in turn."""

    ours: list[float]
    bare: list[float]

    def described(self, ours: str, bare: str) -> dict[str, Any]:
        """Medians under their names, their ratio, and quartiles and the number of repetitions."""
        ratios = [one / other for one, other in zip(self.ours, self.bare, strict=True)]
        figures = {ours: self.ours, bare: self.bare, f"{ours}_over_{bare.removeprefix('training_')}": ratios}
        medians = {name: _rounded(statistics.median(values)) for name, values in figures.items()}
        spread = {name: [_rounded(value) for value in _quartiles(values)] for name, values in figures.items()}
        return medians | {f"{ours}_quartiles": spread, f"{ours}_repetitions": len(ratios)}


def measure(prepared: Prepared, *, seconds: float, student: str | None = None) -> dict[str, Any]:
    """What `cake bench` prints; .github/REFERENCE.md documents the keys.

    Args:
        prepared: has a teacher.
        seconds: about how long to measure.
        student: also measures the training of this one.

    Raises:
        CakeError: if there is no such student, or it does not take the teacher's input.
    """
    if prepared.teacher is None:
        raise ValueError("a benchmark needs a teacher")
    why = prepared.teacher.no_gradient
    if why is not None or prepared.config.synthesis.gradients == "estimated":
        raise NoGradient(
            f"{prepared.teacher.name} has no gradient{f' ({why})' if why else ' that would be asked for'}, and the "
            "benchmark is of steps along it",
            "bench a teacher that has one",
        )
    subject, blueprint = prepared.subject, None
    if student is not None:
        blueprint = plan_student(student, subject.spec.shape, subject.classes, teacher=prepared.teacher)
    share = seconds / (2 if student is None else 3)
    plain = build_engine(
        prepared.config.synthesis,
        prepared.teacher,
        prepared.plan,
        seed=prepared.config.seed,
        hardware=prepared.hardware,
    )
    engine, trials = _planned(prepared, plain, share / 2)
    bare, batch, layout = _best_bare(engine, share / 2)
    rows = engine.plan.set_size * engine.plan.at_once
    compared = _in_turn(_engine_steps(engine), (bare, batch), seconds=share, hardware=engine.hardware)
    found = compared.described("engine", "bare")
    found |= {
        "device": engine.hardware.describe(),
        "plan": engine.step_plan.to_json() | {"sets_at_once": engine.plan.at_once, "rows": rows},
        "bare_batch": batch,
        "bare_layout": layout,
        "trials": trials,
        "teacher": {
            "name": engine.teacher.name,
            "sha256": engine.teacher.sha256,
            "parameters": engine.teacher.parameters,
            "multiply_adds": multiply_adds(engine.teacher),
        },
    }
    if engine.hardware.device.type == "cuda":
        reached = 2 * PASSES * found["teacher"]["multiply_adds"] * found["engine"]
        found["matrix_rate"] = _rounded(matrix_rate(engine.hardware))
        found["matrix_share"] = _rounded(reached / found["matrix_rate"])
    if blueprint is not None:
        found["student"] = student
        found |= _training(prepared, blueprint, seconds=share).described("training", "training_bare")
    return found | {"versions": versions()}


def _planned(prepared: Prepared, plain: Engine, seconds: float) -> tuple[Engine, list[dict[str, Any]]]:
    """The engine as it would run for long, and what a probe found."""
    if prepared.config.hardware.plan == "plain" or prepared.config.hardware.deterministic:
        return plain, []
    choice = probe(
        plain,
        most_rows=most_rows(plain),
        widens=prepared.config.synthesis.sets_at_once is None,
        lower_precision=prepared.config.hardware.precision == "auto",
        share=math.inf,
        most_seconds=seconds,
    )
    plan = replace(prepared.plan, at_once=choice.at_once)
    return replace(plain.planned(choice.step_plan), plan=plan), [trial.to_json() for trial in choice.trials]


def _engine_steps(engine: Engine) -> tuple[Work, int]:
    """Steps of the engine on a whole wave, with all that steps of a run do, and how many sample-steps those are."""
    sets = range(engine.plan.at_once)
    walk = engine.begin(sets, *engine.draw(sets))
    rows, stage = len(walk.inputs), SILENT.stage("", 1, "")

    def steps(count: int) -> Work:
        some = engine.lasting(count)

        def work() -> None:
            engine.teacher.on(engine.hardware)
            with with_threads(engine.threads):
                some.walk_on(walk, sets, stage)

        return work

    steps(1)()
    count = min(engine.steps, _repeats(steps(1), engine.hardware))
    return steps(count), rows * count


# --- the teacher alone --------------------------------------------------------------------------------------------


def _best_bare(engine: Engine, seconds: float) -> tuple[Work, int, Layout]:
    """The teacher's forward pass and input gradient in the batch size and layout that are fastest here.

    Precision, threads, compilation and capture are the engine's.
    """
    deadline = time.perf_counter() + seconds
    layouts: list[Layout] = [engine.hardware.layout]
    if len(engine.teacher.spec.shape) == 3 and not engine.graphed:  # a graph holds on to the weights where they lie
        layouts.append("contiguous" if layouts[0] == "channels_last" else "channels_last")
    best: tuple[float, int, Layout] | None = None
    for layout in layouts:
        for rows in _sizes(engine):
            try:
                work = _bare(engine, rows, layout)
                spent = min(_timed(work, engine.hardware), _timed(work, engine.hardware)) / rows
            except (RuntimeError, MemoryError) as fault:
                if not is_out_of_memory(fault) or best is None:
                    raise
                break
            best = min(best or (spent, rows, layout), (spent, rows, layout))
            if time.perf_counter() > deadline or 6 * spent * rows > seconds:
                break
    if best is None:
        raise ValueError("no batch size was tried")
    return _bare(engine, best[1], best[2]), best[1], best[2]


def _sizes(engine: Engine) -> list[int]:
    """Batch sizes worth trying: powers of two, and the engine's own."""
    most = most_rows(engine)
    own = even_part(engine.plan.set_size * engine.plan.at_once, engine.rows_per_pass, engine.least_rows)
    return sorted({own, *(2**power for power in range(3, most.bit_length()))})


def _bare(engine: Engine, rows: int, layout: Layout) -> Work:
    hardware = replace(engine.hardware, layout=layout)
    teacher = engine.teacher
    if engine.compiled:
        from cake_cli.synthesis.compiling import compiled

        teacher = replace(teacher, module=compiled(teacher.module, rows))
    inputs = hardware.place_rows(torch.randn(rows, *teacher.spec.shape, generator=torch.Generator().manual_seed(0)))
    weights = torch.ones(rows, teacher.classes, device=hardware.device)

    def once() -> None:
        leaf = inputs.detach().requires_grad_()
        with hardware.autocast():
            logits = teacher(leaf)
        torch.autograd.grad(logits, leaf, weights.to(logits.dtype))

    engine.teacher.on(hardware)
    with with_threads(engine.threads):
        once()
    run = capture_on(hardware.device)(once) if engine.graphed else once

    def work() -> None:
        engine.teacher.on(hardware)
        with with_threads(engine.threads):
            run()

    return work


# --- the student --------------------------------------------------------------------------------------------------


def _training(prepared: Prepared, student: Blueprint, *, seconds: float) -> Compared:
    """Samples a second of the trainer, and of the same steps on one batch that is already on the device."""
    settings, hardware, subject = prepared.config.training, prepared.hardware, prepared.subject
    size, shape = settings.batch_size, subject.spec.shape
    networks = [hardware.place(student.build()) for _ in range(2)]
    rule = UpdateRule.for_network(networks[0], settings.student_optimizer, lr=1e-6, momentum=settings.momentum)
    optimizer = rule.build(networks[1].train())
    images, logits = torch.randn(size, *shape), torch.randn(size, subject.classes)
    batch, soft = hardware.place_rows(images), logits.to(hardware.device).softmax(dim=1)

    def bare() -> None:
        with hardware.autocast():
            predicted = networks[1](batch)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(predicted.float(), soft).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    bare()
    steps = max(4, math.ceil(BLOCK_SECONDS / _timed(bare, hardware)))
    samples = Labelled(
        hardware.place_rows(images.repeat(steps, *(1,) * len(shape))), logits.repeat(steps, 1).to(hardware.device)
    )

    def epoch() -> None:
        train(
            networks[0],
            samples,
            heldout=None,
            loss=distillation_loss(settings.labels, settings.temperature),
            epochs=1,
            batch_size=size,
            rule=rule,
            clip=settings.clip,
            seed=0,
            hardware=hardware,
            stage=SILENT.stage("", 1, ""),
        )

    def as_many() -> None:
        for _ in range(steps):
            bare()

    return _in_turn((epoch, size * steps), (as_many, size * steps), seconds=seconds, hardware=hardware)


# --- the clock ----------------------------------------------------------------------------------------------------


def _in_turn(ours: tuple[Work, int], bare: tuple[Work, int], *, seconds: float, hardware: Hardware) -> Compared:
    """Rates of two kinds of work, each given with the samples that it does at a time, in blocks of about one length."""
    works = [(work, samples, _repeats(work, hardware)) for work, samples in (ours, bare)]
    rates: tuple[list[float], list[float]] = ([], [])
    for number in _while(seconds, LEAST_REPETITIONS):
        order = (0, 1) if number % 2 else (1, 0)  # neither always runs in the other's wake
        for index in order:
            work, samples, repeats = works[index]
            work()
            spent = _timed(lambda: [work() for _ in range(repeats)], hardware)  # noqa: B023
            rates[index].append(samples * repeats / spent)
    return Compared(*rates)


def _while(seconds: float, least: int) -> Iterator[int]:
    started, number = time.perf_counter(), 0
    while number < least or time.perf_counter() - started < seconds:
        yield number
        number += 1


def _repeats(work: Work, hardware: Hardware) -> int:
    work()
    return max(1, math.ceil(BLOCK_SECONDS / _timed(work, hardware)))


def _timed(work: Callable[[], object], hardware: Hardware) -> float:
    hardware.synchronize()
    started = time.perf_counter()
    work()
    hardware.synchronize()
    return max(time.perf_counter() - started, 1e-9)


def matrix_rate(hardware: Hardware, size: int = MATRIX_SIZE) -> float:
    """Operations a second of a large bf16 matrix product on the device, the best of some."""
    left, right = (torch.randn(size, size, device=hardware.device).bfloat16() for _ in range(2))
    product = left @ right
    best = min(_timed(lambda: torch.mm(left, right, out=product), hardware) for _ in range(20))
    return float(2 * size**3 / best)


def _quartiles(values: list[float]) -> list[float]:
    return [statistics.quantiles(values, n=4)[index] for index in (0, 2)]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
