"""``cake distill``: the whole way from a model file to a student."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cake_cli.catalog import short_name
from cake_cli.cli import options as o
from cake_cli.cli.console import Console
from cake_cli.config import Config
from cake_cli.errors import UsageError


def distill(
    teacher: Annotated[
        Path | None,
        typer.Argument(
            help="The model file to copy. TorchScript and FILE.py:FUNCTION are programs, and are run.",
            metavar="TEACHER",
            show_default=False,
        ),
    ] = None,
    student: o.Students = None,
    weights: o.StudentWeights = None,
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
    recipe: o.Recipe = None,
    config: o.ConfigFile = None,
    assignments: o.Assignments = None,
    print_config: o.PrintConfig = False,
    seed: o.Seed = None,
    method: o.MethodName = None,
    samples: o.SampleCount = None,
    steps: o.Steps = None,
    time_budget: o.TimeBudget = None,
    rounds: o.Rounds = None,
    disagreement: o.Disagreement = None,
    contrastive: o.ContrastiveName = None,
    noise: o.NoiseName = None,
    gradients: o.GradientKind = None,
    queries: o.Queries = None,
    bank: o.Bank = None,
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
    step_plan: o.PlanName = None,
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
    """Synthesize samples from a teacher, train a student on them, evaluate, and write a report.

    Example: cake distill teacher.onnx --student resnet18 --data ./val
    """
    settings = o.read_config(
        teacher=teacher, student=student, weights=weights, recipe=recipe, config=config, assignments=assignments,
        arch=arch, classes=classes, trust=trust,
        input_shape=input_shape, mean=mean, std=std, input_range=input_range, outputs=outputs, output=output,
        verify=verify, seed=seed, method=method, samples=samples, steps=steps, time_budget=time_budget,
        contrastive=contrastive, noise=noise, gradients=gradients, queries=queries, bank=bank, token_env=token_env,
        rounds=rounds, disagreement=disagreement, replay=replay,
        epochs=epochs, batch_size=batch_size, student_optimizer=optimizer, lr=lr, lr_schedule=lr_schedule,
        loss=loss, temperature=temperature, ema=ema, views=views, real_data=real_data,
        hard_weight=hard_weight, data=data, split=split, label_column=label_column,
        data_root=data_root, download=download, baseline=baseline,
        min_agreement=min_agreement, device=device, precision=precision, deterministic=deterministic,
        class_map=class_map, strict=strict, export=export or None, report=report, plan=step_plan,
    )  # fmt: skip
    console = Console(quiet=quiet, verbose=verbose, json_output=json, progress=progress)
    run_command(console, settings, command="distill", out=out, force=force, dry_run=dry_run, print_config=print_config)


def run_command(
    console: Console,
    settings: Config,
    *,
    command: str,
    out: Path | None,
    force: bool,
    dry_run: bool,
    print_config: bool,
) -> None:
    """What follows once the settings of a distillation are read: print them, plan, or run."""
    from cake_cli.cli.running import (
        absolute,
        assist_distillation,
        begun_whole,
        files_read,
        plan,
        plan_json,
        run_distillation,
    )
    from cake_cli.locks import held
    from cake_cli.ranks import Ranks
    from cake_cli.settings import write_toml
    from cake_cli.storage import check_output, claim_output

    if print_config:
        console.result(write_toml(settings).rstrip())
        return
    if settings.synthesis.bank is not None and settings.training.waypoints:
        raise UsageError(
            f"{settings.synthesis.bank} was made before, and waypoints are kept only while samples are made",
            "leave training.waypoints out",
        )
    if out is not None:
        check_output(out, force=force, reads=files_read(settings))
    from cake_cli.runs import RunDirectory, default_run_path

    source = settings.teacher.file or settings.synthesis.bank or "teacher"
    settings = replace(settings, student=absolute(settings).student)  # as `resume` will name them
    first, others = settings.student.architecture, len(settings.student.others)
    named = f"{others + 1}-students" if others else "student" if first is None else short_name(first)
    with Ranks.current().joined(settings.hardware.device) as ranks:
        path = out or default_run_path(Path(source), named)
        path = Path(ranks.share(str(path)))
        prepared, cost = plan(console, settings, path, student=True, ranks=ranks)
        if dry_run:
            if console.json_output:
                console.json(plan_json(prepared, cost, path))
        elif ranks.is_first:
            with begun_whole(path):
                claim_output(path, force=force)
            with held(path):  # from before its first file on: two that start at once never mix theirs
                with begun_whole(path):
                    check_output(path, force=False, own=True)
                    run = RunDirectory.begin(path, absolute(settings), command=command)
                run_distillation(console, prepared, run, ranks)
        else:
            assist_distillation(prepared, path, ranks)
