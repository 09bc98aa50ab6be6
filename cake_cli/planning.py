"""What a run will do, found out before it starts: the teacher opened, everything checked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cake_cli.config import DEFAULT_SAMPLES, Config, SynthesisConfig
from cake_cli.data import HeldOut, open_heldout, read_class_map
from cake_cli.distillation.views import require_possible
from cake_cli.errors import UsageError
from cake_cli.hardware import Hardware, pick
from cake_cli.methods import (
    check_choices,
    check_replay,
    check_rounds,
    objective_of,
    passes_of,
    require_gradient,
    resolved,
    within_queries,
)
from cake_cli.models.blueprint import Blueprint, check_named, plan_student
from cake_cli.models.classifier import Classifier
from cake_cli.models.counting import Size, multiply_adds, size_of
from cake_cli.models.response import doubt_of
from cake_cli.ranks import Ranks
from cake_cli.real_data import open_real
from cake_cli.spec import InputSpec
from cake_cli.subject import Subject, open_teacher, require_same_classes, subject_of
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.copies import require_writable
from cake_cli.synthesis.engine import Passes
from cake_cli.synthesis.sets import SetPlan, plan_sets

DEFAULT_ROUNDS = 8
"""N of CAKE where a student learns, unless that would leave fewer sets in each than `LEAST_SETS_OF_A_ROUND`."""

NOISE_FOR_EACH = 7
"""Starting points that are labelled beside each sample (`Prepared.labels_beside`), unless their number is given."""
WAYPOINTS = 7
"""Points on the way of each sample that are learned beside it (there, too), unless their number is given."""
NOISE_BYTES = 8 * 2**30
"""What either may take on disk then: of large images there are fewer."""
PLAIN_OF_IMAGES = 4
"""How many times as often a student of images learns that knows nothing of neighbouring pixels; its steps are cheap."""
DEEP_OF_IMAGES = 2
"""The same of one that has many layers."""
NO_SETS = SetPlan(sets=0, rows=1, groups=1, at_once=1)
"""Of a run that learns from real data alone."""


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
    blueprints: Mapping[str, Blueprint]
    """What learns, by the text of ``--student``; empty where only a bank is made."""
    teacher_size: Size | None
    """Beside the student's in the plan; None where a bank stands in for the teacher, or nothing learns."""
    load_seconds: float
    real: HeldOut | None = None
    """Real data to learn from: the run is then not data-free."""
    doubt: str | None = None
    """Of the scale of the values that the teacher is assumed to take."""
    unused: tuple[str, ...] = ()
    """Settings of samples that are not made, since a bank is there."""

    @property
    def student(self) -> Blueprint | None:
        """The student, or the first of several; None where only a bank is made."""
        return next(iter(self.blueprints.values()), None)

    @property
    def architecture(self) -> str | None:
        """Of the student, as `build_student` takes it; None where only a bank is made."""
        return None if self.student is None else self.student.architecture

    @property
    def students(self) -> tuple[str, ...]:
        """Names of all students that learn from the one bank, as ``--student`` gave them."""
        return tuple(self.blueprints)

    def for_student(self, name: str) -> Prepared:
        """The same for one of the students alone."""
        if self.students == (name,):
            return self
        alone = replace(self.config.student, architecture=name, others=())
        return replace(self, config=replace(self.config, student=alone), blueprints={name: self.blueprints[name]})

    @property
    def synthesizes(self) -> bool:
        """Whether samples are to be made."""
        return self.bank is None and self.plan.sets > 0

    @property
    def samples(self) -> int:
        """How many samples the bank has or will have."""
        return self.plan.samples if self.bank is None else len(self.bank)

    @property
    def planned_passes(self) -> Passes:
        """What synthesis will ask the teacher, but for starting points that are drawn again."""
        if not self.synthesizes:
            return Passes()
        return passes_of(self.config.synthesis, self.subject.spec, self.plan.samples)

    @property
    def outside_contract(self) -> tuple[str, ...]:
        """What is or was used of the teacher beyond its outputs and their gradient in the input."""
        return self.config.synthesis.outside_contract if self.bank is None else self.bank.outside_contract

    @property
    def learned_rows(self) -> int:
        """How many samples an epoch has, real ones, noise and waypoints among them."""
        return self.floor_samples + (0 if self.real is None else self.real.samples)

    @property
    def floor_samples(self) -> int:
        """How many labels of the teacher's own a student learns from: the noise baseline has as many."""
        return self.samples * (1 + self.waypoints) + self.noise_samples

    @property
    def epochs(self) -> int:
        """Passes of the last training, or the only one, over all that is learned."""
        beside = self.noise_samples if self.teacher is not None else 0
        learned, often = self.samples * (1 + self.waypoints) + beside, 1
        if self.student is not None and len(self.subject.spec.shape) == 3:
            often = PLAIN_OF_IMAGES if self.student.is_plain else DEEP_OF_IMAGES if self.student.is_deep else 1
        return self.config.training.epochs_over(self.samples, learned, often=often)

    @property
    def epochs_between(self) -> tuple[float, ...]:
        """Passes over what there is after each round but the last, or a share of one."""
        return self.config.training.epochs_between(self.plan.rounds, self.epochs)

    @property
    def work_between(self) -> float:
        """The work of training between rounds, as a share of that after the last: the r-th is over r rounds of N."""
        replay = self.config.training.replay
        parts = sum(number * each for number, each in enumerate(self.epochs_between, start=1))
        kept = 1.0 if replay is None else min(1.0, 2 * replay / self.samples)
        return kept * parts / self.plan.rounds / self.epochs

    def epochs_of_noise(self, *, in_rounds: bool) -> int:
        """Passes of the noise baseline over its labels: about as many rows as its student learned.

        Args:
            in_rounds: whether the student learned between rounds, too, as the first of several does.
        """
        return round(self.epochs * (1 + self.work_between)) if in_rounds else self.epochs

    @property
    def labels_beside(self) -> bool:
        """Whether the student learns starting points and waypoints beside the samples unless their number is given.

        It does where the samples are made in rounds, and where only their small number keeps `cake` from rounds.
        """
        settings = self.config.synthesis
        in_rounds = self.plan.rounds > 1 or (settings.rounds is None and settings.way == "cake")
        return settings.bank is None and bool(self.blueprints) and in_rounds

    @property
    def noise_samples(self) -> int:
        """How many starting points are labelled beside the bank, or what time allowed of it, and learned with it."""
        rounds = self.noise_plan.rounds_of_sets[: None if self.bank is None else self.bank.latest_round]
        return sum(map(len, rounds)) * self.plan.set_size

    @property
    def labelled_together(self) -> int:
        """How many of those and of real samples the teacher labels once for all students; 0 beside another's bank."""
        own = self.bank is not None and self.config.synthesis.bank is None and self.teacher is not None
        return self.noise_samples + (0 if self.real is None else self.real.samples) if own else 0

    @property
    def waypoints(self) -> int:
        """W: how many points on the way of each sample are learned beside it."""
        given, settings = self.config.training.waypoints, self.config.synthesis
        if given is None:
            row = 4 * (self.subject.spec.values + self.subject.classes)
            given = min(WAYPOINTS, NOISE_BYTES // (row * max(1, self.plan.samples))) if self.labels_beside else 0
        moved = bool(self.blueprints) and not settings.only_labels and settings.way != "generative"
        return min(given, settings.steps - 1) if moved and self.samples else 0

    @property
    def noise_plan(self) -> SetPlan:
        """Their sets, shared by the rounds as the bank's are."""
        given, settings = self.config.training.noise_samples, self.config.synthesis
        if given is None:
            room = NOISE_BYTES // (4 * (self.subject.spec.values + self.subject.classes))
            follows = self.labels_beside and settings.gradients != "estimated"
            given = min(NOISE_FOR_EACH * self.plan.samples, room) if follows else 0
        return replace(self.plan, sets=-(-given // self.plan.set_size), spread=False)

    def sets_beside(self, number: int) -> tuple[range, range]:
        """The sets of starting points of a round: those that are as they were drawn, and those that are chosen."""
        sets = self.noise_plan.rounds_of_sets[number - 1]
        choosing = number > 2 and self.config.synthesis.bank is None  # then two rounds before it left a student
        plain = len(sets) - (int(self.config.training.chosen * len(sets)) if choosing else 0)
        return sets[:plain], sets[plain:]

    @property
    def chosen_samples(self) -> int:
        """How many of those labelled beside the samples students choose."""
        rounds = range(1, 1 + (self.plan.rounds if self.bank is None else self.bank.latest_round))
        return sum(len(self.sets_beside(number)[1]) for number in rounds) * self.plan.set_size

    @property
    def trains_baseline(self) -> bool:
        """Whether a student of noise will be trained beside: it takes the teacher, and data to show it on.

        A student that learns from labels of starting points and nothing else is that student.
        """
        settings = self.config.synthesis
        is_floor = settings.only_labels and settings.bank is None and self.real is None
        wanted = self.config.evaluation.baseline and self.samples > 0 and not is_floor
        return wanted and self.heldout is not None and self.teacher is not None


def prepare(config: Config, *, student: bool, begun: Path | None = None) -> Prepared:
    """Opens and checks everything that a run needs, before anything is written.

    Args:
        config: of the run.
        student: whether a student is to be trained.
        begun: folder of the bank that is gone on with, if any.

    Raises:
        UsageError: if the configuration asks for something that cannot be.
        ModelFileError: if the teacher's file cannot be a teacher.
        DataError: if bank or held-out data do not fit it.
        EnvironmentFault: if the device is not there.
    """
    if config.teacher.file is None and config.synthesis.bank is None:
        asked = "cake distill TEACHER.onnx --student cnn" if student else "cake synthesize TEACHER.onnx -o bank"
        raise UsageError("which teacher?", asked)
    if student and config.student.architecture is None:
        raise UsageError("which student?", "--student cnn, or mlp for vectors; `cake students` lists them")
    if student and config.real_alone and (method := config.synthesis.method) not in (None, "cake"):
        raise UsageError(f"--method {method} makes samples, and beside --real-data none are made", "--samples 20000")
    names = (config.student.architecture or "", *config.student.others) if student else ()
    for name in names:
        check_named(name, config.student.weights)
    device = Ranks.current().device(config.hardware.device)
    hardware = pick(device, config.hardware.precision, deterministic=config.hardware.deterministic)
    bank = None if config.synthesis.bank is None else SampleBank.open(Path(config.synthesis.bank))
    started = time.perf_counter()
    teacher = open_teacher(config.teacher, bank)
    load_seconds = time.perf_counter() - started
    unused = () if bank is None else config.synthesis.unused_beside(bank.manifest["synthesis"])
    if teacher is not None:
        config = replace(config, synthesis=resolved(config.synthesis, teacher))
    size = None if teacher is None or not student else size_of(teacher, Path(config.teacher.file or ""))
    doubt = None
    if teacher is not None:
        doubt = doubt_of(teacher, multiply_adds(teacher) if size is None else size.multiply_adds)
    teacher = None if teacher is None else teacher.on(hardware)
    subject = subject_of(teacher, bank)
    require_same_classes(subject, begun)
    require_writable(subject.spec, config.synthesis.formats)
    if bank is not None:
        plan = bank.plan
    else:
        plan = NO_SETS
        if not (student and config.real_alone):
            config = _within_queries(config, subject)
            plan = _plan(config.synthesis, subject.classes, hardware, student=student)
    if bank is None and (config.synthesis.rounds or 1) > 1:
        check_rounds(plan, student=student)
    check_replay(config.training.replay, plan)
    if plan.sets and bank is None and teacher is not None:
        require_gradient(config.synthesis, teacher)
        check_choices(config.synthesis, subject.spec, subject.classes, plan)
        objective_of(config.synthesis, teacher, hardware)
    spec, classes, start = subject.spec, subject.classes, config.student.weights
    blueprints = {name: plan_student(name, spec.shape, classes, weights=start, teacher=teacher) for name in names}
    real = _taught(config, teacher, subject.spec, plan) if student else None
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
    opened = Prepared(config, hardware, subject, teacher, bank, plan, heldout, blueprints, size, load_seconds)
    _check_chosen(opened)
    return replace(opened, real=real, doubt=doubt, unused=unused)


def _check_chosen(prepared: Prepared) -> None:
    """Refuses a choice among nothing."""
    if prepared.blueprints and prepared.config.training.chosen and not prepared.chosen_samples:
        told = "training.chosen is of starting points beside the third round and later ones, and there are none"
        raise UsageError(told, "--set training.chosen=0, or three rounds or more with training.noise_samples beside")


def _taught(config: Config, teacher: Classifier | None, spec: InputSpec, plan: SetPlan) -> HeldOut | None:
    """The real data to learn from, if any, once it is known that the teacher is there to label what is to be learned.

    Raises:
        UsageError: if it is not, or the views that are asked for cannot be made.
        DataError: if the data do not fit.
    """
    settings = config.training
    asked = {
        "label real data": settings.real_data is not None,
        "label changed samples": bool(settings.views),
        "label noise": (settings.noise_samples or 0) > 0,
        "measure agreement": config.evaluation.min_agreement is not None,
    }
    for what, wanted in asked.items():
        if wanted and teacher is None:
            raise UsageError(f"the teacher's file is needed to {what}", "--teacher FILE")
    if settings.noise_samples and not plan.sets:
        raise UsageError("noise_samples go beside a bank, and there is none", "--samples 20000")
    if settings.views:
        require_possible(settings.views, spec.shape, plan.groups if plan.sets else 0)
    return None if settings.real_data is None or teacher is None else open_real(config, teacher)


def _within_queries(config: Config, subject: Subject) -> Config:
    """The configuration with what `--queries` pays for."""
    settings = config.synthesis
    if settings.queries is None:
        return config
    one = plan_sets(samples=1, classes=subject.classes, groups=settings.groups, set_size=settings.set_size)
    return replace(config, synthesis=within_queries(settings, subject.spec, one.set_size))


def _plan(settings: SynthesisConfig, classes: int, hardware: Hardware, *, student: bool) -> SetPlan:
    if settings.samples == 0:
        raise UsageError("--samples 0 makes no bank", "--samples 20000")
    plan = plan_sets(
        samples=DEFAULT_SAMPLES if settings.samples is None else settings.samples,
        classes=classes,
        groups=settings.groups,
        set_size=settings.set_size,
        at_once=settings.sets_at_once,
        rows_at_once=hardware.rows_side_by_side,
        rounds=settings.rounds or 1,
    )
    if settings.rounds is None and student and settings.way == "cake":
        plan = plan.in_rounds(DEFAULT_ROUNDS)
    if settings.sets_at_once is None:
        plan = plan.shared_by(Ranks.current().world)
    return replace(plan, spread=settings.time_budget is not None)
