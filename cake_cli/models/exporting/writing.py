"""A form as the bytes of a file, one function a format."""

from __future__ import annotations

import json
import logging
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import torch

from cake_cli.errors import UsageError
from cake_cli.models.attached import ATTACHED
from cake_cli.models.exporting.form import Form

LARGEST_ONNX = 2**31 - 2**20
"""Bytes of weights that fit into one file of protocol buffers, which ends at 2 GiB."""
EARLIEST_OPSET = 18
"""torch's exporter writes operators of this set; what is older comes of conversions that mostly fail."""

_ALIGNMENT, _ZIP_HEADER, _ZIP_FIELD = 64, 30, 4
"""Bytes: of tensors in an archive of torch; of a zip entry's fixed header; of the head of an extra field in it."""


def write_onnx(form: Form, opset: int | None) -> bytes:
    """ONNX with a symbolic batch, of `opset` or the one that torch's exporter chooses.

    Raises:
        UsageError: if the opset cannot be written, or the weights do not fit into one file.
    """
    if opset is not None and opset < EARLIEST_OPSET:
        raise UsageError(f"torch's exporter writes opset {EARLIEST_OPSET} and later, not {opset}", "--opset 18")
    if form.weight_bytes > LARGEST_ONNX:
        size = form.weight_bytes / 2**30
        raise UsageError(f"one ONNX file ends at 2 GiB, and the weights take {size:.1f}", "--to pt2, or torchscript")
    with _undisturbed():
        program = torch.onnx.export(
            form.module,
            (form.example,),
            dynamo=True,
            input_names=["input"],
            output_names=[form.output],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=opset,
            verbose=False,
        )
    if program is None:  # the exporter's types allow it
        raise RuntimeError("the exporter gave nothing")
    proto = program.model_proto
    written = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if opset is not None and written != opset:
        raise UsageError(f"torch's exporter cannot write this network in opset {opset}", "leave --opset out")
    graph = proto.graph
    for part in [*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer]:
        del part.metadata_props[:]  # traces of the exporter, with paths of this machine
        part.doc_string = ""
    del graph.metadata_props[:]
    graph.name = "classifier"
    proto.doc_string = form.metadata["cake.origin"]
    for key, text in sorted(form.metadata.items()):
        proto.metadata_props.add(key=key, value=text)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def write_torchscript(form: Form) -> bytes:
    """TorchScript of a trace, which takes any number of rows."""
    buffer = BytesIO()
    with _undisturbed():
        script = torch.jit.trace(form.module, (form.example,), check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(script, buffer, _extra_files={ATTACHED: _json(form)})
    return _without_stacks(buffer)


def _without_stacks(archive: BytesIO) -> bytes:
    """A TorchScript archive without the stacks of calls that led to each line, and a hash of them.

    They hold paths of this machine, and differ between equal networks. Tensors stay aligned, as torch writes them.
    """
    cleaned = BytesIO()
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(cleaned, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            if entry.filename.endswith((".debug_pkl", "/.data/serialization_id")):
                continue
            kept = zipfile.ZipInfo(entry.filename, date_time=(1980, 1, 1, 0, 0, 0))
            begins = cleaned.tell() + _ZIP_HEADER + len(entry.filename.encode()) + _ZIP_FIELD
            padding = -begins % _ALIGNMENT
            kept.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
            new.writestr(kept, old.read(entry))
    return cleaned.getvalue()


def write_pt2(form: Form) -> bytes:
    """A package of torch.export with a dynamic batch."""
    buffer = BytesIO()
    with _undisturbed():
        program = torch.export.export(form.module, (form.example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of this machine
        torch.export.save(program, buffer, extra_files={ATTACHED: _json(form)})
    return buffer.getvalue()


def _json(form: Form) -> str:
    return json.dumps(form.metadata, sort_keys=True)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Exporters neither warn nor log to the user's terminal, and meet no operator that is fused for inference."""
    disabled = logging.root.manager.disable
    fused = torch.backends.mha.get_fastpath_enabled()
    logging.disable(logging.CRITICAL)
    torch.backends.mha.set_fastpath_enabled(False)  # it has no derivative, and no place in ONNX
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        logging.disable(disabled)


def reason(fault: BaseException) -> str:
    """The line of an exporter's message that says what happened: the deepest cause, without colours."""
    while fault.__cause__ is not None:
        fault = fault.__cause__
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in str(fault).splitlines()]
    first = next((line for line in lines if line), "")
    told = f"{type(fault).__name__}: {first}" if first else type(fault).__name__
    return told if len(told) <= 200 else told[:197] + "..."
