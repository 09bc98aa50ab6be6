"""``cake evaluate``: accuracy and fidelity of a model on held-out data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cake_cli.cli import options as o
from cake_cli.cli.console import Console


def evaluate(
    model: Annotated[Path, typer.Argument(help="A model file, a student, or a run directory.", metavar="MODEL")],
    data: o.Data = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", help="The teacher to measure agreement with.", rich_help_panel=o.EVALUATION),
    ] = None,
    split: o.Split = None,
    label_column: o.LabelColumn = None,
    data_root: o.DataRoot = None,
    download: o.Download = None,
    min_agreement: o.MinAgreement = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Samples of a pass.", rich_help_panel=o.EVALUATION, min=1)
    ] = 256,
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
    device: o.Device = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    progress: o.ProgressMode = "auto",
) -> None:
    """Measure a model on held-out data, alone or against its teacher.

    Example: cake evaluate runs/a --data ./val --against teacher.onnx
    """
    settings = o.read_config(
        arch=arch, classes=classes, trust=trust,
        input_shape=input_shape, mean=mean, std=std, input_range=input_range, outputs=outputs, output=output,
        verify=verify, data=data, split=split, label_column=label_column, data_root=data_root, download=download,
        min_agreement=min_agreement, device=device,
    )  # fmt: skip
    console = Console(quiet=quiet, json_output=json, progress=progress)
    from cake_cli.assessment import assess, require_agreement
    from cake_cli.cli.progress import reporter_of

    found = assess(model, settings, against=against, batch_size=batch_size, reporter=reporter_of(console))
    student = found["student"]
    if json:
        console.json(student.to_json())
    elif quiet:
        console.result(f"{student.accuracy:.4f}")
    else:
        rows = []
        for name, path in (("teacher", against), ("student", model)):
            if name in found:
                figures = found[name]
                low, high = figures.accuracy_interval
                agreement = "" if name == "teacher" or figures.agreement is None else f"{figures.agreement:.2%}"
                kl = "" if name == "teacher" or figures.kl is None else f"{figures.kl:.3f}"
                rows.append(
                    [
                        str(path),
                        f"{figures.accuracy:.2%}",
                        f"{low:.1%} to {high:.1%}",
                        agreement,
                        kl,
                        f"{figures.ece:.3f}",
                    ]
                )
        console.table(["model", "accuracy", "95 % interval", "agreement", "KL", "ECE"], rows, result=True)
        console.say(f"{student.samples:,} samples")
    require_agreement(student, settings.evaluation.min_agreement)
