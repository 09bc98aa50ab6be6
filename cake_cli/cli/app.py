"""The command tree. Importing this must stay cheap: nothing here or below imports torch at the top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from cake_cli import __version__
from cake_cli.cli import (
    bench,
    distill,
    doctor,
    evaluate,
    export,
    inspect,
    recipes,
    report,
    resume,
    students,
    synthesize,
    train,
)
from cake_cli.cli.failures import guarded

app = typer.Typer(
    name="cake",
    help="Copies what a classifier knows into another network, without its training data.",
    epilog="Start with: cake distill teacher.onnx --student resnet18",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

DISTIL, LOOK, CONVERT, HELP = "Distil", "Look", "Convert", "Help"
app.command("distill", rich_help_panel=DISTIL)(distill.distill)
app.command("synthesize", rich_help_panel=DISTIL)(synthesize.synthesize)
app.command("train", rich_help_panel=DISTIL)(train.train)
app.command("resume", rich_help_panel=DISTIL)(resume.resume)
app.command("inspect", rich_help_panel=LOOK)(inspect.inspect)
app.command("evaluate", rich_help_panel=LOOK)(evaluate.evaluate)
app.command("bench", rich_help_panel=LOOK)(bench.bench)
app.command("report", rich_help_panel=LOOK)(report.report)
app.command("export", rich_help_panel=CONVERT)(export.export)
app.command("students", rich_help_panel=HELP)(students.students)
app.command("recipes", rich_help_panel=HELP)(recipes.recipes)
app.command("doctor", rich_help_panel=HELP)(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cake {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def run(arguments: Sequence[str]) -> int:
    """Runs a command line; returns its exit code."""
    return guarded(lambda: app(args=list(arguments), prog_name="cake", standalone_mode=False))
