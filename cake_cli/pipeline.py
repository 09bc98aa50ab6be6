"""distill = synthesize, train, evaluate, report: each stage resumable, each leaving its trace in the run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cake_cli.data import Evaluation, evaluate
from cake_cli.distillation.losses import distillation_loss
from cake_cli.distillation.trainer import Epoch, Labelled, measure_agreement, train
from cake_cli.errors import AgreementMissed, DataError, UsageError
from cake_cli.events import SILENT, Reporter
from cake_cli.models.blueprint import Blueprint
from cake_cli.models.classifier import Classifier
from cake_cli.models.exporting import default_path, export
from cake_cli.models.students import load_student, save_student
from cake_cli.planning import Prepared, baseline_engine
from cake_cli.ranks import Ranks
from cake_cli.report.page import write_report
from cake_cli.runs import RunDirectory
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.engine import Passes, SetPlan
from cake_cli.synthesis.samples import Samples
from cake_cli.synthesizing import synthesize


def distill(prepared: Prepared, run: RunDirectory, reporter: Reporter, ranks: Ranks | None = None) -> dict[str, Any]:
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
    _describe(prepared, run)
    if prepared.bank is not None:
        bank = prepared.bank
    else:
        with _timed(run, "synthesis"):
            bank = synthesize(prepared, run.bank_path, reporter, run, ranks)
            prepared = replace(prepared, bank=bank)
    run.update(bank=str(bank.path), teacher_passes=asdict(bank.passes), synthesis=_synthesis_record(bank))
    if not run.student_path.exists():
        with _timed(run, "training"):
            _train_student(prepared, run, bank, reporter)
    if prepared.trains_baseline and not run.baseline_path.exists():
        with _timed(run, "baseline"):
            _train_baseline(prepared, run, reporter)
    if prepared.heldout is not None:
        with _timed(run, "evaluation"):
            run.update(evaluation=_evaluate(prepared, run, reporter))
    if prepared.config.student.export:
        with _timed(run, "export"):
            _export(prepared, run, reporter)
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    run.finish("complete")
    if prepared.config.evaluation.report:
        run.update(report=str(write_report(run)))
    _require_agreement(prepared, run)
    return result(run)


def assist(prepared: Prepared, bank: Path, ranks: Ranks) -> None:
    """What the ranks after the first do in a distillation: their share of the samples.

    Args:
        prepared: of the run.
        bank: folder of the run's own bank.
        ranks: the processes of the job.

    Raises:
        CakeError: as `synthesize`.
    """
    if prepared.bank is None:
        synthesize(prepared, bank, SILENT, ranks=ranks)


def result(run: RunDirectory) -> dict[str, Any]:
    """The outcome of a run, as `--json` prints it; the README documents the keys."""
    record = run.record
    synthesis = record.get("synthesis") or {}
    return {
        "run": str(run.path),
        "status": record["status"],
        "student": str(run.student_path),
        "exports": record.get("exports", []),
        "bank": record.get("bank"),
        "report": record.get("report"),
        "samples": synthesis.get("samples"),
        "data_free": record["data_free"],
        "outside_contract": record.get("outside_contract", []),
        "teacher_passes": record["teacher_passes"],
        "seconds": record["seconds"],
        "seed": record["seed"],
        "device": record.get("device"),
        "synthetic_fidelity": record.get("synthetic_fidelity"),
        "evaluation": record["evaluation"],
        "warnings": record["warnings"],
    }


@contextmanager
def _timed(run: RunDirectory, stage: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        run.add_seconds(stage, time.perf_counter() - started)


def _describe(prepared: Prepared, run: RunDirectory) -> None:
    teacher, subject = prepared.teacher, prepared.subject
    about: dict[str, Any] = {
        "sha256": subject.sha256,
        "input": subject.spec.to_json(),
        "classes": subject.classes,
        "class_names": subject.class_names,
    }
    if teacher is not None:
        about |= {
            "name": teacher.name,
            "path": str(Path(prepared.config.teacher.file or "").resolve()),
            "parameters": teacher.parameters,
            "size": None if prepared.teacher_size is None else asdict(prepared.teacher_size),
            "output_kind": teacher.output_kind,
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
        student=None if prepared.student is None else prepared.student.to_json(),
        outside_contract=list(prepared.outside_contract),
        plan=asdict(prepared.plan)
        | {
            "samples": prepared.samples,
            "steps": 0 if prepared.config.synthesis.only_labels else prepared.config.synthesis.steps,
            "epochs": prepared.config.training.epochs,
        },
    )
    if "load" not in run.record["seconds"]:
        run.add_seconds("load", prepared.load_seconds)


def _synthesis_record(bank: SampleBank) -> dict[str, Any]:
    health = bank.health
    described = {} if health is None else {"health": health.to_json(), "balance": health.balance}
    about = {"objective": bank.manifest.get("objective"), "outside_contract": list(bank.outside_contract)}
    return {"samples": len(bank), "method": bank.manifest["synthesis"]["method"]} | about | described


def _train_student(prepared: Prepared, run: RunDirectory, bank: SampleBank, reporter: Reporter) -> None:
    settings = prepared.config.training
    samples = bank.samples()
    if settings.min_step_size is not None or settings.max_step_size is not None:
        low, high = settings.min_step_size or 0.0, settings.max_step_size or float("inf")
        samples = samples.select((samples.step_sizes >= low) & (samples.step_sizes <= high))
    if len(samples) < 2:
        raise DataError("no samples are left between min_step_size and max_step_size", "widen them")
    held = _heldout_mask(len(samples), bank.plan, settings.heldout_fraction)
    heldout = _labelled(prepared, samples.select(held)) if bool(held.any()) else None
    learned = _labelled(prepared, samples.select(~held))
    del samples
    student = _fit(prepared, run, learned, heldout, "training", reporter)
    if heldout is not None:
        run.update(synthetic_fidelity=measure_agreement(student, heldout, prepared.hardware))
    _save(prepared, run.student_path, student)


def _heldout_mask(samples: int, plan: SetPlan, fraction: float) -> torch.Tensor:
    """Every n-th set is held out, so that all step sizes are: a mask (N,)."""
    sets = torch.arange(samples) // plan.set_size
    last = int(sets[-1])
    if fraction == 0 or last == 0:
        return torch.zeros(samples, dtype=torch.bool)
    period = round(1 / fraction)
    return sets % period == min(period // 2, last // 2)


def _labelled(prepared: Prepared, samples: Samples) -> Labelled:
    hardware = prepared.hardware
    return Labelled(hardware.place_rows(samples.inputs), samples.logits.to(hardware.device))


def _fit(
    prepared: Prepared,
    run: RunDirectory,
    samples: Labelled,
    heldout: Labelled | None,
    name: str,
    reporter: Reporter,
) -> nn.Module:
    settings, seed = prepared.config.training, prepared.config.seed
    torch.manual_seed(seed)
    student = prepared.hardware.place(_require_student(prepared).build())
    last: list[Epoch] = []

    def record(epoch: Epoch) -> None:
        if not last:
            run.keep_metrics(name, key="epoch", below=epoch.epoch)
        last[:] = [epoch]
        run.append_metrics(name, **{key: value for key, value in asdict(epoch).items() if value is not None})

    with reporter.stage(name, settings.epochs, "epochs") as stage:
        train(
            student,
            samples,
            heldout=heldout,
            loss=distillation_loss(settings.labels, settings.temperature),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            seed=seed,
            hardware=prepared.hardware,
            stage=stage,
            checkpoint=run.checkpoints / f"{name}.pt",
            on_epoch=record,
        )
        if last:
            agreed = last[0].agreement
            fidelity = "" if agreed is None else f"   agrees on {agreed:.1%} of held-out synthetic samples"
            stage.conclude(f"{settings.epochs} epochs   loss {last[0].loss:.3f}{fidelity}")
    return student


def _require_student(prepared: Prepared) -> Blueprint:
    if prepared.student is None:
        raise UsageError("which student?", "--student cnn; `cake students` lists them")
    return prepared.student


def _save(prepared: Prepared, path: Path, student: nn.Module) -> None:
    subject, blueprint = prepared.subject, _require_student(prepared)
    save_student(
        path,
        student,
        blueprint.architecture,
        spec=subject.spec,
        classes=subject.classes,
        class_names=subject.class_names,
        teacher_sha256=subject.sha256,
        teacher_name=_teacher_name(prepared),
        code_sha256=blueprint.code_sha256,
        start_sha256=blueprint.weights_sha256,
    )


def _teacher_name(prepared: Prepared) -> str:
    if prepared.teacher is not None:
        return prepared.teacher.name
    return "" if prepared.bank is None else str(prepared.bank.manifest["teacher"]["name"])


def _train_baseline(prepared: Prepared, run: RunDirectory, reporter: Reporter) -> None:
    """The same student, trained in the same way on as much noise that the teacher labelled."""
    if prepared.teacher is None:
        return
    samples, passes = noise_samples(prepared, prepared.teacher, reporter)
    run.update(baseline_passes=asdict(passes))
    student = _fit(prepared, run, _labelled(prepared, samples), None, "baseline", reporter)
    _save(prepared, run.baseline_path, student)


def noise_samples(prepared: Prepared, teacher: Classifier, reporter: Reporter) -> tuple[Samples, Passes]:
    """As many starting points as the bank has samples, labelled by the teacher and not moved.

    This is the floor that every method must beat: what its steps add is what it is worth.
    """
    plan = prepared.plan
    if plan.samples != prepared.samples:
        plan = replace(plan, sets=-(-prepared.samples // plan.set_size))
    engine = baseline_engine(
        prepared.config.synthesis, teacher, plan, seed=prepared.config.seed, hardware=prepared.hardware
    )
    with reporter.stage("noise", plan.samples, "samples") as stage:
        waves = [engine.wave(sets, stage) for sets in plan.waves]
        stage.conclude(f"{plan.samples:,} starting points labelled by the teacher")
    passes = sum((wave.passes for wave in waves), Passes())
    return Samples.join([wave.samples for wave in waves]), passes


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
                file = export(student, default_path(run.path, format), format, source=run.student_path, force=True)
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
    gate = prepared.config.evaluation.min_agreement
    evaluation = run.record["evaluation"]
    if gate is None or evaluation is None:
        return
    agreement = evaluation["agreement"]
    if agreement is None:
        raise DataError("agreement cannot be measured without the teacher's file", "--teacher FILE")
    if agreement < gate:
        raise AgreementMissed(
            f"student and teacher agree on {agreement:.2%} of the held-out data, less than {gate:.2%}",
            "more --samples, --steps or --epochs, or a larger student",
        )
