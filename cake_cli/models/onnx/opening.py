"""Opening an ONNX file as a teacher: read, prepare, convert, compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto

from cake_cli.errors import ModelFileError, NoGradient
from cake_cli.models.doubts import refuse_other_tasks
from cake_cli.models.onnx.conversion import ORDER, ConversionFailed, Converter, convert
from cake_cli.models.onnx.facts import read_facts
from cake_cli.models.onnx.finite import refuse_non_finite
from cake_cli.models.onnx.interpreter import GraphError, UnsupportedOperator
from cake_cli.models.onnx.names import read_names
from cake_cli.models.onnx.opinion import Forms, SecondOpinion
from cake_cli.models.onnx.pairs import ByClass, scores_of_pairs
from cake_cli.models.onnx.preparation import LATER_PASSES, PASSES, prepare
from cake_cli.models.onnx.preparation.batch import free_batch, unbake_batch
from cake_cli.models.onnx.preparation.floats import computes_in_half
from cake_cli.models.onnx.preparation.order import keep_output
from cake_cli.models.onnx.preparation.tail import take_off_tail
from cake_cli.models.onnx.reading import read_serialized
from cake_cli.models.onnx.refusals import reexport, refuse_cut_gradient, refuse_without_gradient
from cake_cli.models.onnx.scaling import Scaling, read_scaling
from cake_cli.models.onnx.signature import Port, Rows, choose_input, choose_output, read_rows
from cake_cli.models.onnx.trial import Mismatch, Settled, Trial, check_shape
from cake_cli.models.opened import OpenedModel


def open_onnx(
    path: Path,
    *,
    input_shape: tuple[int, ...] | None = None,
    output: str | None = None,
    input_range: tuple[float, float] | None = None,
    verify: bool = True,
    converter: Converter | None = None,
) -> OpenedModel:
    """Opens an ONNX file as a differentiable classifier.

    Args:
        path: the file; external data are read from its own folder only.
        input_shape: one row without the batch axis, for sizes that the file leaves open.
        output: the name of the output that holds the scores, where several could.
        input_range: the least and the greatest value that it takes, where the user says so: what it is tried on.
        verify: compare the module with onnxruntime (or ONNX's reference evaluator) before it is returned.
        converter: only this way from ONNX to torch; by default each in turn until one compares equal.

    Returns:
        A module from (N, *row) to (N, K) logits, with what was mended and found.

    Raises:
        ModelFileError: if the file is damaged, no classifier, has no gradient, or does not compare equal.
        UsageError: if `output` or `input_shape` do not fit the file.
    """
    original, serialized = read_serialized(path)
    refuse_other_tasks({entry.key: entry.value for entry in original.metadata_props})
    facts = read_facts(original)
    graph, mends, name = _cut_down(original, output)
    refuse_without_gradient(graph)
    refuse_non_finite(graph, path.name)
    port = choose_input(graph)
    declared = Port.of(graph.graph.output[0])
    rows = read_rows(port, declared, input_shape)
    scaling = read_scaling(graph, rows.shape)
    rows = replace(rows, scaling=scaling if input_range is None else Scaling.of_range(*input_range))
    if rows.has_batch and declared.dims is not None:
        check_shape(declared.dims)
    half = computes_in_half(graph)
    mends += prepare(graph, LATER_PASSES)
    kind, logits = take_off_tail(graph)
    refuse_cut_gradient(graph)

    forms = Forms(original, lambda: _cut_down(original, output)[0], name, logits, kind, half, serialized)
    opinion = SecondOpinion(path.name, forms, port, rows) if verify else None
    trial = Trial(rows, is_float=port.is_float, kind=kind, opinion=opinion.witnesses if opinion else list)
    settled, way, more = _convert(graph, rows, trial, ORDER if converter is None else (converter,), path)
    mends += more
    if opinion is not None:
        facts["compared"] = f"with {opinion.runtime.name}, difference {settled.difference:.1e}"
    facts["scores"] = name
    by_class = scores_of_pairs(graph)
    if by_class is not None:
        settled.module.by_class = by_class
        mends.append(f"its scores of pairs of classes brought to one for each of {by_class.classes}")
    return OpenedModel(
        module=settled.module,
        input_shape=rows.shape,
        output_kind=settled.kind,
        converter=way,
        facts=facts,
        mends=tuple(mends),
        metadata=_metadata(original, scaling, rows.shape),
        fixed_batch=settled.module.fixed,
        has_batch_axis=rows.has_batch,
        reference=None if opinion is None else _reference(opinion, by_class),
        check_seconds=trial.seconds if verify else 0.0,
    )


def _cut_down(original: ModelProto, output: str | None) -> tuple[ModelProto, list[str], str]:
    """A prepared copy with the scores as its only output, what was mended, and the name of the scores."""
    graph = _copy(original)
    mends = prepare(graph, PASSES)
    name = choose_output(graph, output)
    keep_output(graph, name)
    return graph, mends, name


def _metadata(original: ModelProto, scaling: Scaling | None, shape: tuple[int, ...]) -> dict[str, str]:
    """What the file says of itself, and what only its graph tells: names of classes, and the scale of its input."""
    stated = {entry.key: entry.value for entry in original.metadata_props}
    told = read_names(original) | stated
    return told if scaling is None or "cake.input" in stated else scaling.metadata(shape) | told


def _reference(opinion: SecondOpinion, by_class: ByClass | None) -> Callable[[np.ndarray], np.ndarray]:
    if by_class is None:
        return opinion.scores
    return lambda batch: by_class(torch.from_numpy(opinion.scores(batch))).numpy()


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _convert(
    graph: ModelProto, rows: Rows, trial: Trial, ways: tuple[Converter, ...], path: Path
) -> tuple[Settled, Converter, list[str]]:
    """The first way whose module compares equal at any batch; else one that holds at the file's own batch."""
    free_batch(graph, rows)
    fixed: tuple[Settled, Converter, list[str]] | None = None
    faults: list[Exception] = []
    for way in ways:
        for free in (True, False) if rows.is_large else (False, True):
            copy = _copy(graph) if free else graph
            mend = unbake_batch(copy, rows) if free else None
            if free and mend is None:
                continue
            try:
                settled = trial.settle(convert(copy, way))
            except ModelFileError:
                raise
            except Exception as fault:  # the next way gets its turn; the first fault is the one told
                faults.append(fault)
                continue
            more = [mend] if mend is not None else []
            if settled.free:
                return settled, way, more
            fixed = fixed or (settled, way, [f"the batch of {settled.module.fixed} that the graph fixes is kept"])
    if fixed is not None:
        return fixed
    raise _refusal(faults[0], path, reexport(graph)) from faults[0]


def _refusal(fault: Exception, path: Path, fix: str) -> ModelFileError:
    if isinstance(fault, UnsupportedOperator):
        return NoGradient(f"{path.name} uses {fault}, which has no differentiable counterpart here", fix)
    if isinstance(fault, Mismatch):
        return ModelFileError(f"{path.name} cannot be converted faithfully: {fault}", fix)
    if isinstance(fault, GraphError | ConversionFailed):
        return ModelFileError(f"{path.name} cannot be converted: {_first_line(fault)}", fix)
    return ModelFileError(f"{path.name} cannot be converted: {type(fault).__name__}: {_first_line(fault)}", fix)


def _first_line(fault: BaseException) -> str:
    return str(fault).strip().split("\n", 1)[0]
