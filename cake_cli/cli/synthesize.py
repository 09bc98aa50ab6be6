"""``cake synthesize``: the sample bank alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cake_cli.catalog import usual_student
from cake_cli.cli import options as o
from cake_cli.cli.console import Console
from cake_cli.text import as_argument

if TYPE_CHECKING:
    from cake_cli.planning import Prepared
    from cake_cli.ranks import Ranks
    from cake_cli.synthesis.bank import SampleBank


def synthesize(
    teacher: Annotated[
        Path | None,
        typer.Argument(
            help="The model file to sample. TorchScript and FILE.py:FUNCTION are programs, and are run.",
            metavar="TEACHER",
            show_default=False,
        ),
    ] = None,
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
    contrastive: o.ContrastiveName = None,
    noise: o.NoiseName = None,
    gradients: o.GradientKind = None,
    queries: o.Queries = None,
    device: o.Device = None,
    precision: o.PrecisionName = None,
    step_plan: o.PlanName = None,
    deterministic: o.Deterministic = None,
    out: o.Out = None,
    formats: o.Formats = None,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    progress: o.ProgressMode = "auto",
) -> None:
    """Make a bank of synthetic samples with the teacher's answers, and a picture of some.

    Example: cake synthesize teacher.onnx -o bank --samples 10000
    """
    from cake_cli.cli.running import absolute, files_read, plan, plan_json
    from cake_cli.ranks import Ranks
    from cake_cli.settings import write_toml
    from cake_cli.storage import begin_output, check_output

    settings = o.read_config(
        teacher=teacher, recipe=recipe, config=config, assignments=assignments, arch=arch,
        classes=classes, trust=trust, input_shape=input_shape, mean=mean, std=std,
        input_range=input_range, outputs=outputs, output=output, verify=verify, seed=seed, method=method,
        samples=samples, steps=steps, time_budget=time_budget, contrastive=contrastive, noise=noise, formats=formats,
        gradients=gradients, queries=queries, token_env=token_env,
        device=device, precision=precision, deterministic=deterministic, plan=step_plan,
    )  # fmt: skip
    console = Console(quiet=quiet, verbose=verbose, json_output=json, progress=progress)
    if print_config:
        console.result(write_toml(settings).rstrip())
        return
    if out is not None:
        check_output(out, force=force, reads=files_read(settings))
    from cake_cli.runs import default_run_path

    path = out or default_run_path(Path(settings.teacher.file or "teacher"), "bank")
    with Ranks.current().joined(settings.hardware.device) as ranks:
        path = Path(ranks.share(str(path)))
        prepared, cost = plan(console, settings, path, student=False, ranks=ranks)
        if dry_run:
            if json:
                console.json(plan_json(prepared, cost, path))
            return
        if ranks.is_first:
            begin_output(path, "config.toml", write_toml(absolute(settings)), force=force)
        make_bank(console, prepared, path, ranks)


def make_bank(console: Console, prepared: Prepared, path: Path, ranks: Ranks) -> None:
    """Makes a bank, or goes on with one, and says how it came out; all ranks call this together."""
    import time

    from cake_cli.cli.progress import reporter_of
    from cake_cli.cli.running import stopped, terminable
    from cake_cli.locks import staying
    from cake_cli.synthesizing import synthesize as run_synthesis

    started = time.perf_counter()
    try:
        with terminable(), staying(path):
            bank = run_synthesis(prepared, path, reporter_of(console), ranks=ranks)
            if ranks.is_first:
                _draw(bank)
                _conclude(console, bank, time.perf_counter() - started)
    except KeyboardInterrupt:
        raise stopped("finished shards are kept", path, path, ranks) from None


def _draw(bank: SampleBank) -> None:
    from cake_cli.report.gallery import peek
    from cake_cli.report.sheet import sample_sheet

    few = peek(bank)
    if few is not None:
        sample_sheet(few, bank.spec, bank.classes, bank.class_names, bank.path / "samples.png")


def _conclude(console: Console, bank: SampleBank, seconds: float) -> None:
    """After a bank: JSON, or where things are and the next command."""
    from dataclasses import asdict

    from cake_cli.synthesis.copies import copies_of

    health = bank.health
    if console.json_output:
        console.json(
            {
                "bank": str(bank.path),
                "samples": len(bank),
                "classes": bank.classes,
                "teacher_passes": asdict(bank.passes),
                "seconds": round(seconds, 3),
                "health": None if health is None else health.to_json() | {"balance": health.balance},
                "copies": [str(path) for path in copies_of(bank)],
            }
        )
        return
    console.say()
    student = usual_student(bank.spec.shape)
    console.facts("done", [("bank", str(bank.path)), ("picture", str(bank.path / "samples.png")),
                           *(("copy", str(path)) for path in copies_of(bank)),
                           ("next", f"cake train {as_argument(bank.path)} --student {student}")])  # fmt: skip
    console.result(str(bank.path))
