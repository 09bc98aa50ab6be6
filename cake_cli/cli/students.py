"""``cake students``: what there is to choose from, and what each costs for a teacher."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cake_cli.catalog import OTHER_FORMS, STUDENTS
from cake_cli.cli import options as o
from cake_cli.cli.console import Console

if TYPE_CHECKING:
    from cake_cli.offering import Offer, Subject


def students(
    teacher: Annotated[
        Path | None, typer.Argument(help="A teacher, or a bank.", metavar="TEACHER", show_default=False)
    ] = None,
    input_shape: o.InputShape = None,
    classes: o.Classes = None,
    arch: o.Arch = None,
    trust: o.Trust = None,
    output: o.OutputName = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    progress: o.ProgressMode = "auto",
) -> None:
    """List what --student takes; for a teacher, with parameters and multiply-adds, and what does not fit.

    Example: cake students teacher.onnx
    """
    settings = o.read_config(input_shape=input_shape, classes=classes, arch=arch, trust=trust, output=output)
    console = Console(quiet=quiet, json_output=json, progress=progress)
    if teacher is None and input_shape is None and classes is None:
        _names(console)
        return
    from cake_cli.cli.progress import reporter_of
    from cake_cli.offering import offers, subject_of

    subject = subject_of(teacher, settings.teacher)
    found = offers(subject, reporter_of(console))
    if json:
        console.json(
            {
                "teacher": subject.name,
                "input_shape": list(subject.shape),
                "classes": subject.classes,
                "size": None if subject.size is None else asdict(subject.size),
                "students": [asdict(offer) for offer in found],
            }
        )
        return
    _table(console, subject, found)


def _names(console: Console) -> None:
    """The catalogue, which takes no torch."""
    if console.json_output:
        console.json(STUDENTS)
        return
    rows = [[name, about] for name, about in (STUDENTS | OTHER_FORMS).items()]
    console.table(["student", "what it is"], rows, result=True, prose=True)
    console.say()
    console.say("cake students TEACHER adds parameters and multiply-adds for its input, and says what does not fit")


def _table(console: Console, subject: Subject, found: list[Offer]) -> None:
    from cake_cli.cli.summary import size_cells
    from cake_cli.spec import format_shape

    rows = [] if subject.size is None else [[f"({subject.name})", *size_cells(subject.size)]]
    rows += [[offer.name, *size_cells(offer.size, subject.size)] for offer in found if offer.size is not None]
    console.say(f"for inputs of {format_shape(subject.shape)} and {subject.classes} classes")
    console.table(["student", "parameters", "multiply-adds", "file"], rows, result=True)
    unfit = [[offer.name, offer.reason or ""] for offer in found if offer.size is None]
    if unfit and len(subject.shape) == 1:
        console.say(f"the other {len(unfit)} are for images")
    elif unfit:
        console.table(["does not fit", "why"], unfit, result=True, prose=True)
