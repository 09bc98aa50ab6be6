"""An exported file, loaded again by those who will load it, and held against what it was made from."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from cake_cli.catalog import ExportFormat
from cake_cli.config import TeacherConfig
from cake_cli.errors import CakeError, RunError
from cake_cli.models.exporting.form import Form
from cake_cli.models.loading import load_classifier
from cake_cli.models.verify import TOLERANCE

BATCHES = (1, 5)
"""Rows of the batches that are compared."""

Runner = Callable[[Tensor], Tensor]
"""From the file's rows (N, *shape) to its outputs (N, K)."""


def compare(path: Path, format: ExportFormat, form: Form) -> dict[str, float]:
    """Largest relative difference between a file's outputs and the form's, by who loaded it.

    Args:
        path: the file, written just now.
        format: its format.
        form: what it must compute.

    Returns:
        A figure for the format's own runtime and one for ``cake``, which reads the file as a teacher; over
        random rows in batches of `BATCHES`.

    Raises:
        RunError: if it cannot be loaded, differs by more than `TOLERANCE`, or `cake` reads another input or other
            classes from it.
    """
    differences: dict[str, float] = {}
    for name, load in _runtimes(path, format):
        differences[name] = _largest(name, format, load, form)
    differences["cake"] = _largest("cake", format, lambda: _own(path, form), form, normalised=True)
    return differences


def _largest(
    name: str, format: ExportFormat, load: Callable[[], Runner], form: Form, *, normalised: bool = False
) -> float:
    largest = 0.0
    try:
        run = load()
        for count in BATCHES:
            ours, theirs, wanted = form.rows(count)
            with torch.no_grad():
                largest = max(largest, form.deviation(run(ours if normalised else theirs), wanted))
    except CakeError as fault:
        raise _failed(format, f"{name} does not read it back: {fault.what}") from fault
    except Exception as fault:  # each runtime fails in its own way
        line = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        raise _failed(format, f"{name} does not run it on batches of {BATCHES}: {line[:160]}") from fault
    if not largest <= TOLERANCE:
        raise _failed(format, f"its outputs in {name} differ by {largest:.1e} of the largest")
    return largest


def _failed(format: ExportFormat, why: str) -> RunError:
    others = {"onnx": "torchscript", "torchscript": "onnx", "pt2": "onnx", "safetensors": "onnx"}
    return RunError(f"the {format} file was written, but {why}; it is not kept", f"--to {others[format]}")


def _runtimes(path: Path, format: ExportFormat) -> Iterator[tuple[str, Callable[[], Runner]]]:
    """The format's own runtimes."""
    if format == "onnx":
        yield "onnxruntime", lambda: _onnxruntime(path)
    elif format == "torchscript":
        yield "torch.jit", lambda: _script(path)
    elif format == "pt2":
        yield "torch.export", lambda: _program(path)


def _onnxruntime(path: Path) -> Runner:
    import onnxruntime as ort

    options = ort.SessionOptions()  # type: ignore[attr-defined]
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])  # type: ignore[attr-defined]
    return lambda rows: torch.from_numpy(session.run(None, {"input": rows.numpy()})[0])


def _script(path: Path) -> Runner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script: Runner = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    return script


def _program(path: Path) -> Runner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Runner = torch.export.load(path).module()  # our own file, written just now
    return program


def _own(path: Path, form: Form) -> Runner:
    """The file as `cake` opens it; on normalised rows."""
    try:
        found = load_classifier(path, TeacherConfig(trust=True, verify=False))
    except CakeError as fault:
        raise RunError(fault.what.replace(str(path), "the file").replace(path.name, "the file")) from fault
    wanted = form.classifier
    for what, read, meant in (
        ("an input", _input_of(found.spec), _input_of(wanted.spec)),
        ("class names", found.class_names, wanted.class_names),
    ):
        if read != meant:
            raise RunError(f"{what} of {read} instead of {meant}")
    return lambda rows: form.outputs(found, rows)


def _input_of(spec: object) -> dict[str, object]:
    return {key: value for key, value in vars(spec).items() if key != "source"}
