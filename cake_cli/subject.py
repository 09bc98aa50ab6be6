"""Whom a run is about: the teacher, or the bank that stands in for it, and whether the two belong together."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from cake_cli.config import TeacherConfig
from cake_cli.errors import CakeError, DataError, RunError, UsageError
from cake_cli.models.classifier import Classifier
from cake_cli.models.loading import load_classifier
from cake_cli.spec import InputSpec, format_shape
from cake_cli.storage import belongs_to
from cake_cli.synthesis.bank import SampleBank
from cake_cli.text import as_argument

SAME = 1e-6
"""Relative difference of numbers that are the same, but for how they were written down."""


@dataclass(frozen=True)
class Subject:
    """What student and bank must know of the teacher, with or without its file at hand."""

    spec: InputSpec
    classes: int
    class_names: tuple[str, ...] | None
    sha256: str


def _settings_beside(settings: TeacherConfig, bank: SampleBank | None) -> TeacherConfig:
    """The teacher's settings, with the normalisation that its bank was made with where they say nothing of it.

    Args:
        settings: as given.
        bank: that exists already, if any.
    """
    if bank is None or not (settings.mean is settings.std is settings.input_range is None):
        return settings
    spec = bank.spec
    if spec.source.startswith("--mean"):
        return replace(settings, mean=spec.mean, std=spec.std, input_range=spec.range)
    return replace(settings, input_range=spec.range) if spec.source.startswith("--input-range") else settings


def open_teacher(settings: TeacherConfig, bank: SampleBank | None) -> Classifier | None:
    """The teacher, checked; None where a bank stands in for it.

    Args:
        settings: of the teacher.
        bank: that exists already, if any.

    Raises:
        ModelFileError: if the file cannot be a teacher.
        DataError: if the bank was made from another one.
        UsageError: if the bank was made of other inputs.
    """
    if settings.file is None:
        return None
    filled = _settings_beside(settings, bank)
    try:
        teacher = load_classifier(Path(settings.file), filled)
    except CakeError:
        if bank is None or filled is settings:
            raise
        teacher = load_classifier(Path(settings.file), settings)
        if bank.teacher_sha256 == teacher.sha256:
            raise
    if bank is None:
        return teacher
    if bank.teacher_sha256 != teacher.sha256:
        raise DataError(
            f"the bank {bank.path} was made from {bank.manifest['teacher']['name']}, not from this {teacher.name}",
            "leave --bank out, or name the teacher that it was made from",
        )
    made, taken = _described(bank.spec), _described(teacher.spec)
    if not _same(bank.spec, teacher.spec):
        raise UsageError(
            f"the bank {bank.path} holds inputs of {made}, and {teacher.name} would be given {taken}",
            "leave --mean, --std, --input-range and --input-shape as they were when the bank was made, or make another",
        )
    return teacher


def _same(one: InputSpec, other: InputSpec) -> bool:
    """Whether both give the same normalised values to the same inputs, and the file takes the same."""
    if one.expects != other.expects and not (one.is_identity and other.is_identity):
        return False
    if (one.shape, one.range is None) != (other.shape, other.range is None):
        return False

    def each(spec: InputSpec) -> list[float]:
        wide = [(*values, *values * (spec.channels - len(values))) for values in (spec.mean, spec.std)]
        return [*wide[0], *wide[1], *(spec.range or ())]

    return all(math.isclose(a, b, rel_tol=SAME, abs_tol=SAME) for a, b in zip(each(one), each(other), strict=True))


def _described(spec: InputSpec) -> str:
    """``1x8x8, mean 0.305, std 0.376, from 0 to 1``."""
    mean, std = (
        ", ".join([*(f"{value:.4g}" for value in values[:3]), *["..."] * (len(values) > 3)])
        for values in (spec.mean, spec.std)
    )
    bounds = "" if spec.range is None else f", from {spec.range[0]:g} to {spec.range[1]:g}"
    taken = ", raw for the file" if spec.expects == "raw" else ""
    return f"{format_shape(spec.shape)}, mean {mean}, std {std}{bounds}{taken}"


def require_same_classes(subject: Subject, begun: Path | None) -> None:
    """Refuses an endpoint that answers of other classes than when a bank was begun, before anything is planned of it.

    Args:
        subject: as it is now.
        begun: folder of the bank, if there is any.

    Raises:
        RunError: with both numbers.
        DataError: if the bank is damaged.
    """
    if begun is None or not (begun / "manifest.json").is_file():
        return
    bank = SampleBank.open(begun)
    if bank.teacher_sha256 == subject.sha256 and bank.classes != subject.classes:
        raise RunError(
            f"the teacher answers of {subject.classes} classes, and the bank {begun} was begun of {bank.classes}",
            "bring back the model that answered then, and `cake resume`; or begin anew with another --out",
        )


def subject_of(teacher: Classifier | None, bank: SampleBank | None) -> Subject:
    """What student and bank must know of the teacher.

    Raises:
        DataError: if the bank is not finished.
        UsageError: if there is neither.
    """
    if bank is not None:
        if not bank.is_complete:
            raise DataError(
                f"the bank {bank.path} is not finished", f"cake resume {as_argument(belongs_to(bank.path))}"
            )
        return Subject(bank.spec, bank.classes, bank.class_names, bank.teacher_sha256)
    if teacher is None:
        raise UsageError("which teacher?", "cake distill TEACHER.onnx --student cnn")
    return Subject(teacher.spec, teacher.classes, teacher.class_names, teacher.sha256)
