"""What a run will do, found out before it starts: the teacher opened, everything checked."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from cake_cli.config import DEFAULT_SAMPLES, Config, SynthesisConfig
from cake_cli.data import HeldOut, open_heldout, read_class_map
from cake_cli.errors import DataError, UsageError
from cake_cli.hardware import Hardware, pick
from cake_cli.methods import check_choices, objective_of, space_of, update_of
from cake_cli.models.blueprint import Blueprint, check_named, plan_student
from cake_cli.models.classifier import Classifier
from cake_cli.models.cost import Size, size_of
from cake_cli.models.loading import load_classifier
from cake_cli.ranks import Ranks
from cake_cli.spec import InputSpec
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.copies import require_writable
from cake_cli.synthesis.engine import Engine, SetPlan, plan_sets
from cake_cli.synthesis.noise import step_size

VALUES_PER_PASS = 1_500_000
"""Input values that go through the teacher together: 500 images of 3x32x32, ten of 3x224x224."""
ROWS_AT_ONCE = {"cpu": 500}
ROWS_AT_ONCE_ELSEWHERE = 4000
"""Samples side by side, and in one shard."""


@dataclass(frozen=True)
class Subject:
    """What student and bank must know of the teacher, with or without its file at hand."""

    spec: InputSpec
    classes: int
    class_names: tuple[str, ...] | None
    sha256: str


@dataclass(frozen=True)
class Prepared:
    """A run that is known to be possible."""

    config: Config
    hardware: Hardware
    subject: Subject
    teacher: Classifier | None
    """On the device; None where a bank stands in for it."""
    bank: SampleBank | None
    """A bank that exists already."""
    plan: SetPlan
    heldout: HeldOut | None
    student: Blueprint | None
    """What learns; None where only a bank is made."""
    teacher_size: Size | None
    """Beside the student's in the plan; None where a bank stands in for the teacher, or nothing learns."""
    load_seconds: float

    @property
    def architecture(self) -> str | None:
        """Name of the student, None where only a bank is made."""
        return None if self.student is None else self.student.architecture

    @property
    def student_parameters(self) -> int:
        """How many weights the student learns; 0 where there is none."""
        return 0 if self.student is None else self.student.size.parameters

    @property
    def samples(self) -> int:
        """How many samples the bank has or will have."""
        return self.plan.samples if self.bank is None else len(self.bank)

    @property
    def outside_contract(self) -> tuple[str, ...]:
        """What is or was used of the teacher beyond its outputs and their gradient in the input."""
        return self.config.synthesis.outside_contract if self.bank is None else self.bank.outside_contract

    @property
    def trains_baseline(self) -> bool:
        """Whether a student of noise will be trained beside: it takes the teacher, and data to show it on."""
        return self.heldout is not None and self.teacher is not None and self.config.evaluation.baseline


def prepare(config: Config, *, student: bool) -> Prepared:
    """Opens and checks everything that a run needs, before anything is written.

    Args:
        config: of the run.
        student: whether a student is to be trained.

    Raises:
        UsageError: if the configuration asks for something that cannot be.
        ModelFileError: if the teacher's file cannot be a teacher.
        DataError: if bank or held-out data do not fit it.
        EnvironmentFault: if the device is not there.
    """
    if config.teacher.file is None and config.synthesis.bank is None:
        raise UsageError("which teacher?", "cake distill TEACHER.onnx --student cnn")
    if student and config.student.architecture is None:
        raise UsageError("which student?", "--student cnn; `cake students` lists them")
    if student and config.student.architecture is not None:
        check_named(config.student.architecture, config.student.weights)
    device = Ranks.current().device(config.hardware.device)
    hardware = pick(device, config.hardware.precision, deterministic=config.hardware.deterministic)
    bank = None if config.synthesis.bank is None else SampleBank.open(Path(config.synthesis.bank))
    started = time.perf_counter()
    teacher = _open_teacher(config, bank)
    load_seconds = time.perf_counter() - started
    size = None if teacher is None or not student else size_of(teacher, Path(config.teacher.file or ""))
    teacher = None if teacher is None else teacher.on(hardware)
    subject = _subject(teacher, bank)
    require_writable(subject.spec, config.synthesis.formats)
    plan = bank.plan if bank is not None else _plan(config.synthesis, subject.classes, hardware)
    if bank is None and teacher is not None:
        check_choices(config.synthesis, subject.spec, subject.classes, plan)
        objective_of(config.synthesis, teacher, hardware)
    blueprint = None
    if student and config.student.architecture is not None:
        spec, classes, start = subject.spec, subject.classes, config.student.weights
        blueprint = plan_student(config.student.architecture, spec.shape, classes, weights=start, teacher=teacher)
    data = config.evaluation
    heldout = None
    if data.data is not None:
        heldout = open_heldout(
            data.data,
            subject.spec,
            subject.classes,
            split=data.split,
            label_column=data.label_column,
            class_map=read_class_map(data.class_map),
            strict=data.strict,
            data_root=None if data.data_root is None else Path(data.data_root),
            download=data.download,
            class_names=subject.class_names,
        )
    return Prepared(config, hardware, subject, teacher, bank, plan, heldout, blueprint, size, load_seconds)


def _open_teacher(config: Config, bank: SampleBank | None) -> Classifier | None:
    if config.teacher.file is None:
        if bank is None:
            raise UsageError("which teacher?", "cake distill TEACHER.onnx --student cnn")
        return None
    teacher = load_classifier(Path(config.teacher.file), config.teacher)
    if bank is not None and bank.teacher_sha256 != teacher.sha256:
        raise DataError(
            f"the bank {bank.path} was made from {bank.manifest['teacher']['name']}, not from this {teacher.name}",
            "leave --bank out, or name the teacher that it was made from",
        )
    return teacher


def _subject(teacher: Classifier | None, bank: SampleBank | None) -> Subject:
    if bank is not None:
        if not bank.is_complete:
            raise DataError(f"the bank {bank.path} is not finished", f"cake resume {bank.path}")
        return Subject(bank.spec, bank.classes, bank.class_names, bank.teacher_sha256)
    if teacher is None:
        raise UsageError("which teacher?", "cake distill TEACHER.onnx --student cnn")
    return Subject(teacher.spec, teacher.classes, teacher.class_names, teacher.sha256)


def _plan(settings: SynthesisConfig, classes: int, hardware: Hardware) -> SetPlan:
    plan = plan_sets(
        samples=settings.samples or DEFAULT_SAMPLES,
        classes=classes,
        groups=settings.groups,
        set_size=settings.set_size,
        at_once=settings.sets_at_once,
        rows_at_once=ROWS_AT_ONCE.get(hardware.device.type, ROWS_AT_ONCE_ELSEWHERE),
    )
    return replace(plan, spread=settings.time_budget is not None)


def build_engine(
    settings: SynthesisConfig, teacher: Classifier, plan: SetPlan, *, seed: int, hardware: Hardware
) -> Engine:
    """The engine that makes what `settings` ask for; `generative` still lacks its generator."""
    objective = objective_of(settings, teacher, hardware)
    sizes = (
        step_size(
            position,
            plan.sets,
            first=settings.step_size,
            decades=settings.step_size_decades,
            schedule=settings.schedule,
            noise=settings.noise,
        )
        for position in plan.positions
    )
    unit = plan.set_size if objective.whole_sets else plan.groups
    rows = max(1, VALUES_PER_PASS // (teacher.spec.values * unit)) * unit
    generative = settings.method == "generative"
    return Engine(
        teacher=teacher,
        objective=objective,
        plan=plan,
        step_sizes=tuple(sizes),
        steps=0 if settings.only_labels or generative else settings.steps,
        langevin=settings.noise in ("langevin", "both"),
        seed=seed,
        hardware=hardware,
        rows_per_pass=min(rows, plan.set_size * plan.at_once),
        init=settings.starting_points,
        update=update_of(settings),
        space=space_of(settings, teacher.spec, hardware),
        redraws=settings.redraws,
        generator_steps=settings.steps if generative else 0,
    )


def baseline_engine(
    settings: SynthesisConfig, teacher: Classifier, plan: SetPlan, *, seed: int, hardware: Hardware
) -> Engine:
    """The engine of the floor: the starting points that `settings` ask for, labelled and not moved."""
    return replace(build_engine(settings, teacher, plan, seed=seed, hardware=hardware), steps=0, generator_steps=0)
