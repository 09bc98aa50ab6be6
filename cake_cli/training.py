"""The training half of a run: from a bank, real data, or both to a student in a file; and its noise baseline."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cake_cli.config import TrainingConfig
from cake_cli.distillation.fidelity import known_by_heart, row_agreement
from cake_cli.distillation.losses import class_weights, distillation_loss
from cake_cli.distillation.optimizers import UpdateRule
from cake_cli.distillation.placement import choose_place, feed_from
from cake_cli.distillation.pool import Part, Pool
from cake_cli.distillation.shelf import Shelf, waypoint_shelf
from cake_cli.distillation.trainer import Epoch, train
from cake_cli.distillation.views import Views
from cake_cli.errors import DataError, RunError, UsageError
from cake_cli.events import Reporter
from cake_cli.hardware import Hardware
from cake_cli.labelled import shared_folder, starts_of_baseline, starts_of_round
from cake_cli.lesson import Lesson, compose
from cake_cli.methods import VALUES_PER_PASS
from cake_cli.models.blueprint import Blueprint
from cake_cli.models.students import save_student
from cake_cli.planning import Prepared
from cake_cli.ranks import ALONE, Ranks
from cake_cli.real_data import label
from cake_cli.runs import RunDirectory
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.engine import Passes
from cake_cli.text import as_argument


@dataclass(frozen=True)
class Stretch:
    """One training of a run's student: the only one, or one of several that carry on from each other."""

    name: str = "training"
    """Of the stage, of its metrics, and of its checkpoint."""
    epochs: int | None = None
    """None for as many as the settings say."""
    start: str | None = None
    """Name of the stretch that it carries on from."""

    def checkpoint(self, run: RunDirectory) -> Path:
        """What this stretch keeps, to go on from."""
        return run.checkpoints / f"{self.name}.pt"

    def begun_from(self, run: RunDirectory) -> Path | None:
        """What the stretch before left."""
        return None if self.start is None else run.checkpoints / f"{self.start}.pt"


WHOLE = Stretch()


def train_student(
    prepared: Prepared,
    run: RunDirectory,
    bank: SampleBank | None,
    reporter: Reporter,
    ranks: Ranks = ALONE,
    stretch: Stretch = WHOLE,
) -> None:
    """Trains the run's student and writes it. All ranks of a job call this together, and the first writes.

    Args:
        prepared: of the run.
        run: its directory.
        bank: the samples; None where real data is all there is.
        reporter: told of the course.
        ranks: the processes that share every batch.
        stretch: the whole training, or its last part.

    Raises:
        RunError: if the loss is not finite, or the teacher's answers to real data.
        DataError: if no samples are left to learn from, or they are damaged.
        EnvironmentFault: if the disk is full.
    """
    lesson = lesson_of(prepared, run, bank, reporter, ranks)
    labelled = len(lesson.learned) - lesson.learned.paired - lesson.waypoints
    student, passes = learn(prepared, run, lesson, reporter, ranks, stretch)
    if not ranks.is_first:
        return
    run.update(learned=len(lesson.learned))
    between = sum(known["training_passes"]["forward"] for known in run.record.get("rounds", []))
    run.update(training_passes=asdict(Passes(forward=labelled + passes + between)))
    if lesson.heldout is not None:
        run.update(synthetic_fidelity=_fidelity(student, lesson, prepared, reporter))
    save(prepared, run.student_path, student)


def lesson_of(
    prepared: Prepared, run: RunDirectory, bank: SampleBank | None, reporter: Reporter, ranks: Ranks = ALONE
) -> Lesson:
    """What the run's student learns from; noise and real data are labelled, if there are any and that was not done yet.

    Arguments and errors are those of `train_student`.
    """
    beside: list[Part] = []
    for number in range(1, 1 + (1 if bank is None else bank.latest_round)):
        for chosen in (False, True):
            beside += starts_of_round(prepared, run, bank, number, reporter, ranks, chosen=chosen)
    if prepared.real is not None and prepared.teacher is not None:
        at_once = max(1, VALUES_PER_PASS // prepared.subject.spec.values)
        shelf = Shelf(shared_folder(prepared, run, bank) / "real")
        if ranks.is_first:
            label(prepared.real, prepared.teacher, prepared.hardware, shelf, reporter, at_once=at_once)
        ranks.barrier()
        beside += shelf.parts(prepared.subject.spec.shape, prepared.subject.classes)
    ways = _waypoints(prepared, run, bank) if bank is not None and prepared.waypoints else []
    return compose(bank, beside, prepared.config.training, ways)


def _waypoints(prepared: Prepared, run: RunDirectory, bank: SampleBank) -> list[Part]:
    """The points on the way to the samples of each shard of the bank.

    Raises:
        DataError: if they were not kept, or are lost.
    """
    parts: list[Part] = []
    without = f"{shlex.join(['cake', 'train', str(bank.path), '--student', *prepared.students])}, without waypoints"
    for shard in bank.manifest["shards"]:
        shelf = waypoint_shelf(shared_folder(prepared, run, bank), bank.plan.wave_of(shard["sets"][0]))
        if not shelf.is_whole:
            told = f"{shelf.path} is not there: waypoints are kept while samples are made, until the run ends"
            raise DataError(told, without)
        try:
            parts += shelf.parts(bank.spec.shape, bank.classes, prepared.waypoints * shard["samples"])
        except DataError as fault:
            raise DataError(fault.what, without) from fault
    return parts


def learn(
    prepared: Prepared, run: RunDirectory, lesson: Lesson, reporter: Reporter, ranks: Ranks, stretch: Stretch
) -> tuple[nn.Module, int]:
    """The student after a stretch of training, and the rows that the teacher labelled meanwhile.

    Arguments and errors are those of `train_student`.
    """
    settings, views, passes = prepared.config.training, None, 0
    if settings.views and prepared.teacher is not None:
        views = Views(settings.views, prepared.teacher, prepared.hardware)
        epochs = prepared.epochs if stretch.epochs is None else stretch.epochs
        passes = settings.rows_learned(len(lesson.learned), epochs)
    try:
        return _fit(prepared, run, lesson, stretch, reporter, ranks, views=views), passes
    except RunError as fault:
        bank = run.record.get("bank")
        if bank is None:
            raise
        weights = prepared.config.student.weights
        start = [] if weights is None else ["--init", weights]
        again = shlex.join(["cake", "train", str(bank), "--student", *prepared.students, *start])
        raise RunError(fault.what, f"the bank is whole: {again} {fault.fix}") from fault


def train_baseline(
    prepared: Prepared, run: RunDirectory, reporter: Reporter, ranks: Ranks = ALONE, *, in_rounds: bool = False
) -> None:
    """The same student, trained for as many rows on as much noise that the teacher labelled, and on nothing else.

    Arguments and errors are those of `train_student`, and `Prepared.epochs_of_noise`.
    """
    if prepared.teacher is None:
        return
    parts = starts_of_baseline(prepared, run, reporter, ranks)
    count = sum(len(part.inputs) for part in parts)
    if ranks.is_first:
        run.update(baseline_passes=asdict(Passes(forward=count)))
    noise = Pool(tuple(parts), torch.arange(count))
    stretch = Stretch("baseline", prepared.epochs_of_noise(in_rounds=in_rounds))
    student = _fit(prepared, run, Lesson(noise), stretch, reporter, ranks)
    if ranks.is_first:
        save(prepared, run.baseline_path, student, data_free=True)


def _fidelity(student: nn.Module, lesson: Lesson, prepared: Prepared, reporter: Reporter) -> float:
    """Agreement on held-out synthetic samples; warns if the student knows its own by heart."""

    def measured(pool: Pool) -> Tensor:
        return row_agreement(student, feed_from(pool, "disk", prepared.hardware), prepared.hardware)

    if lesson.heldout is None or lesson.neighbours is None:
        raise ValueError("nothing is held out")
    heldout, learned = measured(lesson.heldout), measured(lesson.neighbours)
    own, others = float(learned.mean()), float(heldout.mean())
    if known_by_heart(learned, heldout):
        gap = f"agrees with the teacher on {own:.1%} of those that it learned from and on {others:.1%} of others"
        if prepared.plan.rounds > 1 and prepared.config.synthesis.disagreement > 0:
            reporter.note(f"the student {gap}, as is usual where samples were drawn to what students had wrong")
        else:
            reporter.warn(f"the student overfits its samples: it {gap}; more --samples would help")
    return others


def _fit(
    prepared: Prepared,
    run: RunDirectory,
    lesson: Lesson,
    stretch: Stretch,
    reporter: Reporter,
    ranks: Ranks,
    *,
    views: Views | None = None,
) -> nn.Module:
    settings, seed, hardware = prepared.config.training, prepared.config.seed, prepared.hardware
    epochs = prepared.epochs if stretch.epochs is None else stretch.epochs
    batch = min(settings.batch_size, len(lesson.learned))
    if batch < 2 * ranks.world:
        raise UsageError(
            f"a batch of {batch} samples cannot be shared by {ranks.world} ranks, two for each",
            f"--batch-size {2 * ranks.world}, more samples, or fewer ranks",
        )
    torch.manual_seed(seed)
    student = hardware.place(_blueprint(prepared).build())
    rule = update_rule(settings, student)
    if stretch.name == "training" and ranks.is_first:
        run.update(optimizer={"name": rule.name, "lr": rule.lr, "weight_decay": rule.weight_decay})
    pools = [lesson.learned] + ([lesson.heldout] if lesson.heldout is not None and ranks.is_first else [])
    size = sum(len(pool) * pool.row_bytes for pool in pools) * (ranks.world if hardware.device.type == "cpu" else 1)
    place = choose_place(size, hardware, settings.bank_memory)
    learned, *others = (feed_from(pool, place, hardware) for pool in pools)
    last: list[Epoch] = []

    def record(epoch: Epoch) -> None:
        if not last:
            run.keep_metrics(stretch.name, key="epoch", below=epoch.epoch)
        last[:] = [epoch]
        run.append_metrics(stretch.name, **{key: value for key, value in asdict(epoch).items() if value is not None})

    with _heard(ranks, run), reporter.stage(stretch.name, epochs, "epochs") as stage:
        train(
            student,
            learned,
            heldout=others[0] if others else None,
            loss=distillation_loss(settings.labels, settings.temperature, settings.loss),
            hard_weight=settings.true_label_weight,
            class_weights=_class_weights(settings, lesson.learned, hardware),
            views=views,
            epochs=epochs,
            batch_size=settings.batch_size,
            rule=rule,
            lr_schedule=settings.lr_schedule,
            ema=settings.ema,
            clip=settings.clip,
            seed=seed,
            hardware=hardware,
            stage=stage,
            forward=None if ranks.is_alone else _in_step(student, hardware),
            rank=ranks.rank,
            world=ranks.world,
            checkpoint=stretch.checkpoint(run),
            start=stretch.begun_from(run),
            on_epoch=record,
        )
        if last:
            agreed = last[0].agreement
            fidelity = "" if agreed is None else f"   agrees on {agreed:.1%} of held-out synthetic samples"
            stage.conclude(f"{epochs} epoch{'s' * (epochs != 1)}   loss {last[0].loss:.3f}{fidelity}")
    return student


def _class_weights(settings: TrainingConfig, learned: Pool, hardware: Hardware) -> Tensor | None:
    """What a sample of each class counts for; None where all count alike."""
    if settings.class_balance == 0:
        return None
    return class_weights(learned.class_counts(), settings.class_balance).to(hardware.device)


def update_rule(settings: TrainingConfig, student: nn.Module) -> UpdateRule:
    """The optimizer that a configuration means for a student."""
    return UpdateRule.for_network(
        student,
        settings.student_optimizer,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
    )


@contextmanager
def _heard(ranks: Ranks, run: RunDirectory) -> Iterator[None]:
    """What torch.distributed says when another rank is gone, as a sentence."""
    try:
        yield
    except RuntimeError as fault:
        if ranks.is_alone or not any(name in str(fault) for name in ("gloo", "NCCL", "Connection closed")):
            raise
        raise RunError(
            f"another of {ranks.world} ranks died without a word (killed, perhaps for memory); nothing is lost",
            f"cake resume {as_argument(run.path)}, with as many ranks as you like",
        ) from fault


def _in_step(student: nn.Module, hardware: Hardware) -> nn.Module:
    """The student with gradients that are averaged over all ranks."""
    on = [hardware.device] if hardware.device.type == "cuda" else None
    return DistributedDataParallel(student, device_ids=on, gradient_as_bucket_view=True)


def _blueprint(prepared: Prepared) -> Blueprint:
    if prepared.student is None:
        raise UsageError("which student?", "--student cnn, or mlp for vectors; `cake students` lists them")
    return prepared.student


def save(prepared: Prepared, path: Path, student: nn.Module, *, data_free: bool | None = None) -> None:
    """Writes a student of the run; raises `EnvironmentFault` if the disk is full or refuses."""
    subject, blueprint = prepared.subject, _blueprint(prepared)
    save_student(
        path,
        student,
        blueprint.architecture,
        spec=subject.spec,
        classes=subject.classes,
        class_names=subject.class_names,
        teacher_sha256=subject.sha256,
        teacher_name=_teacher_name(prepared),
        data_free=prepared.config.training.real_data is None if data_free is None else data_free,
        code_sha256=blueprint.code_sha256,
        start_sha256=blueprint.weights_sha256,
    )


def _teacher_name(prepared: Prepared) -> str:
    if prepared.teacher is not None:
        return prepared.teacher.name
    return "" if prepared.bank is None else str(prepared.bank.manifest["teacher"]["name"])
