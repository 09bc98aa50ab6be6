"""``cake evaluate``: accuracy and fidelity of models on held-out data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cake_cli.cli import options as o
from cake_cli.cli.console import Console, count
from cake_cli.config import TeacherConfig
from cake_cli.errors import UsageError

if TYPE_CHECKING:
    from cake_cli.assessment import Assessed, Assessment


_AGAINST = "{} of the file at --against, where it is another than the models'."


def evaluate(
    models: Annotated[
        list[Path], typer.Argument(help="Model files, students, or run directories.", metavar="MODEL...")
    ],
    data: o.Data = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", help="The teacher to measure agreement with.", rich_help_panel=o.EVALUATION),
    ] = None,
    against_arch: Annotated[
        str | None, typer.Option("--against-arch", help=_AGAINST.format("--arch"), rich_help_panel=o.TEACHER)
    ] = None,
    against_mean: Annotated[
        str | None, typer.Option("--against-mean", help=_AGAINST.format("--mean"), rich_help_panel=o.TEACHER)
    ] = None,
    against_std: Annotated[
        str | None, typer.Option("--against-std", help=_AGAINST.format("--std"), rich_help_panel=o.TEACHER)
    ] = None,
    against_input_range: Annotated[
        str | None,
        typer.Option("--against-input-range", help=_AGAINST.format("--input-range"), rich_help_panel=o.TEACHER),
    ] = None,
    against_output: Annotated[
        str | None, typer.Option("--against-output", help=_AGAINST.format("--output"), rich_help_panel=o.TEACHER)
    ] = None,
    split: o.Split = None,
    label_column: o.LabelColumn = None,
    class_map: o.ClassMap = None,
    strict: o.Strict = None,
    data_root: o.DataRoot = None,
    download: o.Download = None,
    min_agreement: o.MinAgreement = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Samples of a pass.", rich_help_panel=o.EVALUATION, min=1)
    ] = 256,
    speed: Annotated[
        bool,
        typer.Option("--speed", help="Time forward passes: one row, and the best batch.", rich_help_panel=o.EVALUATION),
    ] = False,
    arch: o.Arch = None,
    classes: o.Classes = None,
    trust: o.Trust = None,
    input_shape: o.InputShape = None,
    mean: o.Mean = None,
    std: o.Std = None,
    input_range: o.InputRange = None,
    outputs: o.OutputKind = None,
    output: o.OutputName = None,
    verify: o.Verify = None,
    token_env: o.TokenEnv = None,
    assignments: o.Assignments = None,
    device: o.Device = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", help="Write the figures, a line a model.", rich_help_panel=o.OUTPUT, metavar="FILE"),
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            "--pictures",
            help="Draw confusions, recall by class, agreement by confidence.",
            rich_help_panel=o.OUTPUT,
            metavar="DIR",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Move what is there aside instead of refusing.", rich_help_panel=o.OUTPUT)
    ] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    progress: o.ProgressMode = "auto",
) -> None:
    """Measure models on held-out data, alone or against their teacher.

    Example: cake evaluate runs/a runs/b --data ./val --against teacher.onnx
    """
    settings = o.read_config(
        arch=arch, classes=classes, trust=trust,
        input_shape=input_shape, mean=mean, std=std, input_range=input_range, outputs=outputs, output=output,
        verify=verify, token_env=token_env, assignments=assignments,
        data=data, split=split, label_column=label_column, class_map=class_map, strict=strict,
        data_root=data_root, download=download, min_agreement=min_agreement, device=device,
    )  # fmt: skip
    teacher = _of_teacher(
        settings.teacher, against, arch=against_arch, mean=against_mean, std=against_std,
        input_range=against_input_range, output=against_output,
    )  # fmt: skip
    console = Console(quiet=quiet, json_output=json, progress=progress)
    from cake_cli.assessment import assess, require_agreement
    from cake_cli.cli.progress import reporter_of
    from cake_cli.cli.running import files_read
    from cake_cli.storage import check_file, check_output

    named = [*models, *([] if against is None else [against])]
    needed = [*files_read(settings), *(place for path in named for place in (path.absolute(), path.resolve()))]
    if csv is not None:
        check_file(csv, force=force, reads=needed)
    if pictures is not None:
        check_output(pictures, force=force, reads=needed)
    if csv is not None and pictures is not None and csv.resolve() == pictures.resolve():
        raise UsageError(f"--csv and --pictures are both {csv}", "a file and a folder of two names")
    found = assess(
        models,
        settings,
        against=against,
        batch_size=batch_size,
        reporter=reporter_of(console),
        speed=speed,
        teacher=teacher,
    )
    if json:
        console.json(found.to_json())
    elif quiet:
        for row in found.models:
            console.result(f"{row.evaluation.accuracy:.4f}")
    else:
        _show(console, found, speed=speed)
    _write(console, found, csv, pictures, force=force)
    require_agreement(found, settings.evaluation.min_agreement)


def _of_teacher(settings: TeacherConfig, against: Path | None, **flags: str | None) -> TeacherConfig:
    """What is said of the models' files, with what is said of the teacher's put in its place.

    Raises:
        UsageError: if a flag is wrong, or there is no teacher that it could be for.
    """
    given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    if given and against is None:
        raise UsageError(f"--against-{next(iter(given)).replace('_', '-')} needs the teacher", "--against TEACHER")
    try:
        stated = o.read_config(**given).teacher
    except UsageError as fault:  # it names the flags as the models have them
        fix = None if fault.fix is None else fault.fix.replace("--", "--against-")
        raise UsageError(fault.what.replace("--", "--against-"), fix) from fault
    if {"mean", "std"} & given.keys():
        settings = replace(settings, input_range=None)
    elif "input_range" in given:
        settings = replace(settings, mean=None, std=None)
    return replace(settings, **{name: getattr(stated, name) for name in given})


def _show(console: Console, found: Assessment, *, speed: bool) -> None:
    many = any(model.evaluation.top5 is not None for model in found.models)
    against = found.teacher is not None
    columns = ["model", "accuracy", "95 % interval", *(["top 5"] if many else []),
               *(["agreement", "95 % interval", "KL"] if against else []), "ECE"]  # fmt: skip
    console.table(columns, [_metrics(found, row, many=many) for row in found.rows], result=True)
    console.result("")
    timed = ["one row", "rows/s", "in batches of"] if speed else []
    costs = [[_named(found, row), *_cost(row)] for row in found.rows]
    console.table(["model", "weights", "multiply-adds", "size", *timed], costs, result=True)
    console.say(f"{found.models[0].evaluation.samples:,} samples" + (f"; timed on {found.device}" if speed else ""))


def _named(found: Assessment, row: Assessed) -> str:
    """A model's path; the teacher can be one of the models, too."""
    return f"{row.path} (teacher)" if row is found.teacher else row.path


def _metrics(found: Assessment, row: Assessed, *, many: bool) -> list[str]:
    figures = row.evaluation
    low, high = figures.accuracy_interval
    cells = [_named(found, row), f"{figures.accuracy:.2%}", f"{low:.1%} to {high:.1%}"]
    if many:
        cells.append("" if figures.top5 is None else f"{figures.top5:.2%}")
    if found.teacher is not None:
        known = figures.agreement is not None and figures.agreement_interval is not None and figures.kl is not None
        low, high = figures.agreement_interval or (0.0, 0.0)
        cells += [f"{figures.agreement:.2%}", f"{low:.1%} to {high:.1%}", f"{figures.kl:.3f}"] if known else [""] * 3
    return [*cells, f"{figures.ece:.3f}"]


def _cost(row: Assessed) -> list[str]:
    from cake_cli.cli.summary import size_cells

    cells = size_cells(row.size)
    if row.speed is not None:
        cells += [f"{1000 * row.speed.latency:.3g} ms", count(row.speed.throughput), str(row.speed.best_batch)]
    return cells


def _write(console: Console, found: Assessment, csv: Path | None, pictures: Path | None, *, force: bool) -> None:
    from cake_cli.storage import claim_output, set_aside, write_text

    if csv is not None:
        set_aside(csv)
        write_text(csv, found.to_csv())
        console.say(f"figures in {csv}")
    if pictures is not None:
        from dataclasses import asdict

        from cake_cli.report.evaluated import write_pictures

        claim_output(pictures, force=force)
        files = write_pictures(pictures, {row.path: asdict(row.evaluation) for row in found.rows})
        console.say(f"{len(files)} pictures in {pictures}")
