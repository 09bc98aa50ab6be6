"""``cake export``: a model as a file of another format, compared before it is put in place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cake_cli.catalog import EXPORTS
from cake_cli.cli import options as o
from cake_cli.cli.console import Console, size
from cake_cli.errors import UsageError
from cake_cli.text import as_argument

FORMATS = ", ".join(EXPORTS)


def export(
    model: Annotated[
        Path, typer.Argument(help="A run directory, a student, or another model file.", metavar="RUN_OR_FILE")
    ],
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            help=f"What to write: {FORMATS}. Can be repeated.",
            rich_help_panel=o.OUTPUT,
            metavar="FORMAT",
            autocompletion=o.complete_format,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="The file. Default: beside the model.", rich_help_panel=o.OUTPUT),
    ] = None,
    softmax: Annotated[
        bool, typer.Option("--softmax", help="End in probabilities instead of logits.", rich_help_panel=o.OUTPUT)
    ] = False,
    opset: Annotated[
        int | None,
        typer.Option(
            "--opset", help="Of ONNX. Default: the one that torch chooses.", rich_help_panel=o.OUTPUT, metavar="N"
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Move a file that is there aside.", rich_help_panel=o.OUTPUT)
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
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Write a student, or another model, as a file that others load: ONNX, TorchScript, torch.export, safetensors.

    The file is loaded again and compared with the model on random inputs before it appears.

    Example: cake export runs/teacher-to-cnn-001 --to onnx
    """
    formats = o.split_formats(to or ())
    if out is not None and len(formats) > 1:
        raise UsageError(f"-o names one file, and --to asks for {len(formats)}", "leave -o out, or one --to")
    settings = o.read_config(
        arch=arch, classes=classes, trust=trust,
        input_shape=input_shape, mean=mean, std=std, input_range=input_range, outputs=outputs, output=output,
        verify=verify,
    )  # fmt: skip
    console = Console(quiet=quiet, json_output=json)
    from cake_cli.models.exporting import Export, default_path
    from cake_cli.models.loading import load_classifier

    classifier = load_classifier(model, settings.teacher)
    exports = [
        Export(
            classifier,
            out or default_path(model, format),
            format,
            source=model / "student.safetensors" if model.is_dir() else model,
            softmax=softmax,
            opset=opset if format == "onnx" or len(formats) == 1 else None,
            force=force,
        )
        for format in formats
    ]
    for one in exports:
        one.check()
    written = []
    for one in exports:
        file = one.write()
        written.append(file)
        compared = ", ".join(f"{difference:.1e} in {name}" for name, difference in file.differences.items())
        if not json:
            console.result(file.path)
        console.say(f"  {file.format}, {file.outputs}, {size(file.bytes)}; differs at most by {compared}")
    if json:
        console.json({"model": str(model), "files": [file.to_json() for file in written]})
        return
    trusted = " --trust" if formats[-1] == "pt2" else ""
    console.say(f"next: cake evaluate {as_argument(written[-1].path)}{trusted} --data DATA")
