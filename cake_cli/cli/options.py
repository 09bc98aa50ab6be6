"""The flags that commands share. Names, defaults and help come from the configuration, in one place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from cake_cli.address import as_address
from cake_cli.catalog import EXPORTS, OTHER_FORMS, STUDENTS, ExportFormat
from cake_cli.config import (
    BankFormat,
    Config,
    Contrastive,
    Gradients,
    LearningRateSchedule,
    LossName,
    Method,
    Noise,
    OptimizerName,
    Outputs,
    Plan,
    Precision,
    View,
)
from cake_cli.errors import UsageError, did_you_mean
from cake_cli.settings import choices_of, defaults, descriptions, field_types, full_key, recipe_names, resolve

Progress = Literal["auto", "bar", "log", "none"]


def flag(
    key: str, *names: str, panel: str, metavar: str | None = None, complete: Any = None, otherwise: str | None = None
) -> Any:
    """An option for one setting: its help is the line under the field, with the default or what is `otherwise`.

    Choices that the line does not name follow it: in the column of types they would leave no room for help.
    """
    default = defaults()[key]
    choices = choices_of(key) if metavar is None else ()
    unnamed = any(re.search(rf"\b{choice}\b", descriptions()[key]) is None for choice in choices)
    listed = _listed(choices) if unnamed else ""
    written = ", ".join(default) if isinstance(default, tuple) else default
    if isinstance(default, bool):  # not by its value: 1.0 is True, and so is the temperature
        written = "yes" if default else "no"
    shown = f" Default: {otherwise or written}." if otherwise or default not in (None, ()) else ""
    return typer.Option(
        *names,
        help=f"{descriptions()[key]}{listed}{shown}",
        rich_help_panel=panel,
        metavar=("CHOICE,.." if isinstance(default, tuple) else "CHOICE") if choices else metavar,
        show_default=False,
        autocompletion=complete,
    )


def _listed(choices: Sequence[str]) -> str:
    return f" Choices: {', '.join(choices)}."


def complete_student(incomplete: str) -> list[tuple[str, str]]:
    """Student names that begin so, with what they are."""
    known = STUDENTS | {"same": OTHER_FORMS["same"]}
    return [(name, about) for name, about in known.items() if name.startswith(incomplete)]


def complete_arch(incomplete: str) -> list[tuple[str, str]]:
    """Names of networks that begin so, with what they are."""
    return [(name, about) for name, about in STUDENTS.items() if name.startswith(incomplete)]


def complete_recipe(incomplete: str) -> list[str]:
    """Recipe names that begin so."""
    return [name for name in recipe_names() if name.startswith(incomplete)]


def complete_format(incomplete: str) -> list[str]:
    """Export formats that begin so."""
    return [name for name in EXPORTS if name.startswith(incomplete)]


def complete_bank_format(incomplete: str) -> list[str]:
    """Formats of a bank that begin so."""
    return [name for name in get_args(BankFormat) if name.startswith(incomplete)]


def complete_views(incomplete: str) -> list[str]:
    """Views with commas between, the last of which begins so, each once."""
    given, comma, begun = incomplete.rpartition(",")
    left = (name for name in get_args(View) if name not in given.split(","))
    return [f"{given}{comma}{name}" for name in left if name.startswith(begun)]


def complete_setting(incomplete: str) -> list[str]:
    """Settings that begin so, each with its ``=``; after that, what one of a few words can be."""
    name, given, begun = incomplete.partition("=")
    if not given:
        short = [key.rpartition(".")[2] for key in field_types()]
        return [f"{key}=" for key in dict.fromkeys((*field_types(), *short)) if key.startswith(name)]
    choices = choices_of(full_key(name)) if full_key(name) in field_types() else ()
    return [f"{name}={choice}" for choice in choices if choice.startswith(begun)]


def complete_device(incomplete: str) -> list[str]:
    """Kinds of devices that begin so; which are here only torch knows."""
    return [name for name in ("auto", "cpu", "cuda", "mps") if name.startswith(incomplete)]


def split_formats(given: Sequence[str], *, beside: bool = False) -> list[ExportFormat]:
    """Export formats, repeated or with commas between, each once and in order.

    Args:
        given: as they were typed.
        beside: whether they are for files beside a student, which is one of safetensors already.

    Raises:
        UsageError: if one is unknown.
    """
    names = dict.fromkeys(name.strip().lower() for part in given for name in part.split(",") if name.strip())
    offered = f"one of {', '.join(name for name in EXPORTS if not (beside and name == 'safetensors'))}"
    for name in names:
        if name not in EXPORTS:
            hint = did_you_mean(name, EXPORTS)
            raise UsageError(f"there is no export format {name!r}" + (f", {hint}" if hint else ""), offered)
    if not names:
        raise UsageError("which format?", offered)
    return [format for format in EXPORTS for name in names if name == format]


TEACHER = "Teacher"
Arch = Annotated[str | None, flag("teacher.arch", "--arch", panel=TEACHER, metavar="NAME", complete=complete_arch)]
Classes = Annotated[int | None, flag("teacher.classes", "--classes", panel=TEACHER, metavar="K")]
Trust = Annotated[bool | None, flag("teacher.trust", "--trust/--no-trust", panel=TEACHER)]
InputShape = Annotated[str | None, flag("teacher.input_shape", "--input-shape", panel=TEACHER, metavar="C,H,W")]
Mean = Annotated[str | None, flag("teacher.mean", "--mean", panel=TEACHER, metavar="M[,M..]")]
Std = Annotated[str | None, flag("teacher.std", "--std", panel=TEACHER, metavar="S[,S..]")]
InputRange = Annotated[str | None, flag("teacher.input_range", "--input-range", panel=TEACHER, metavar="LOW,HIGH")]
OutputKind = Annotated[Outputs | None, flag("teacher.outputs", "--outputs", panel=TEACHER)]
OutputName = Annotated[str | None, flag("teacher.output", "--output", panel=TEACHER, metavar="NAME")]
TokenEnv = Annotated[str | None, flag("teacher.token_env", "--token-env", panel=TEACHER, metavar="VARIABLE")]
Verify = Annotated[bool | None, flag("teacher.verify", "--verify/--no-verify", panel=TEACHER)]

Students = Annotated[
    list[str] | None,
    flag("student.architecture", "--student", panel="Student", metavar="NAME", complete=complete_student),
]

StudentWeights = Annotated[str | None, flag("student.weights", "--init", panel="Student", metavar="FILE")]

RECIPE = "Recipe"
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="Settings under a name: see `cake recipes`.",
        rich_help_panel=RECIPE,
        autocompletion=complete_recipe,
        metavar="NAME",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", help="Settings from a TOML file, or a run's run.json.", rich_help_panel=RECIPE, metavar="FILE"
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Any setting; `cake recipes --keys` lists them. Can be repeated.",
        rich_help_panel=RECIPE,
        metavar="KEY=VALUE",
        show_default=False,
        autocompletion=complete_setting,
    ),
]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print the settings as TOML and stop.", rich_help_panel=RECIPE)
]
Seed = Annotated[int | None, flag("seed", "--seed", panel=RECIPE)]

SYNTHESIS = "Synthesis"
OUTPUT = "Output"
MethodName = Annotated[Method | None, flag("synthesis.method", "--method", panel=SYNTHESIS)]
SampleCount = Annotated[int | None, flag("synthesis.samples", "--samples", panel=SYNTHESIS)]
TimeBudget = Annotated[
    str | None, flag("synthesis.time_budget", "--time-budget", panel=SYNTHESIS, metavar="20m|90s|1h30m")
]


def _bank_formats(otherwise: str | None = None) -> Any:
    return flag(
        "synthesis.formats",
        "--format",
        panel=OUTPUT,
        metavar="FORMAT",
        complete=complete_bank_format,
        otherwise=otherwise,
    )


BEGUN_WITH = "as it was begun with"
Formats = Annotated[list[str] | None, _bank_formats()]
KeptFormats = Annotated[list[str] | None, _bank_formats(BEGUN_WITH)]
GradientKind = Annotated[Gradients | None, flag("synthesis.gradients", "--gradients", panel=SYNTHESIS)]
Queries = Annotated[int | None, flag("synthesis.queries", "--queries", panel=SYNTHESIS)]
Rounds = Annotated[int | None, flag("synthesis.rounds", "--rounds", panel=SYNTHESIS)]
Disagreement = Annotated[float | None, flag("synthesis.disagreement", "--disagreement", panel=SYNTHESIS)]
KeptDisagreement = Annotated[
    float | None,
    flag("synthesis.disagreement", "--disagreement", panel=SYNTHESIS, otherwise=BEGUN_WITH),
]
Steps = Annotated[int | None, flag("synthesis.steps", "--steps", panel=SYNTHESIS)]
ContrastiveName = Annotated[Contrastive | None, flag("synthesis.contrastive", "--contrastive", panel=SYNTHESIS)]
NoiseName = Annotated[Noise | None, flag("synthesis.noise", "--noise", panel=SYNTHESIS)]
Bank = Annotated[str | None, flag("synthesis.bank", "--bank", panel=SYNTHESIS, metavar="DIR")]

TRAINING = "Training"
Epochs = Annotated[int | None, flag("training.epochs", "--epochs", panel=TRAINING)]
Replay = Annotated[int | None, flag("training.replay", "--replay", panel=TRAINING)]
BatchSize = Annotated[int | None, flag("training.batch_size", "--batch-size", panel=TRAINING)]
Optimizer = Annotated[OptimizerName | None, flag("training.student_optimizer", "--optimizer", panel=TRAINING)]
LearningRate = Annotated[float | None, flag("training.lr", "--lr", panel=TRAINING)]
Schedule = Annotated[LearningRateSchedule | None, flag("training.lr_schedule", "--lr-schedule", panel=TRAINING)]
Loss = Annotated[LossName | None, flag("training.loss", "--loss", panel=TRAINING)]
Temperature = Annotated[float | None, flag("training.temperature", "--temperature", panel=TRAINING)]
Ema = Annotated[float | None, flag("training.ema", "--ema", panel=TRAINING, metavar="DECAY")]
Views = Annotated[str | None, flag("training.views", "--views", panel=TRAINING, complete=complete_views)]
RealData = Annotated[str | None, flag("training.real_data", "--real-data", panel=TRAINING, metavar="DATA")]
HardWeight = Annotated[float | None, flag("training.hard_weight", "--lambda", panel=TRAINING, metavar="LAMBDA")]

EVALUATION = "Evaluation (never trains, never selects)"
Data = Annotated[str | None, flag("evaluation.data", "--data", panel=EVALUATION, metavar="DATA")]
Split = Annotated[str | None, flag("evaluation.split", "--split", panel=EVALUATION)]
LabelColumn = Annotated[str | None, flag("evaluation.label_column", "--label-column", panel=EVALUATION)]
ClassMap = Annotated[str | None, flag("evaluation.class_map", "--class-map", panel=EVALUATION, metavar="A=B,..|FILE")]
Strict = Annotated[bool | None, flag("evaluation.strict", "--strict/--no-strict", panel=EVALUATION)]
DataRoot = Annotated[str | None, flag("evaluation.data_root", "--data-root", panel=EVALUATION, metavar="DIR")]
Download = Annotated[bool | None, flag("evaluation.download", "--download/--no-download", panel=EVALUATION)]
Baseline = Annotated[bool | None, flag("evaluation.baseline", "--baseline/--no-baseline", panel=EVALUATION)]
MinAgreement = Annotated[float | None, flag("evaluation.min_agreement", "--min-agreement", panel=EVALUATION)]

HARDWARE = "Hardware"
Device = Annotated[str | None, flag("hardware.device", "--device", panel=HARDWARE, complete=complete_device)]
PrecisionName = Annotated[Precision | None, flag("hardware.precision", "--precision", panel=HARDWARE)]
PlanName = Annotated[Plan | None, flag("hardware.plan", "--plan", panel=HARDWARE)]
Deterministic = Annotated[
    bool | None, flag("hardware.deterministic", "--deterministic/--no-deterministic", panel=HARDWARE)
]

Out = Annotated[
    Path | None,
    typer.Option("-o", "--out", help="Where to write. Default: a new folder under runs.", rich_help_panel=OUTPUT),
]
Force = Annotated[
    bool, typer.Option("--force", help="Move what is at --out aside instead of refusing.", rich_help_panel=OUTPUT)
]
Export = Annotated[
    list[str] | None,
    flag("student.export", "--export", panel=OUTPUT, metavar="FORMAT", complete=complete_format),
]
Report = Annotated[bool | None, flag("evaluation.report", "--report/--no-report", panel=OUTPUT)]

TERMINAL = "Terminal"
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Check everything, time a step, print the plan, write nothing.", rich_help_panel=TERMINAL
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.", rich_help_panel=TERMINAL)]
Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", help="Only the result, such as its path.", rich_help_panel=TERMINAL)
]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Show what was measured, too.", rich_help_panel=TERMINAL)
]
ProgressMode = Annotated[
    Progress,
    typer.Option(
        "--progress",
        help=f"Bars, plain lines, or none.{_listed(get_args(Progress))}",
        rich_help_panel=TERMINAL,
        metavar="CHOICE",
    ),
]


def read_config(
    *,
    recipe: str | None = None,
    config: Path | None = None,
    assignments: list[str] | None = None,
    teacher: Path | None = None,
    student: list[str] | None = None,
    **flags: Any,
) -> Config:
    """The configuration that a command line asks for.

    Args:
        recipe: name of a recipe.
        config: a TOML file.
        assignments: ``KEY=VALUE`` texts.
        teacher: path of the teacher.
        student: names of the students.
        flags: settings by the name of their field; None means not given.

    Raises:
        UsageError: with every fault at once.
    """
    values = {full_key(name): value for name, value in flags.items() if value is not None}
    if teacher is not None:
        values["teacher.file"] = as_address(teacher) or str(teacher)
    if student:
        values |= {"student.architecture": student[0], "student.others": student[1:]}
    if "student.export" in values:
        values["student.export"] = list(split_formats(values["student.export"], beside=True))
    values = {key: _split_list(key, value) for key, value in values.items()}
    return resolve(recipe=recipe, file=config, assignments=assignments or (), flags=values)


def _split_list(key: str, value: Any) -> Any:
    """Texts such as ``3,32,32`` as the numbers that a setting holds."""
    whole = field_types()[key]
    kinds = [whole] if get_origin(whole) is tuple else [kind for kind in get_args(whole) if kind is not NoneType]
    if not isinstance(value, str) or not kinds or get_origin(kinds[0]) is not tuple:
        return value
    number = get_args(kinds[0])[0]
    if number not in (int, float):
        return [part.strip() for part in value.split(",") if part.strip()]
    try:
        return [number(part) for part in value.split(",")]
    except ValueError as fault:
        name = f"--{key.rpartition('.')[2].replace('_', '-')}"
        kind = "whole numbers" if number is int else "numbers"
        raise UsageError(f"{name} takes {kind} with commas between, not {value!r}", f"{name} 3,32,32") from fault
