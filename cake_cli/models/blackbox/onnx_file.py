"""An ONNX file that has no gradient, run by onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto

from cake_cli.config import TeacherConfig
from cake_cli.errors import NoGradient, RunError
from cake_cli.models.blackbox.box import Answer, BlackBox
from cake_cli.models.onnx.facts import read_facts
from cake_cli.models.onnx.names import read_names
from cake_cli.models.onnx.preparation import PASSES, prepare
from cake_cli.models.onnx.preparation.order import keep_output
from cake_cli.models.onnx.preparation.spelling import every_node
from cake_cli.models.onnx.reading import read_model
from cake_cli.models.onnx.refusals import TREES
from cake_cli.models.onnx.runtime import NO_MEMORY, FileRuntime, NoRuntime
from cake_cli.models.onnx.scaling import Scaling, read_scaling
from cake_cli.models.onnx.signature import Port, choose_input, choose_output, read_rows
from cake_cli.models.opened import OpenedModel, OutputKind
from cake_cli.text import printable

_LOOPS = ("Loop", "Scan", "SequenceMap")
_BYTES: dict[int, tuple[int, int]] = {TensorProto.UINT8: (0, 255), TensorProto.INT8: (-128, 127)}


class RuntimeOracle:
    """A graph in onnxruntime.

    Args:
        runtime: with one output.
        labels: the numbers that stand for the classes, in order, if it gives labels; None for scores.
        kind: what the scores are, where the graph shows it.
    """

    def __init__(self, runtime: FileRuntime, labels: Mapping[int, int] | None, kind: OutputKind | None = None) -> None:
        self.runtime = runtime
        self.labels = labels
        self.kind = kind

    def ask(self, rows: np.ndarray) -> Answer:
        """Runs float32 rows (N, *row); whole numbers where the graph takes bytes.

        Raises:
            MemoryError: if onnxruntime has too little for so many rows.
            RunError: if it fails on them for another reason.
        """
        bounds = _BYTES.get(self.runtime.port.kind)
        try:
            values = self.runtime(rows if bounds is None else np.rint(rows).clip(*bounds))[0]
        except Exception as fault:  # onnxruntime has kinds of its own, which have nothing but Exception in common
            if NO_MEMORY in str(fault):
                raise MemoryError(str(fault)) from fault
            raise RunError(
                f"onnxruntime failed on {len(rows)} rows: {printable(str(fault))[:300]}",
                "`cake inspect` asks it for a few",
            ) from fault
        if self.labels is None:
            return Answer(values.reshape(len(values), -1), self.kind)
        found = [self.labels.get(int(value), int(value)) for value in values.reshape(len(values), -1)[:, 0]]
        return Answer(np.array(found, dtype=np.int64), "labels")


def open_onnx_black_box(path: Path, settings: TeacherConfig, fault: NoGradient) -> OpenedModel:
    """Opens an ONNX file that has no gradient.

    The graph goes to onnxruntime as it is: it computes with operators that nothing here could look at first. So it has
    bounded memory for its values, and no loops.

    Args:
        path: the file.
        settings: input shape, output, and classes where only labels come out.
        fault: why there is no gradient.

    Raises:
        NoGradient: the same fault, if nothing runs the file either.
        ModelFileError: if it is no classifier.
        UsageError: if the settings contradict the file.
    """
    original = read_model(path)
    loop = next((node.op_type for node in every_node(original) if node.op_type in _LOOPS), None)
    if loop is not None:
        why = f"{fault.what}; and to be asked for outputs it has a loop ({loop}), of which nobody knows whether it ends"
        raise NoGradient(why, fault.fix)
    graph = ModelProto()
    graph.CopyFrom(original)
    mends = prepare(graph, PASSES)
    stated = {entry.key: entry.value for entry in original.metadata_props}
    told = read_names(original) | stated
    name, gives_labels = _output(graph, settings, counted=settings.classes is not None or "cake.class_names" in told)
    keep_output(graph, name)
    port = choose_input(graph)
    rows = read_rows(port, Port.of(graph.graph.output[0]), settings.input_shape)
    scaling = read_scaling(graph, rows.shape)
    try:
        runtime = FileRuntime([lambda: graph], port, rows, [name], bounded=True)
    except NoRuntime as refused:
        raise fault from refused
    metadata = _metadata(told, scaling, rows.shape)
    names = json.loads(metadata["cake.class_names"]) if "cake.class_names" in metadata else []
    classes = settings.classes or len(names) or None
    if gives_labels and classes is None:
        raise NoGradient(
            f"{fault.what}; and to be asked for labels, {path.name} does not tell of how many classes",
            f"{fault.fix}; or --classes K, to ask it for labels",
        )
    labels = _places(names) if gives_labels else None
    return OpenedModel(
        module=BlackBox(RuntimeOracle(runtime, labels, _kind(graph, name)), classes=classes if gives_labels else None),
        input_shape=rows.shape,
        output_kind="labels" if gives_labels else "logits",
        converter=runtime.name,
        facts=read_facts(original) | {"scores": name},
        mends=tuple(mends),
        metadata=metadata,
        no_gradient=fault.what,
        instead=fault.fix,
    )


def _output(graph: ModelProto, settings: TeacherConfig, *, counted: bool) -> tuple[str, bool]:
    """The name of the scores, or of the labels; and which it is.

    Labels are taken where there is nothing else, or where they are asked for and their classes are `counted`: of scores
    the number of classes is known, and the most probable one is the label.
    """
    ports = {value.name: Port.of(value) for value in graph.graph.output}
    whole = [name for name, port in ports.items() if not port.is_float and port.kind != TensorProto.STRING]
    if settings.output is None and settings.outputs == "labels" and whole and counted:
        return whole[0], True
    try:
        name = choose_output(graph, settings.output)
    except NoGradient:
        if not whole:
            raise
        name = whole[0]
    return name, name in whole and bool(ports[name].kind)


def _kind(graph: ModelProto, name: str) -> OutputKind | None:
    """What trees say of their scores: probabilities of each class apart, as boosted ones give them."""
    ends = [one for one in graph.graph.node if name in one.output and one.op_type in TREES]
    said = {a.s for one in ends for a in one.attribute if a.name == "post_transform"}
    return "sigmoid" if b"LOGISTIC" in said else None


def _places(names: list[str]) -> dict[int, int]:
    """Which class a number stands for, where classes are numbered otherwise than from 0."""
    try:
        return {int(name): index for index, name in enumerate(names)}
    except ValueError:
        return {}


def _metadata(told: dict[str, str], scaling: Scaling | None, shape: tuple[int, ...]) -> dict[str, str]:
    return told if scaling is None or "cake.input" in told else scaling.metadata(shape) | told
