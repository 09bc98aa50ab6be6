"""Which students there are for a teacher, and what each costs on its input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cake_cli.catalog import STUDENTS
from cake_cli.config import TeacherConfig
from cake_cli.errors import UsageError
from cake_cli.events import SILENT, Reporter
from cake_cli.models.architectures import measure_student, why_not
from cake_cli.models.counting import Size, size_of
from cake_cli.models.loading import load_classifier
from cake_cli.synthesis.bank import SampleBank


@dataclass(frozen=True)
class Subject:
    """What a student is for."""

    name: str | None
    """The teacher's, where one was given."""
    shape: tuple[int, ...]
    """(C, H, W) or (D,)."""
    classes: int
    size: Size | None
    """The teacher's."""


@dataclass(frozen=True)
class Offer:
    """An architecture for a teacher's input."""

    name: str
    about: str
    size: Size | None
    """None where it does not fit."""
    reason: str | None
    """Why it does not fit."""


def subject_of(path: Path | None, settings: TeacherConfig) -> Subject:
    """The input and classes of a teacher, of a bank, or of what `settings` say.

    Raises:
        UsageError: if neither a file nor both the shape and the number of classes are given.
        CakeError: if the file is no teacher.
    """
    if path is None:
        if settings.input_shape is None or settings.classes is None:
            raise UsageError("for which input?", "cake students TEACHER, or --input-shape C,H,W --classes K")
        return Subject(None, settings.input_shape, settings.classes, None)
    if (path / "manifest.json").is_file():
        bank = SampleBank.open(path)
        return Subject(f"the bank {path}", bank.spec.shape, bank.classes, None)
    teacher = load_classifier(path, replace(settings, verify=False))
    return Subject(teacher.name, teacher.spec.shape, teacher.classes, size_of(teacher, path))


def offers(subject: Subject, reporter: Reporter = SILENT) -> list[Offer]:
    """Every architecture of the catalogue on the subject's input, without memory for its weights."""
    found = []
    with reporter.stage("measuring", len(STUDENTS), "architectures") as stage:
        for name, about in STUDENTS.items():
            try:
                found.append(Offer(name, about, measure_student(name, subject.shape, subject.classes), None))
            except UsageError as fault:
                reason = why_not(name, subject.shape, subject.classes, fault)
                found.append(Offer(name, about, None, reason))
            stage.advance(1)
        stage.conclude(f"{sum(offer.size is not None for offer in found)} of {len(found)} architectures fit")
    return found
