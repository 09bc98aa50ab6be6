"""From a path to a `Classifier`: sniff, open, adapt, measure."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from cake_cli.address import as_address
from cake_cli.catalog import read_student
from cake_cli.config import TeacherConfig
from cake_cli.errors import ModelFileError, NoGradient, UsageError
from cake_cli.forms import parse_json
from cake_cli.models.classifier import Classifier, Denormalise, HardLabels, Layout, LogitOf, LogOf, TwoClasses
from cake_cli.models.doubts import refuse_no_scores, refuse_other_tasks, refuse_other_values
from cake_cli.models.formats import ModelFile, sniff, weights_file
from cake_cli.models.labels import class_names, ultralytics_task
from cake_cli.models.opened import OpenedModel, OutputKind
from cake_cli.models.source import open_source, read_source
from cake_cli.models.verify import (
    Measured,
    looks_like_probabilities,
    measure_gradient,
    measure_rows,
    probe_rows,
)
from cake_cli.spec import InputSpec, format_shape
from cake_cli.storage import sha256
from cake_cli.text import as_argument

if TYPE_CHECKING:
    from cake_cli.models.weights import Weights

# Weights, students and folders are imported where one is met: torchvision, which they need, takes seconds.

GRADIENT_PROBES = 24
NAME_SOURCE = "cake.input_source"
"""Metadata key under which an opener says where the normalisation was read."""


def load_classifier(path: Path, settings: TeacherConfig | None = None) -> Classifier:
    """Opens a model as a verified classifier on the CPU.

    Args:
        path: a file of ONNX, TorchScript, torch.export or weights, a student of cake, a run directory with one
            in it, a folder in the Hugging Face layout, ``file.py:function``, or the address of an endpoint.
        settings: what the file does not say: architecture, input shape, normalisation, which output.

    Raises:
        ModelFileError: if it cannot be a teacher, with the reason.
        UsageError: if the settings contradict the file.
        EnvironmentFault: if it needs a package that is missing.
    """
    settings = settings or TeacherConfig()
    classifier = _load(path, settings)
    if settings.classes is not None and settings.classes != classifier.classes:
        raise ModelFileError(
            f"{classifier.name} has {classifier.classes} classes, not {settings.classes}", "leave --classes out"
        )
    return classifier


def unnamed_weights(path: Path, settings: TeacherConfig) -> Weights | None:
    """The weights in a file that nobody named an architecture for; None for anything else.

    Raises:
        ModelFileError: if the file is missing, damaged, or holds pickled objects.
    """
    if settings.arch is not None or not is_weights(path):
        return None
    from cake_cli.models.weights import read_weights

    return read_weights(sniff(path))


def is_weights(path: Path) -> bool:
    """Whether a file holds weights that do not say of which architecture they are.

    Raises:
        ModelFileError: if it is missing or of no known kind.
    """
    if path.is_dir() or read_source(path) is not None or as_address(path) is not None:
        return False
    file = sniff(path)
    if file.format != "safetensors":
        return file.format == "checkpoint"
    from cake_cli.models.students import student_metadata

    return "cake.architecture" not in student_metadata(path)


def takes_arch(path: Path) -> bool:
    """Whether `--arch` has to do with a file: weights that do not name theirs, students that one's own code made.

    Raises:
        ModelFileError: if it is missing or of no known kind.
    """
    return is_weights(path) or uncoded_student(path, TeacherConfig()) is not None


def uncoded_student(path: Path, settings: TeacherConfig) -> dict[str, str] | None:
    """The header of a student of one's own code, where `--arch` does not name that code; None for anything else.

    Raises:
        ModelFileError: if the file is missing or damaged.
    """
    file = weights_file(path)
    if settings.arch is not None or file.is_dir() or read_source(path) is not None or as_address(path) is not None:
        return None
    if sniff(file).format != "safetensors":
        return None
    from cake_cli.models.students import needs_code, student_metadata

    header = student_metadata(file)
    return header if needs_code(header) else None


def _load(path: Path, settings: TeacherConfig) -> Classifier:
    address = as_address(path)
    if address is not None:
        from cake_cli.models.blackbox import open_endpoint

        opened, name, digest = open_endpoint(address, settings)
        return adapt(opened, settings, name=name, digest=digest)
    if settings.token_env is not None:
        raise UsageError(f"--token-env is for endpoints, and {path} is none", "leave --token-env out")
    source = read_source(path)
    if source is not None:
        opened = open_source(source, settings)
        return adapt(opened, settings, name=path.name, digest=sha256(source.file))
    path = weights_file(path)
    if (path / "run.json").is_file() and (path / "students").is_dir():
        each = sorted(file.parent for file in (path / "students").glob("*/student.safetensors"))
        raise UsageError(
            f"{path} is a run of {len(each)} students", "name one: " + ", ".join(str(folder) for folder in each)
        )
    if (path / "run.json").is_file():
        raise ModelFileError(f"the run {path} has no student yet", f"cake resume {as_argument(path)}")
    if path.is_dir() and (path / "config.json").is_file():
        from cake_cli.models.folders import open_folder

        if settings.arch is not None:
            raise UsageError(f"--arch is for weights, and {path} names its architecture", "leave --arch out")
        opened, digest = open_folder(path, settings)
        return adapt(opened, settings, name=path.resolve().name, digest=digest)
    file = sniff(path)
    if file.format == "safetensors":
        from cake_cli.models.students import load_student, needs_code, student_metadata

        header = student_metadata(path)
        if "cake.architecture" in header:
            if settings.arch is not None and not needs_code(header):
                raise UsageError(f"--arch is for weights, and {path} names its architecture", "leave --arch out")
            return load_student(path, code=settings.arch)
    try:
        opened = _open_file(file, settings)
    except NoGradient as fault:
        if file.format != "onnx":
            raise
        from cake_cli.models.blackbox import open_onnx_black_box

        opened = open_onnx_black_box(path, settings, fault)
    return adapt(opened, settings, name=path.name, digest=sha256(path))


def _open_file(file: ModelFile, settings: TeacherConfig) -> OpenedModel:
    """Opens a file of any format; only what the format needs is imported."""
    path = file.path
    if settings.arch is not None and file.format not in ("safetensors", "checkpoint"):
        raise UsageError(f"--arch is for weights, and {path} is {file.format}", "leave --arch out")
    if file.format == "onnx":
        from cake_cli.models.onnx import open_onnx

        bounds = None if settings.input_range is None else (settings.input_range[0], settings.input_range[1])
        return open_onnx(
            path,
            input_shape=settings.input_shape,
            output=settings.output,
            input_range=bounds,
            verify=settings.verify,
        )
    if file.format == "torchscript":
        from cake_cli.models.torchscript import open_torchscript

        return open_torchscript(path, settings)
    if file.format == "pt2":
        from cake_cli.models.exported import open_exported

        return open_exported(path, settings)
    if file.format == "pickle":
        sklearn = path.suffix.lower() in (".pkl", ".pickle", ".joblib")
        raise ModelFileError(
            f"{path} is a pickled Python object; loading it would run its code, so it is not loaded",
            "export the model as ONNX: skl2onnx.to_onnx(model, X[:1].astype('float32'), options={'zipmap': False})"
            if sklearn
            else "save the weights alone: torch.save(model.state_dict(), FILE); or export the model as ONNX",
        )
    from cake_cli.models.weights import open_weights

    return open_weights(file, settings)


def adapt(opened: OpenedModel, settings: TeacherConfig, *, name: str, digest: str) -> Classifier:
    """Puts an opened model behind the `Classifier` contract and measures that it holds.

    Raises:
        ModelFileError: if the model does not behave as a classifier.
        UsageError: if the settings contradict the model.
    """
    refuse_other_tasks(opened.metadata)
    spec, layout = input_spec(opened, settings)
    before: list[nn.Module] = [Denormalise(spec)] if spec.expects == "raw" and not spec.is_identity else []
    before += [layout] if layout is not None else []
    started = time.perf_counter()
    probe = nn.Sequential(*before)(probe_rows(spec.shape, 3))
    measured = _measured(opened, probe, settings)
    if opened.output_kind == "logits":  # else its end was seen, and is off by now
        refuse_other_values(measured.outputs, settings.outputs)
    after, kind = _towards_logits(opened, measured, settings)
    refuse_no_scores(opened, measured.outputs, kind, settings)
    module = nn.Sequential(*before, measured.module, *after) if before or after else measured.module
    module = module.eval().requires_grad_(False)
    classes = max(measured.outputs.shape[1], 2)
    checks, why = measured.checks, _no_gradient(opened, settings)
    if settings.verify and why is None:
        checks += (measure_gradient(module, probe_rows(spec.shape, GRADIENT_PROBES, seed=1), classes),)
    return Classifier(
        module=module,
        spec=spec,
        classes=classes,
        class_names=class_names(opened.metadata, classes),
        name=name,
        sha256=digest,
        output_kind=kind,
        converter=opened.converter,
        batching=measured.batching,
        facts=opened.facts | {key: text for key, text in opened.metadata.items() if key.startswith("cake.")},
        mends=opened.mends + measured.notes,
        same_as=opened.same_as or _stated_architecture(opened.metadata),
        checks=checks if settings.verify else (*checks, "gradient and runtime agreement not checked (--no-verify)"),
        check_seconds=opened.check_seconds + time.perf_counter() - started,
        no_gradient=why,
        instead=opened.instead,
        seconds_a_row=measured.seconds_a_row if opened.answers_may_cost else None,
        noise=measured.notes[0] if measured.notes and not measured.constant else None,
        answers=nn.Sequential(*after)(measured.outputs) if opened.answers_may_change and measured.constant else None,
    )


def _no_gradient(opened: OpenedModel, settings: TeacherConfig) -> str | None:
    """Why a model is only asked; None where it has a gradient."""
    if opened.no_gradient is None and settings.outputs == "labels":
        return "only its labels are used (--outputs labels)"
    return opened.no_gradient


def _measured(opened: OpenedModel, probe: Tensor, settings: TeacherConfig) -> Measured:
    """What a model does with three rows (3, *input_shape): one that computes here, or one that is asked."""
    if opened.no_gradient is None:
        return measure_rows(opened, probe)
    from cake_cli.models.blackbox import measure_answers

    return measure_answers(opened, probe, verify=settings.verify)


def _stated_architecture(metadata: Mapping[str, str]) -> str | None:
    """What a student that was exported to another format was; None where that is no name, but code or a file."""
    if "cake.architecture" not in metadata:
        return None
    from cake_cli.models.students import full_name, needs_code

    try:
        is_name = not needs_code(metadata) and read_student(full_name(metadata)).kind in ("name", "timm")
    except UsageError:
        return None
    return full_name(metadata) if is_name else None


def _towards_logits(
    opened: OpenedModel, measured: Measured, settings: TeacherConfig
) -> tuple[list[nn.Module], OutputKind]:
    if opened.no_gradient is not None:
        from cake_cli.models.blackbox import kind_of, to_logits

        said = kind_of(opened.module, measured.outputs, settings.outputs)
        hard = settings.outputs == "labels"
        return to_logits(said, measured.outputs.shape[1], hard=hard), "labels" if hard else said
    if settings.outputs == "labels":
        after, _ = _towards_logits(opened, measured, replace(settings, outputs="auto"))
        return [*after, HardLabels()], "labels"
    kind: OutputKind = opened.output_kind if settings.outputs == "auto" else settings.outputs
    after = []
    hidden = settings.outputs == "auto" and kind == "logits" and looks_like_probabilities(measured.outputs)
    if hidden or (settings.outputs == "probs" and opened.output_kind == "logits"):
        single = measured.outputs.shape[1] == 1
        after.append(LogitOf() if single else LogOf())
        kind = "sigmoid" if single else "probs"
    if measured.outputs.shape[1] == 1:
        if kind not in ("sigmoid", "logits"):
            raise ModelFileError(
                f"the model ends in {kind} of one number a row, which are the same for every input",
                "--output with the name of another output, or give the model without that end",
            )
        after.append(TwoClasses())
    return after, kind


def input_spec(opened: OpenedModel, settings: TeacherConfig) -> tuple[InputSpec, Layout | None]:
    """The input in our order, where its normalisation was read, and how rows are laid out for the file.

    Raises:
        UsageError: if `--input-shape` does not hold as many values as the file's input.
        ModelFileError: if the file's input is neither an image nor a vector.
    """
    file_shape = opened.input_shape
    stated = stated_input(opened.metadata)
    ours = stated is not None and file_shape == stated.shape
    shape, channels_last = (file_shape, False) if ours else _our_shape(file_shape)
    if settings.input_shape is not None and settings.input_shape != shape:
        if math.prod(settings.input_shape) != math.prod(file_shape):
            raise UsageError(
                f"--input-shape {format_shape(settings.input_shape)} does not fit the file, "
                f"whose input is {format_shape(file_shape)}",
                "leave --input-shape out",
            )
        shape = settings.input_shape
        channels_last = len(file_shape) == 3 and len(shape) == 3 and file_shape == (shape[1], shape[2], shape[0])
    layout = Layout(file_shape, channels_last=channels_last) if shape != file_shape else None
    return _normalisation(shape, opened.metadata, settings), layout


def stated_input(metadata: Mapping[str, str]) -> InputSpec | None:
    """The input that the file's metadata state, in our order; None where they do not, or are damaged."""
    try:
        return InputSpec.from_json(parse_json(metadata["cake.input"]))
    except (KeyError, ValueError, UsageError):
        return None


def _our_shape(file_shape: tuple[int, ...]) -> tuple[tuple[int, ...], bool]:
    """(C, H, W) or (D,), and whether the file has channels last."""
    if len(file_shape) == 3 and sorted(file_shape)[1] > 1:
        first, second, last = file_shape
        if last in (1, 3, 4) and first not in (1, 3, 4):
            return (last, first, second), True
        return file_shape, False
    if len(file_shape) == 2 and min(file_shape) > 1:
        return (1, *file_shape), False
    if math.prod(file_shape) == max(file_shape):  # all but one axis have one place
        return (math.prod(file_shape),), False
    sizes = tuple(size for size in file_shape if size != 1)
    if len(sizes) <= 3:
        return _our_shape(sizes)
    raise ModelFileError(
        f"a row of the input has shape {format_shape(file_shape)}: neither an image nor a vector",
        "give a classifier of images or vectors",
    )


def _normalisation(shape: tuple[int, ...], metadata: Mapping[str, str], settings: TeacherConfig) -> InputSpec:
    bounds = None if settings.input_range is None else (settings.input_range[0], settings.input_range[1])
    origin = "--input-range"
    if bounds is None and ultralytics_task(metadata) == "classify":
        bounds, origin = (0.0, 1.0), "Ultralytics' exports take values of 0 to 1"
    default_range = (0.0, 1.0) if len(shape) == 3 else None
    if settings.mean is not None and settings.std is not None:
        return InputSpec(shape, settings.mean, settings.std, bounds or default_range, source="--mean and --std")
    if bounds is not None:
        middle, spread = (bounds[0] + bounds[1]) / 2, (bounds[1] - bounds[0]) / math.sqrt(12)
        instead = ", in place of the normalisation that the file states" if "cake.input" in metadata else ""
        return InputSpec(shape, (middle,), (spread,), bounds, expects="raw", source=origin + instead)
    if "cake.input" in metadata:
        try:
            stated = InputSpec.from_json(parse_json(metadata["cake.input"]))
        except (UsageError, ValueError) as fault:
            raise ModelFileError(
                f"the file's cake.input metadata is damaged: {fault}",
                "--mean 0.5 --std 0.25, or what it was trained with",
            ) from fault
        image = len(stated.shape) == len(shape) == 3
        if stated.shape == shape or (image and {len(stated.mean), len(stated.std)} <= {1, shape[0]}):
            return replace(stated, shape=shape, source=metadata.get(NAME_SOURCE, "the file's metadata"))
    return InputSpec(shape, range=default_range, source="assumed: it takes values of about N(0, 1) as they are")
