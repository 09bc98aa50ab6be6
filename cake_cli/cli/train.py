"""``cake train``: a student from a bank that exists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cake_cli.cli import options as o
from cake_cli.cli.console import Console
from cake_cli.cli.distill import run_command


def train(
    bank: Annotated[Path, typer.Argument(help="A bank of `cake synthesize`, or a run with one.", metavar="BANK")],
    student: o.Students = None,
    weights: o.StudentWeights = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            "--teacher",
            help="The teacher's file: for agreement, the noise baseline, --views and --real-data.",
            rich_help_panel=o.TEACHER,
        ),
    ] = None,
    recipe: o.Recipe = None,
    config: o.ConfigFile = None,
    assignments: o.Assignments = None,
    print_config: o.PrintConfig = False,
    seed: o.Seed = None,
    epochs: o.Epochs = None,
    replay: o.Replay = None,
    batch_size: o.BatchSize = None,
    optimizer: o.Optimizer = None,
    lr: o.LearningRate = None,
    lr_schedule: o.Schedule = None,
    loss: o.Loss = None,
    temperature: o.Temperature = None,
    ema: o.Ema = None,
    views: o.Views = None,
    real_data: o.RealData = None,
    hard_weight: o.HardWeight = None,
    data: o.Data = None,
    split: o.Split = None,
    label_column: o.LabelColumn = None,
    class_map: o.ClassMap = None,
    strict: o.Strict = None,
    data_root: o.DataRoot = None,
    download: o.Download = None,
    baseline: o.Baseline = None,
    min_agreement: o.MinAgreement = None,
    device: o.Device = None,
    precision: o.PrecisionName = None,
    deterministic: o.Deterministic = None,
    out: o.Out = None,
    force: o.Force = False,
    export: o.Export = None,
    report: o.Report = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    progress: o.ProgressMode = "auto",
) -> None:
    """Train students on a sample bank; the teacher's file is not needed.

    Example: cake train runs/a/bank --student mlp
    """
    settings = o.read_config(
        teacher=teacher, student=student, weights=weights, recipe=recipe, config=config,
        assignments=assignments, seed=seed, bank=str(_bank_of(bank)), epochs=epochs, replay=replay,
        batch_size=batch_size, student_optimizer=optimizer, lr=lr, lr_schedule=lr_schedule, loss=loss,
        temperature=temperature, ema=ema, views=views, real_data=real_data, hard_weight=hard_weight, data=data,
        split=split, label_column=label_column, data_root=data_root, download=download, baseline=baseline,
        min_agreement=min_agreement, device=device, precision=precision, deterministic=deterministic,
        class_map=class_map, strict=strict, export=export or None, report=report,
    )  # fmt: skip
    console = Console(quiet=quiet, verbose=verbose, json_output=json, progress=progress)
    run_command(console, settings, command="train", out=out, force=force, dry_run=dry_run, print_config=print_config)


def _bank_of(path: Path) -> Path:
    """The bank that a run used, or the path itself."""
    if not (path / "run.json").is_file():
        return path
    from cake_cli.runs import RunDirectory

    run = RunDirectory.open(path)
    used = run.config().synthesis.bank
    return run.bank_path if used is None else Path(used)
