"""``cake bench``: what this machine reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cake_cli.cli import options as o
from cake_cli.cli.console import Console, count

STEP_GOAL = 1 / 1.05
"""Of `engine_over_bare`: a full step within 1.05 of the teacher's own."""
TRAINING_GOAL = 0.95


def bench(
    teacher: Annotated[Path, typer.Argument(help="The model file to measure with.", metavar="TEACHER")],
    student: Annotated[
        str | None,
        typer.Option(
            "--student",
            help="Also measure the training of this student.",
            metavar="NAME",
            autocompletion=o.complete_student,
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=1.0, help="About how long to measure.")] = 60.0,
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
    recipe: o.Recipe = None,
    config: o.ConfigFile = None,
    assignments: o.Assignments = None,
    method: o.MethodName = None,
    noise: o.NoiseName = None,
    batch_size: o.BatchSize = None,
    device: o.Device = None,
    precision: o.PrecisionName = None,
    plan: o.PlanName = None,
    json: o.Json = False,
) -> None:
    """Measure synthesis against the teacher's bare forward pass and input gradient, on this machine.

    engine_over_bare is the engine's sample-steps a second divided by those of the bare teacher at its best batch size
    and layout, in the same precision, run in turn. The goal is 0.952: a full step within 1.05 of the teacher's own.
    Quartiles say how noisy the machine was.

    Example: cake bench teacher.onnx --seconds 30
    """
    settings = o.read_config(
        teacher=teacher, recipe=recipe, config=config, assignments=assignments, arch=arch, classes=classes,
        trust=trust, input_shape=input_shape, mean=mean, std=std, input_range=input_range, outputs=outputs,
        output=output, verify=verify, method=method, noise=noise, batch_size=batch_size, device=device,
        precision=precision, plan=plan,
    )  # fmt: skip
    from cake_cli.benchmark import measure
    from cake_cli.models.blueprint import check_named
    from cake_cli.planning import prepare

    if student is not None:
        check_named(student, None)
    console = Console(json_output=json)
    if console.progress == "bar":
        with console.stderr.status("measuring"):
            found = measure(prepare(settings, student=False), seconds=seconds, student=student)
    else:
        console.say(f"measuring for about {seconds:.0f} s")
        found = measure(prepare(settings, student=False), seconds=seconds, student=student)
    if json:
        console.json(found)
        return
    _show(console, found)


def _show(console: Console, found: dict[str, Any]) -> None:
    from cake_cli.synthesis.step_plan import StepPlan

    plan = StepPlan.from_json(found["plan"]).describe()
    low, high = found["engine_quartiles"]["engine_over_bare"]
    rows = [
        ("device", found["device"]),
        ("teacher", f"{found['teacher']['name']}  {count(found['teacher']['multiply_adds'])} multiply-adds a row"),
        ("plan", f"{plan}; {found['plan']['sets_at_once']} sets, {found['plan']['rows']} rows side by side"),
        ("engine", f"{count(found['engine'])} sample-steps/s"),
        ("bare", f"{count(found['bare'])} sample-steps/s, teacher alone, batch {found['bare_batch']}, "
                 f"{found['bare_layout'].replace('_', ' ')}"),
        ("engine/bare", f"{found['engine_over_bare']:.3f}   middle half {low:.3f} to {high:.3f} of "
                        f"{found['engine_repetitions']}   {_met(found['engine_over_bare'], STEP_GOAL)}"),
    ]  # fmt: skip
    if "matrix_share" in found:
        rows.append(("of matrix rate", f"{found['matrix_share']:.1%} of {found['matrix_rate'] / 1e12:.0f} T/s (bf16)"))
    if "training" in found:
        rows += [
            ("training", f"{count(found['training'])} samples/s, {found['student']}"),
            ("bare training", f"{count(found['training_bare'])} samples/s"),
            ("training/bare", f"{found['training_over_bare']:.3f}   "
                              f"{_met(found['training_over_bare'], TRAINING_GOAL)}"),
        ]  # fmt: skip
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        console.result(f"{name:<{width}}  {value}")


def _met(ratio: float, goal: float) -> str:
    return f"goal {goal:.3f} {'met' if ratio >= goal else 'missed'}"
