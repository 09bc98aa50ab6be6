"""The closed loop: samples, a student that learns from them, samples drawn to where it differs from the teacher, ...

Each round but the last ends with a student in the bank's folder, by its hash in the manifest: all that the samples of
the next round depend on beside the seed. So a run goes on from wherever it stopped, with the same samples.

Of several processes the first decides what is next, and the others are told: a round's samples, its labelled starting
points, a training. All share each of these.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from cake_cli.distillation.fidelity import (
    Agreement,
    agreement_of,
    balanced_agreement,
    clear_fall,
    measure_agreement,
    row_agreement,
)
from cake_cli.distillation.placement import feed_from
from cake_cli.distillation.pool import Part, Pool
from cake_cli.errors import RunError
from cake_cli.events import SILENT, Reporter
from cake_cli.labelled import starts_of_round
from cake_cli.lesson import Lesson, heldout_before, of_round
from cake_cli.models.classifier import Classifier
from cake_cli.models.students import load_student
from cake_cli.planning import Prepared
from cake_cli.ranks import ALONE, Ranks
from cake_cli.runs import RunDirectory
from cake_cli.storage import replacing
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.engine import Passes
from cake_cli.synthesizing import Turn, synthesize
from cake_cli.training import WHOLE, Stretch, learn, lesson_of, save

SAMPLES, STARTS, TRAINING = "samples", "starts", "training"
"""What all ranks do together when the first has named it, with the number of the round."""
ENDED = "the expected agreement rose no more"
"""Why a time budget makes no further round, as the manifest has it."""


def make_in_rounds(prepared: Prepared, run: RunDirectory, reporter: Reporter, ranks: Ranks = ALONE) -> SampleBank:
    """Makes the bank round by round, or goes on with it; the run's first student learns between rounds.

    Args:
        prepared: of the run; has a teacher, a student, and a plan of several rounds.
        run: its directory.
        reporter: told of the course.
        ranks: the processes of the job, of which this is the first; the others call `follow_rounds`.

    Returns:
        The bank, complete. `last_stretch` is left to be trained.

    Raises:
        RunError: if the objective or the training loss is not finite, or samples are degenerate.
        DataError: if the bank is damaged, or not this run's.
        EnvironmentFault: if the disk is full, or memory holds not even one row.
    """
    first = prepared.for_student(prepared.students[0])
    if len(prepared.students) > 1:
        reporter.note(f"rounds follow {prepared.students[0]}; the other students learn from the whole bank")
    path, rounds = run.bank_path, prepared.plan.rounds
    bank = SampleBank.open(path) if (path / "manifest.json").is_file() else None
    for number in range(1, rounds + 1):
        student = None if bank is None or number == 1 else _student_of(bank, number, first)
        if number > 1 and student is None:
            break  # the bank was complete before this round
        if bank is None or bank.missing_waves(number):
            ranks.share([SAMPLES, number])
            bank = _made(prepared, run, reporter, number, student, ranks)
        if not bank.of_round(number):
            break  # the time was up before the first of its samples
        _note_made(prepared, run, bank, number)
        if student is not None and "expected_agreement" not in _known(run, number):
            with run.timed("training"):  # of which labelling what is learned beside is a part
                ranks.share([STARTS, number])
                _expect(first, run, bank, number, student, reporter, ranks)
        if not bank.is_complete and bank.budget is not None and not still_rises(_expected(run, number)):
            bank.finish(spent=bank.seconds_spent, ended=ENDED)
            reporter.note(f"no further round: {ENDED}")
        if bank.is_complete and number >= bank.latest_round:
            break
        if bank.student_of(number + 1) is None:
            with run.timed("training"):
                ranks.share([TRAINING, number])
                _learn(first, run, bank, number, student, reporter, ranks)
    ranks.share(None)
    return synthesize(prepared, path, reporter, run, ranks)  # none is missing: writes copies, and tells of the whole


def follow_rounds(prepared: Prepared, run: RunDirectory, ranks: Ranks) -> SampleBank:
    """What the ranks after the first do in `make_in_rounds`: their share of all that it does.

    Args:
        prepared: of the run.
        run: its directory, as these ranks see it.
        ranks: the processes of the job.

    Returns:
        The bank, complete.

    Raises:
        CakeError: as `make_in_rounds`.
    """
    first = prepared.for_student(prepared.students[0])
    while (told := ranks.share(None)) is not None:
        work, number = told
        if work == STARTS:
            _unseen_starts(first, run, SampleBank.open(run.bank_path), number, SILENT, ranks)
        elif work == TRAINING:
            _trained(first, run, SampleBank.open(run.bank_path), number, SILENT, ranks)
        else:
            student = None if number == 1 else _student_of(SampleBank.open(run.bank_path), number, first)
            synthesize(prepared, run.bank_path, SILENT, ranks=ranks, turn=_turn(prepared, number, student))
    return synthesize(prepared, run.bank_path, SILENT, ranks=ranks)


def _turn(prepared: Prepared, number: int, student: Classifier | None) -> Turn:
    return Turn(number, student, prepared.config.synthesis.disagreement_in(number, prepared.plan.rounds))


def _made(
    prepared: Prepared, run: RunDirectory, reporter: Reporter, number: int, student: Classifier | None, ranks: Ranks
) -> SampleBank:
    """The bank with one more round."""
    settings = prepared.config.synthesis
    try:
        with run.timed("synthesis"):
            return synthesize(prepared, run.bank_path, reporter, run, ranks, _turn(prepared, number, student))
    except RunError as fault:
        if student is None or settings.disagreement == 0:
            raise
        raise RunError(
            f"round {number}, against the student: {fault.what}; the rounds before are whole",
            f"cake resume {run.path} --disagreement {settings.disagreement / 5:g}, or in a new run {fault.fix}",
        ) from fault


def _student_of(bank: SampleBank, number: int, prepared: Prepared) -> Classifier | None:
    file = bank.student_of(number)
    return None if file is None else load_student(file, prepared.architecture)


def _trained(
    prepared: Prepared, run: RunDirectory, bank: SampleBank, number: int, reporter: Reporter, ranks: Ranks
) -> tuple[nn.Module, int, Lesson, int]:
    """The student after a round's training, the rows that were labelled meanwhile, what it learned, and its epochs."""
    wanted = prepared.epochs_between[number - 1]
    epochs, lesson = math.ceil(wanted), lesson_of(prepared, run, bank, reporter, ranks)
    if wanted < epochs:
        lesson = lesson.share(wanted / epochs, seed=prepared.config.seed + number)
    stretch = Stretch(_name(number), epochs, None if number == 1 else _name(number - 1))
    student, passes = learn(prepared, run, lesson, reporter, ranks, stretch)
    return student, passes, lesson, epochs


def _learn(
    prepared: Prepared,
    run: RunDirectory,
    bank: SampleBank,
    number: int,
    before: Classifier | None,
    reporter: Reporter,
    ranks: Ranks,
) -> None:
    """The student learns from the rounds so far, and is written for the next one."""
    student, passes, lesson, epochs = _trained(prepared, run, bank, number, reporter, ranks)
    fidelity = None
    if lesson.heldout is not None:
        fidelity = measure_agreement(student, feed_from(lesson.heldout, "disk", prepared.hardware), prepared.hardware)
    _note(
        run, number,
        epochs=epochs,
        learned=len(lesson.learned),
        training_passes=asdict(Passes(forward=passes)),
        synthetic_fidelity=fidelity,
    )  # fmt: skip
    if before is not None:
        _tell_of_fall(prepared, lesson, bank, number, before.on(prepared.hardware).module, student, reporter)
    save(prepared, bank.student_path(number + 1), student)
    bank.begin_round(number + 1)
    (run.checkpoints / f"{_name(number - 1)}.pt").unlink(missing_ok=True)  # the next goes on from this one


def _name(number: int) -> str:
    return f"round-{number}"


def last_stretch(run: RunDirectory, bank: SampleBank | None) -> Stretch:
    """The training that makes the student of a run: from the state after the last round but one, where it is there.

    If the time was up between two rounds, it is there after the last.
    """
    latest = 1 if bank is None else bank.latest_round
    there = [name for name in map(_name, (latest, latest - 1)) if (run.path / "checkpoints" / f"{name}.pt").is_file()]
    return Stretch(start=there[0]) if there else WHOLE


def hand_over(run: RunDirectory, own: RunDirectory, bank: SampleBank | None) -> None:
    """Gives the state after the last round but one to the run of the student that the rounds followed.

    Args:
        run: of several students, with the bank.
        own: of the one student.
        bank: of the run.

    Raises:
        EnvironmentFault: if the disk is full or refuses.
    """
    stretch = last_stretch(run, bank)
    left = stretch.begun_from(run)
    if left is not None:
        with replacing(own.checkpoints / left.name) as temporary:
            shutil.copyfile(left, temporary)


def look_back(prepared: Prepared, run: RunDirectory, bank: SampleBank, reporter: Reporter) -> None:
    """After the last training: says so if the student has become worse by it; raises as `make_in_rounds`."""
    number = bank.latest_round
    before = _student_of(bank, number, prepared)
    if number > 1 and before is not None:
        lesson, after = lesson_of(prepared, run, bank, reporter), load_student(run.student_path, prepared.architecture)
        modules = [one.on(prepared.hardware).module for one in (before, after)]
        _tell_of_fall(prepared, lesson, bank, number, modules[0], modules[1], reporter)


def _tell_of_fall(
    prepared: Prepared,
    lesson: Lesson,
    bank: SampleBank,
    number: int,
    before: nn.Module,
    after: nn.Module,
    reporter: Reporter,
) -> None:
    """Warns if a round made the student worse on held-out samples of the rounds before it."""
    heldout = heldout_before(lesson, bank, number)
    if heldout is None:
        return
    fall = clear_fall(_rows(before, heldout, prepared), _rows(after, heldout, prepared))
    if fall is not None:
        reporter.warn(
            f"round {number} made the student worse: it agrees with the teacher on {fall:.1%} fewer of the held-out "
            "samples of the rounds before; a smaller --disagreement, or more training.round_epochs, may help"
        )


def _rows(student: nn.Module, pool: Pool, prepared: Prepared) -> Tensor:
    return row_agreement(student, feed_from(pool, "disk", prepared.hardware), prepared.hardware)


# --- what to expect -----------------------------------------------------------------------------------------------


def _unseen_starts(
    prepared: Prepared, run: RunDirectory, bank: SampleBank, number: int, reporter: Reporter, ranks: Ranks
) -> list[Part]:
    """A round's labelled starting points, not learned yet; none where rounds without any could not be compared.

    Those that students choose, which tell nothing of others, are labelled, too: the first student's, which the rounds
    follow, and not another's that may learn before it.
    """
    starts_of_round(prepared, run, bank, number, reporter, ranks, chosen=True)
    everywhere = all(prepared.noise_plan.rounds_of_sets)
    return starts_of_round(prepared, run, bank, number, reporter, ranks) if everywhere else []


def _expect(
    prepared: Prepared,
    run: RunDirectory,
    bank: SampleBank,
    number: int,
    student: Classifier,
    reporter: Reporter,
    ranks: Ranks,
) -> None:
    """Measures the student on a round that it has not seen: the stopping rule, without real data.

    Samples were drawn to where the student errs, and tell how well that went. Starting points were not: where some are
    learned beside, those of the round, which come later, are what it is expected to do on other inputs, each of the
    teacher's classes as much as any other.
    """
    module = student.on(prepared.hardware).module
    moved = found = agreement_of(_rows(module, of_round(bank, number), prepared), bank.plan.groups)
    parts = _unseen_starts(prepared, run, bank, number, reporter, ranks)
    if parts:
        starts = Pool(tuple(parts), torch.arange(sum(len(part.inputs) for part in parts)))
        classes = torch.cat([part.logits.argmax(dim=1) for part in parts])
        found = balanced_agreement(_rows(module, starts, prepared), classes)
    on = "starting points" if parts else "samples"
    init = prepared.config.synthesis.starting_points if parts and prepared.subject.spec.is_image else None
    told = {"expected_agreement": found.to_json(), "agreement_on_samples": moved.to_json()}
    line = {"round": number, "expected_agreement": found.value, "low": found.low, "high": found.high}
    run.keep_metrics("rounds", key="round", below=number, then=[line])  # the note says that it was done
    _note(run, number, expected_on=on, starts=init, **told)
    others = f", all classes alike; {moved.value:.1%} on its samples, drawn to where it errs" if parts else ""
    reporter.note(
        f"   expected agreement {found.describe()}: of the student so far on {on} of round {number}, unseen{others}"
    )


def _expected(run: RunDirectory, number: int) -> list[Agreement]:
    """The expected agreements up to a round."""
    known = [entry.get("expected_agreement") for entry in run.record.get("rounds", []) if entry["round"] <= number]
    return [Agreement(**found) for found in known if found is not None]


def expected_agreement(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The latest expected agreement that a run.json has, with the round that it was measured on."""
    known = [entry for entry in record.get("rounds") or [] if entry.get("expected_agreement")]
    if not known:
        return None
    last = known[-1]
    told = {"round": last["round"], "on": last.get("expected_on", "samples"), "starts": last.get("starts")}
    return {**told, **last["expected_agreement"]}


def still_rises(found: Sequence[Agreement]) -> bool:
    """Whether another round is worth its time, by the expected agreements so far.

    Rounds stop when two in a row have not come above the best one before them; of fewer nothing can be said.
    """
    if len(found) < 3:
        return True
    best = max(one.value for one in found[:-2])
    return max(one.value for one in found[-2:]) > best


# --- the record ---------------------------------------------------------------------------------------------------


def _known(run: RunDirectory, number: int) -> dict[str, Any]:
    return next((entry for entry in run.record.get("rounds", []) if entry["round"] == number), {})


def _note_made(prepared: Prepared, run: RunDirectory, bank: SampleBank, number: int) -> None:
    """What a round's samples are and took; nothing of its training is known yet."""
    made = bank.of_round(number)
    _note(
        run, number,
        samples=sum(shard["samples"] for shard in made),
        disagreement=max((shard.get("disagreement", 0.0) for shard in made), default=0.0),
        teacher_passes=asdict(sum((Passes(**shard["teacher_passes"]) for shard in made), Passes())),
        labelled=sum(map(len, prepared.sets_beside(number))) * prepared.plan.set_size,
        training_passes=_known(run, number).get("training_passes", asdict(Passes())),
    )  # fmt: skip


def _note(run: RunDirectory, number: int, **figures: Any) -> None:
    """Adds to what run.json says of a round."""
    others = [entry for entry in run.record.get("rounds", []) if entry["round"] != number]
    entries = [*others, {"round": number} | _known(run, number) | figures]
    run.update(rounds=sorted(entries, key=lambda entry: int(entry["round"])))
