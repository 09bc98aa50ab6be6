"""What a run will cost on this machine: seconds, disk and memory, from one timed step of each kind."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cake_cli.distillation.losses import distillation_loss
from cake_cli.distillation.trainer import Labelled, train
from cake_cli.errors import EnvironmentFault
from cake_cli.events import SILENT
from cake_cli.hardware import Hardware, available_memory, free_disk
from cake_cli.methods import generator_training, untrained_generator
from cake_cli.models.architectures import build_student
from cake_cli.models.classifier import Classifier
from cake_cli.planning import Prepared, build_engine
from cake_cli.synthesis.engine import Engine

QUICK = 0.4
"""Seconds: while a probe is quicker, a larger one is tried."""
PAGE_BYTES = 2_000_000
"""About what report and pictures take."""


@dataclass(frozen=True)
class Estimate:
    """What a run will cost on this machine."""

    seconds: dict[str, float]
    """By stage: synthesis, training, baseline."""
    disk: int
    """Bytes that the run directory will hold."""
    memory: int
    """Bytes of main memory that the resident bank takes."""

    @property
    def total_seconds(self) -> float:
        """All stages together."""
        return sum(self.seconds.values())


def estimate(prepared: Prepared) -> Estimate:
    """Times one step of each kind and works out what the run will take."""
    seconds: dict[str, float] = {}
    row_bytes = 4 * (prepared.subject.spec.values + prepared.subject.classes + 1)
    disk, memory = PAGE_BYTES, 0
    if prepared.bank is None and prepared.teacher is not None:
        seconds["synthesis"] = _synthesis_seconds(prepared, prepared.teacher)
        disk += prepared.samples * row_bytes
    if prepared.architecture is not None:
        seconds["training"] = _training_seconds(prepared, prepared.architecture)
        memory = 2 * prepared.samples * row_bytes
        disk += 3 * 4 * prepared.student_parameters  # the student, and a checkpoint with its momentum
        disk += len(prepared.config.student.export) * 4 * prepared.student_parameters
        if prepared.trains_baseline:
            seconds["baseline"] = seconds["training"]
            memory += prepared.samples * row_bytes
            disk += 4 * prepared.student_parameters
    return Estimate(seconds, disk, memory)


def _synthesis_seconds(prepared: Prepared, teacher: Classifier) -> float:
    """A gradient step costs about three forward passes, the labels at the end one."""
    settings, plan = prepared.config.synthesis, prepared.plan
    engine = build_engine(settings, teacher, plan, seed=0, hardware=prepared.hardware)
    if settings.method == "generative":
        return _generative_seconds(prepared, engine)
    steps = min(engine.steps, 1)

    def one_step(rows: int) -> None:
        part = replace(plan, rows=max(1, rows // plan.groups), at_once=1)
        replace(engine, plan=part, steps=steps).wave(range(1), SILENT.stage("probe", 1, ""))

    each = _seconds_per_row(one_step, plan.groups, plan.set_size * plan.at_once, prepared.hardware)
    return each / (3 * steps + 1) * (3 * engine.steps + 1) * plan.samples


def _generative_seconds(prepared: Prepared, engine: Engine) -> float:
    """An update goes through generator and teacher, forth and back; drawing and labelling hardly count beside."""
    settings, plan, hardware = prepared.config.synthesis, prepared.plan, prepared.hardware
    generator = untrained_generator(settings, engine.teacher, hardware, seed=0)
    training = generator_training(settings, engine)
    optimizer = training.optimizer(generator)

    def one_update(rows: int) -> None:
        replace(training, rows=max(1, rows // plan.groups)).take(0, generator, optimizer)

    each = _seconds_per_row(one_update, plan.groups, plan.set_size, hardware)
    return each * plan.set_size * training.updates


def _training_seconds(prepared: Prepared, architecture: str) -> float:
    settings, hardware, subject = prepared.config.training, prepared.hardware, prepared.subject
    network = hardware.place(build_student(architecture, subject.spec.shape, subject.classes))

    def one_step(rows: int) -> None:
        batch = Labelled(
            hardware.place_rows(torch.randn(rows, *subject.spec.shape)),
            torch.randn(rows, subject.classes, device=hardware.device),
        )
        train(
            network,
            batch,
            heldout=None,
            loss=distillation_loss(settings.labels, settings.temperature),
            epochs=1,
            batch_size=rows,
            lr=1e-6,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            seed=0,
            hardware=hardware,
            stage=SILENT.stage("probe", 1, ""),
        )

    each = _seconds_per_row(one_step, 8, min(settings.batch_size, prepared.samples), hardware)
    return each * prepared.samples * settings.epochs


def _seconds_per_row(one_step: Callable[[int], None], few: int, many: int, hardware: Hardware) -> float:
    """Times a step on few rows, then on more while that is quick: one step of a large network takes minutes."""
    rows = min(few, many)
    one_step(rows)
    spent = _timed(hardware, lambda: one_step(rows))
    while rows < many and spent < QUICK:
        rows = min(many, 8 * rows)
        spent = _timed(hardware, lambda: one_step(rows))  # noqa: B023
    return spent / rows


def _timed(hardware: Hardware, work: Callable[[], object]) -> float:
    hardware.synchronize()
    started = time.perf_counter()
    work()
    hardware.synchronize()
    return time.perf_counter() - started


def require_room(prepared: Prepared, cost: Estimate, out: Path) -> None:
    """Refuses a run that the disk or the memory cannot hold; what a stopped run wrote counts as room.

    Raises:
        EnvironmentFault: with what is there and what it would take.
    """
    free = free_disk(out) + sum(file.stat().st_size for file in out.glob("**/*") if file.is_file())
    if cost.disk > free:
        raise EnvironmentFault(
            f"the run would write {cost.disk / 2**20:,.0f} MiB; {out} has {free / 2**20:,.0f} MiB free",
            f"--samples {max(1, prepared.samples * free // (2 * cost.disk))}, or --out on another disk",
        )
    memory = available_memory()
    if memory is not None and cost.memory > memory:
        raise EnvironmentFault(
            f"training would hold {cost.memory / 2**30:.1f} GiB of samples, and {memory / 2**30:.1f} GiB are free",
            f"--samples {max(1, prepared.samples * memory // (2 * cost.memory))}",
        )
