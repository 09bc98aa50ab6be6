"""Measuring a model that lies in a file, outside any run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from cake_cli.config import Config
from cake_cli.data import TEACHER, Evaluation, evaluate, open_heldout
from cake_cli.errors import AgreementMissed, DataError, ModelFileError, UsageError
from cake_cli.events import Reporter
from cake_cli.hardware import pick
from cake_cli.models.classifier import Classifier, Denormalise, Normalise
from cake_cli.models.loading import load_classifier
from cake_cli.spec import InputSpec, format_shape


def assess(
    model: Path, config: Config, *, against: Path | None, batch_size: int, reporter: Reporter
) -> dict[str, Evaluation]:
    """Evaluates a model on held-out data, and its teacher beside it where one is given.

    Args:
        model: a model file, a student, or a run directory.
        config: held-out data and device; what the files do not say of their input.
        against: the teacher's file.
        batch_size: samples of a pass.
        reporter: told of the course.

    Returns:
        ``student``, and ``teacher`` if `against` was given.

    Raises:
        CakeError: if a file or the data do not fit.
    """
    data = config.evaluation
    if data.data is None:
        raise UsageError("on which data?", "--data FOLDER, FILE.npz, or a torchvision name")
    hardware = pick(config.hardware.device)
    student = load_classifier(model, config.teacher).on(hardware)
    teacher = None if against is None else load_classifier(against, config.teacher).on(hardware)
    if teacher is not None and (teacher.classes != student.classes or teacher.spec.shape != student.spec.shape):
        raise ModelFileError(
            f"{student.name} maps {format_shape(student.spec.shape)} to {student.classes} classes, "
            f"{teacher.name} {format_shape(teacher.spec.shape)} to {teacher.classes}",
            "compare models of the same input and classes",
        )
    heldout = open_heldout(
        data.data,
        student.spec,
        student.classes,
        split=data.split,
        label_column=data.label_column,
        data_root=None if data.data_root is None else Path(data.data_root),
        download=data.download,
        class_names=student.class_names,
    )
    for note in heldout.notes:
        reporter.warn(note)
    return evaluate(
        {"student": student},
        heldout,
        classes=student.classes,
        teacher=None if teacher is None else _in_space_of(student.spec, teacher),
        device=hardware.device,
        batch_size=batch_size,
        reporter=reporter,
    )


def _in_space_of(spec: InputSpec, teacher: Classifier) -> Classifier:
    """The teacher for rows that were normalised as `spec` says."""
    if (spec.mean, spec.std, spec.range) == (teacher.spec.mean, teacher.spec.std, teacher.spec.range):
        return teacher
    if spec.range != teacher.spec.range:
        raise DataError("the two models take raw values of different ranges", "give both as files of one range")
    device = next((tensor.device for tensor in teacher.module.state_dict().values()), None)
    bridge = nn.Sequential(Denormalise(spec), Normalise(teacher.spec)).to(device)
    return replace(teacher, module=nn.Sequential(bridge, teacher.module))


def require_agreement(student: Evaluation, gate: float | None) -> None:
    """The gate of `--min-agreement`.

    Raises:
        AgreementMissed: if agreement is below `gate`.
        UsageError: if it was not measured.
    """
    if gate is None:
        return
    if student.agreement is None:
        raise UsageError("--min-agreement needs the teacher", f"--against {TEACHER.upper()}.onnx")
    if student.agreement < gate:
        raise AgreementMissed(
            f"model and teacher agree on {student.agreement:.2%} of the held-out data, less than {gate:.2%}",
            "a larger bank, more steps or epochs, or a larger student",
        )
