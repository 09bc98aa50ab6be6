"""distill = synthesize, train, evaluate, report: each stage resumable, each leaving its trace in the run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cake_cli.address import as_address
from cake_cli.catalog import short_name
from cake_cli.config import LABELLED_ONLY
from cake_cli.data import Evaluation, evaluate
from cake_cli.errors import AgreementMissed, CakeError, DataError
from cake_cli.events import SILENT, Reporter
from cake_cli.models.exporting import Export, default_path
from cake_cli.models.students import load_student
from cake_cli.planning import Prepared
from cake_cli.ranks import ALONE, Ranks
from cake_cli.recording import RecordingReporter
from cake_cli.report.page import write_report
from cake_cli.rounds import expected_agreement, follow_rounds, hand_over, last_stretch, look_back, make_in_rounds
from cake_cli.runs import OtherRanksRun, RunDirectory, folder_name
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.engine import Passes
from cake_cli.synthesizing import synthesize
from cake_cli.training import Stretch, train_baseline, train_student


def distill(prepared: Prepared, run: RunDirectory, reporter: Reporter, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Runs all stages that are not done yet, and returns what `--json` prints.

    Args:
        prepared: of the run.
        run: its directory.
        reporter: told of the course.
        ranks: the processes of the job, of which this is the first; the others call `assist`.

    Raises:
        CakeError: whatever a stage raises; the run can be resumed.
        AgreementMissed: at the very end, if `--min-agreement` is not reached.
    """
    run.clear_leftovers()
    _describe(prepared, run)
    bank = prepared.bank
    if prepared.synthesizes:
        if prepared.teacher is not None and prepared.teacher.noise is not None:
            reporter.warn(f"{prepared.teacher.name}: {prepared.teacher.noise}")
        with _passes_in_any_case(run):
            if prepared.plan.rounds > 1:
                bank = make_in_rounds(prepared, run, reporter, ranks)
            else:
                with run.timed("synthesis"):
                    bank = synthesize(prepared, run.bank_path, reporter, run, ranks)
        prepared = replace(prepared, bank=bank)
    _record_bank(run, bank)
    if len(prepared.students) > 1:
        _teach_each(prepared, run, bank, reporter, ranks)
        run.update(training_passes=asdict(Passes(forward=_labelled_for_all(prepared, run))))
        shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
        run.finish("complete")
        if prepared.config.evaluation.report:
            with run.timed("report"):
                run.update(report=str(write_report(run)))
    else:
        _teach(prepared, run, bank, reporter, ranks)
    ranks.share(None)
    _require_agreement(prepared, run)
    return result(run)


@contextmanager
def _passes_in_any_case(run: RunDirectory) -> Iterator[None]:
    """Writes down what the teacher was asked for a bank whose making is stopped, too."""
    try:
        yield
    except BaseException:
        with suppress(CakeError):
            if (run.bank_path / "manifest.json").is_file():
                run.update(teacher_passes=asdict(SampleBank.open(run.bank_path).passes))
        raise


def _record_bank(run: RunDirectory, bank: SampleBank | None) -> None:
    if bank is None:
        run.update(synthesis={"samples": 0, "method": "none"})
    else:
        run.update(bank=str(bank.path), teacher_passes=asdict(bank.passes), synthesis=_synthesis_record(bank))
        if bank.plan.rounds > 1:
            run.update(student_passes=asdict(bank.student_passes))


def _teach(prepared: Prepared, run: RunDirectory, bank: SampleBank | None, reporter: Reporter, ranks: Ranks) -> None:
    """The stages of one student: training, its noise baseline, evaluation, report."""
    trains, baseline = not run.student_path.exists(), prepared.trains_baseline and not run.baseline_path.exists()
    stretch = last_stretch(run, bank)
    ranks.share([prepared.students[0], str(run.path), trains, baseline, stretch.start])
    if trains:
        with run.timed("training"):
            train_student(prepared, run, bank, reporter, ranks, stretch)
    if bank is not None and stretch.start is not None:  # again in a run that ended in the midst of it
        with run.timed("training"):
            look_back(prepared, run, bank, reporter)
    if baseline:
        with run.timed("baseline"):
            train_baseline(prepared, run, reporter, ranks, in_rounds=stretch.start is not None)
    if prepared.heldout is not None and (trains or baseline or not _is_measured(run.record, prepared)):
        with run.timed("evaluation"):
            run.update(evaluation=_evaluate(prepared, run, reporter))
    if prepared.config.student.export:
        with run.timed("export"):
            _export(prepared, run, reporter)
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    run.finish("complete")
    if prepared.config.evaluation.report:
        with run.timed("report"):
            run.update(report=str(write_report(run)))


def _teach_each(
    prepared: Prepared, run: RunDirectory, bank: SampleBank | None, reporter: Reporter, ranks: Ranks
) -> None:
    """The stages of several students, each in a run directory of its own below that of the bank."""
    run.update(students=_folders(prepared, run.record.get("students", {})))
    for name, folder in run.record["students"].items():
        alone = replace(prepared.for_student(name), bank=bank)
        own = _run_of_one(alone, run, run.path / folder, bank)
        own.clear_leftovers()
        if own.record["status"] == "complete" and _has_all(own.record, prepared):
            continue
        _describe(alone, own)
        _record_bank(own, bank)
        if name == prepared.students[0] and not own.student_path.exists():
            hand_over(run, own, bank)
        try:
            _teach(alone, own, bank, RecordingReporter(reporter, own, short_name(name)), ranks)
        except BaseException as fault:
            stopped = isinstance(fault, KeyboardInterrupt)
            own.finish("interrupted" if stopped else "failed", fault=None if stopped else fault)
            raise


def _folders(prepared: Prepared, begun: dict[str, str]) -> dict[str, str]:
    """Where each student's run directory lies below that of the bank: as it was begun, and for others by their name."""
    named = {name: f"students/{folder_name(short_name(name))}" for name in prepared.students}
    if not begun and len(set(named.values())) < len(named):
        return {name: f"{folder}-{number}" for number, (name, folder) in enumerate(named.items(), start=1)}
    folders = dict(begun)
    for name in [name for name in named if name not in begun]:
        taken = named[name] in folders.values()
        folders[name] = f"{named[name]}-{len(folders) + 1}" if taken else named[name]
    return {name: folders[name] for name in prepared.students}


def _has_all(record: dict[str, Any], prepared: Prepared) -> bool:
    """Whether a finished student has what is asked for now: settings of a run may change before it goes on."""
    asked, exported = prepared.config, {file["format"] for file in record.get("exports", [])}
    measured = prepared.heldout is None or _is_measured(record, prepared)
    reported = record.get("report") is not None or not asked.evaluation.report
    return measured and reported and exported >= set(asked.student.export)


def _is_measured(record: dict[str, Any], prepared: Prepared) -> bool:
    """Whether a student was measured, and against the teacher where that is at hand now."""
    found = record["evaluation"]
    return found is not None and (prepared.teacher is None or found["agreement"] is not None)


def _labelled_for_all(prepared: Prepared, run: RunDirectory) -> int:
    """Rows that the teacher labelled for the training of several students; what all of them learn from counts once."""
    own: list[int] = [one.record["training_passes"]["forward"] for one in run.students().values()]
    between: int = sum(known["training_passes"]["forward"] for known in run.record.get("rounds", []))
    return between + sum(own) - (len(own) - 1) * prepared.labelled_together


def _run_of_one(prepared: Prepared, run: RunDirectory, path: Path, bank: SampleBank | None) -> RunDirectory:
    """The run directory of one of several students, as `cake train` would make it; gone on with where it is there."""
    if (path / "run.json").is_file():
        return RunDirectory.open(path)
    config = run.config()
    config = replace(
        config,
        student=replace(config.student, architecture=prepared.students[0], others=()),
        training=replace(
            config.training,
            noise_samples=prepared.noise_samples,
            waypoints=0 if bank else prepared.waypoints,  # they go with the run's checkpoints
            chosen=0.0,
        ),
        synthesis=config.synthesis
        if bank is None
        else replace(config.synthesis, bank=str(bank.path.resolve()), rounds=1),
    )
    command = str(run.record["command"]) if bank is None else "train"
    return RunDirectory.begin(path, config, command=command)


def assist(prepared: Prepared, path: Path, ranks: Ranks) -> None:
    """What the ranks after the first do in a distillation: their share of the samples, and of every batch.

    Args:
        prepared: of the run.
        path: folder of the run, in which the first rank writes.
        ranks: the processes of the job.

    Raises:
        CakeError: as `synthesize`, `train_student` and `train_baseline`.
    """
    bank, run = prepared.bank, OtherRanksRun(path)
    if prepared.synthesizes:
        if prepared.plan.rounds > 1:
            bank = follow_rounds(prepared, run, ranks)
        else:
            bank = synthesize(prepared, run.bank_path, SILENT, ranks=ranks)
        prepared = replace(prepared, bank=bank)
    while (work := ranks.share(None)) is not None:
        name, folder, trains, baseline, start = work
        alone, run = prepared.for_student(name), OtherRanksRun(Path(folder))
        if trains:
            train_student(alone, run, bank, SILENT, ranks, Stretch(start=start))
        if baseline:
            train_baseline(alone, run, SILENT, ranks, in_rounds=start is not None)


def result(run: RunDirectory) -> dict[str, Any]:
    """The outcome of a run, as `--json` prints it; .github/REFERENCE.md documents the keys."""
    record = run.record
    synthesis = record.get("synthesis") or {}
    several = {name: result(own) for name, own in run.students().items()}
    return {
        "run": str(run.path),
        "status": record["status"],
        "architecture": (record.get("student") or {}).get("architecture"),
        "student": None if several else str(run.student_path),
        **({"students": several} if several else {}),
        "exports": record.get("exports", []),
        "bank": record.get("bank"),
        "report": record.get("report"),
        "samples": synthesis.get("samples"),
        "data_free": record["data_free"],
        "outside_contract": record.get("outside_contract", []),
        "teacher_passes": record["teacher_passes"],
        "training_passes": record.get("training_passes"),
        "student_passes": record.get("student_passes"),
        "seconds": record["seconds"],
        "seed": record["seed"],
        "device": record.get("device"),
        "synthetic_fidelity": record.get("synthetic_fidelity"),
        "rounds": record.get("rounds"),
        "expected_agreement": expected_agreement(record),
        "evaluation": record["evaluation"],
        "warnings": record["warnings"],
    }


def _describe(prepared: Prepared, run: RunDirectory) -> None:
    teacher, subject = prepared.teacher, prepared.subject
    about: dict[str, Any] = {
        "sha256": subject.sha256,
        "input": subject.spec.to_json(),
        "classes": subject.classes,
        "class_names": subject.class_names,
    }
    if teacher is not None:
        named = prepared.config.teacher.file or ""
        about |= {
            "name": teacher.name,
            "path": as_address(named) or str(Path(named).resolve()),
            "parameters": teacher.parameters or None,
            "size": None if prepared.teacher_size is None or not teacher.parameters else asdict(prepared.teacher_size),
            "output_kind": teacher.output_kind,
            "no_gradient": teacher.no_gradient,
            "converter": teacher.converter,
            "batching": teacher.batching,
            "mends": list(teacher.mends),
            "checks": list(teacher.checks),
        }
    elif prepared.bank is not None:
        about["name"] = prepared.bank.manifest["teacher"]["name"]
    run.update(
        status="running",
        error=None,
        device=prepared.hardware.describe(),
        precision=prepared.hardware.precision,
        teacher=about,
        student=prepared.student.to_json() if prepared.student is not None and len(prepared.students) == 1 else None,
        blueprints={name: student.to_json() for name, student in prepared.blueprints.items()},
        real_data=None if prepared.real is None else {"data": prepared.real.name, "samples": prepared.real.samples},
        outside_contract=list(prepared.outside_contract),
        plan=asdict(prepared.plan)
        | {
            "samples": prepared.samples,
            "steps": _steps(prepared),
            "epochs": prepared.epochs,
            "noise_samples": prepared.noise_samples,
            "waypoints": prepared.waypoints,
            "chosen_samples": prepared.chosen_samples,
        },
    )
    if "load" not in run.record["seconds"]:
        run.add_seconds("load", prepared.load_seconds)


def _steps(prepared: Prepared) -> int:
    """How many gradient steps each sample takes, or took in the bank that is there; 0 where none moves."""
    made = asdict(prepared.config.synthesis) if prepared.bank is None else prepared.bank.manifest["synthesis"]
    return 0 if made["method"] in LABELLED_ONLY else int(made["steps"])


def _synthesis_record(bank: SampleBank) -> dict[str, Any]:
    health = bank.health
    described = {} if health is None else {"health": health.to_json(), "balance": health.balance}
    about = {"objective": bank.manifest.get("objective"), "outside_contract": list(bank.outside_contract)}
    about["arithmetic"] = bank.arithmetic
    return {"samples": len(bank), "method": bank.manifest["synthesis"]["method"]} | about | described


def _evaluate(prepared: Prepared, run: RunDirectory, reporter: Reporter) -> dict[str, Any]:
    hardware, heldout = prepared.hardware, prepared.heldout
    if heldout is None:
        raise DataError("there is no held-out data", "--data FOLDER")
    code = prepared.architecture  # named by the user, where it is code
    models = {"student": load_student(run.student_path, code).on(hardware)}
    if prepared.trains_baseline and run.baseline_path.exists():
        models["noise_baseline"] = load_student(run.baseline_path, code).on(hardware)
    found = evaluate(
        models,
        heldout,
        classes=prepared.subject.classes,
        teacher=prepared.teacher,
        device=hardware.device,
        may_guess=("noise_baseline",),
        reporter=reporter,
    )
    return evaluation_record(found, heldout.name, heldout.notes)


def _export(prepared: Prepared, run: RunDirectory, reporter: Reporter) -> None:
    """The student as files that others load, each compared with it; those of an earlier attempt are kept."""
    student = load_student(run.student_path, prepared.architecture)  # named by the user, where it is code
    formats = prepared.config.student.export
    with reporter.stage("export", len(formats), "files") as stage:
        for format in formats:
            done = run.record.get("exports", [])
            if all(file["format"] != format for file in done) or not default_path(run.path, format).exists():
                path = default_path(run.path, format)  # may be there, of an attempt that ended before its record
                file = Export(student, path, format, run.student_path, force=True, aside=False).write()
                run.update(exports=[*(old for old in done if old["format"] != format), file.to_json()])
            stage.advance()
        differences = {file["format"]: file["largest_difference"] for file in run.record["exports"]}
        stage.conclude(", ".join(f"{name} within {value:.0e} of the student" for name, value in differences.items()))


def evaluation_record(found: dict[str, Evaluation], data: str, notes: tuple[str, ...]) -> dict[str, Any]:
    """What run.json and `--json` say of an evaluation with a student, and perhaps a teacher and a baseline."""
    student = found["student"]
    return {
        "data": data,
        "samples": student.samples,
        "notes": list(notes),
        "accuracy": {
            name: found[name].accuracy if name in found else None for name in ("teacher", "student", "noise_baseline")
        },
        "agreement": student.agreement,
        "kl": student.kl,
        "ece": student.ece,
        "models": {name: evaluation.to_json() for name, evaluation in found.items()},
    }


def _require_agreement(prepared: Prepared, run: RunDirectory) -> None:
    """The gate, for each student.

    Raises:
        AgreementMissed: if one of them is below it.
    """
    gate = prepared.config.evaluation.min_agreement
    if gate is None:
        return
    runs = run.students() or {"student": run}
    agreements = {name: own.record["evaluation"]["agreement"] for name, own in runs.items()}
    shown = {name: name if name == "student" else short_name(name) for name in agreements}
    low = [f"{shown[name]} and teacher agree on {value:.2%}" for name, value in agreements.items() if value < gate]
    if low:
        raise AgreementMissed(
            f"{', '.join(low)} of the held-out data, less than {gate:.2%}",
            "more --samples, --steps or --epochs, or a larger student",
        )
