"""Measuring models that lie in files, outside any run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from cake_cli.address import as_address
from cake_cli.config import Config, TeacherConfig
from cake_cli.data import TEACHER, Evaluation, evaluate, open_heldout, read_class_map
from cake_cli.errors import AgreementMissed, DataError, ModelFileError, UsageError
from cake_cli.events import Reporter
from cake_cli.hardware import Hardware, pick
from cake_cli.models.classifier import Classifier, Denormalise, Normalise
from cake_cli.models.counting import Size, size_of
from cake_cli.models.loading import load_classifier, takes_arch
from cake_cli.models.speed import Speed, measure_speed
from cake_cli.spec import InputSpec, format_shape

COLUMNS = (
    *("model", "role", "data", "samples", "accuracy", "accuracy_low", "accuracy_high", "top5", "ece"),
    *("agreement", "agreement_low", "agreement_high", "kl", "parameters", "multiply_adds", "bytes"),
    *("latency", "best_batch", "throughput", "device"),
)
"""Of the CSV file: shares in 0..1, KL in nats, latency in seconds, throughput in rows a second."""


@dataclass(frozen=True)
class Assessed:
    """One model, and what was measured of it."""

    path: str
    evaluation: Evaluation
    size: Size
    speed: Speed | None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        speed = None if self.speed is None else self.speed.to_json()
        held = {name: value or None for name, value in asdict(self.size).items()}  # nothing is known of what is asked
        return {"model": self.path} | self.evaluation.to_json() | held | {"speed": speed}


@dataclass(frozen=True)
class Assessment:
    """Models measured on the same held-out rows."""

    data: str
    device: str
    notes: tuple[str, ...]
    """What is to know of the data."""
    teacher: Assessed | None
    models: tuple[Assessed, ...]

    @property
    def rows(self) -> tuple[Assessed, ...]:
        """The teacher, if there is one, and the models."""
        return self.models if self.teacher is None else (self.teacher, *self.models)

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` prints: the figures of one model at the top, those of several in a list."""
        about: dict[str, Any] = {"data": self.data, "device": self.device, "notes": list(self.notes)}
        about["teacher"] = None if self.teacher is None else self.teacher.to_json()
        models = [model.to_json() for model in self.models]
        return models[0] | about if len(models) == 1 else about | {"models": models}

    def to_csv(self) -> str:
        """A line for each model, the teacher first, under a header; what was not measured is empty."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in self.rows:
            role = "teacher" if row is self.teacher else "model"
            flat = (
                {"role": role, "data": self.data, "device": self.device}
                | row.to_json()
                | (row.to_json()["speed"] or {})
            )
            for key in ("accuracy", "agreement"):
                flat[f"{key}_low"], flat[f"{key}_high"] = flat[f"{key}_interval"] or ("", "")
            writer.writerow(["" if flat.get(column) is None else flat[column] for column in COLUMNS])
        return buffer.getvalue()


def assess(
    models: Sequence[Path],
    config: Config,
    *,
    against: Path | None,
    batch_size: int,
    reporter: Reporter,
    speed: bool = False,
    teacher: TeacherConfig | None = None,
) -> Assessment:
    """Evaluates models on held-out data, all in one pass, and their teacher beside them where one is given.

    Args:
        models: model files, students, or run directories.
        config: held-out data and device; what the files do not say of their input.
        against: the teacher's file.
        batch_size: samples of a pass.
        reporter: told of the course.
        speed: whether forward passes are timed.
        teacher: what the teacher's file does not say of itself; as for the models by default.

    Raises:
        CakeError: if a file or the data do not fit.
    """
    data = config.evaluation
    if data.data is None:
        raise UsageError("on which data?", "--data FOLDER, FILE.npz, or a torchvision name")
    if data.min_agreement is not None and against is None:
        raise UsageError("--min-agreement needs the teacher", f"--against {TEACHER.upper()}.onnx")
    class_map = read_class_map(data.class_map)
    hardware = pick(config.hardware.device)
    files = {_key(path): path for path in models}
    stated = dict.fromkeys(files, config.teacher)
    if against is not None:
        files[TEACHER], stated[TEACHER] = against, teacher or config.teacher
    opened = {
        name: load_classifier(files[name], settings) for name, settings in _where_it_applies(files, stated).items()
    }
    first = next(iter(opened.values()))
    _require_alike(first, opened.values())
    for note in (*_named_otherwise(first, opened.values()), *_mended(opened.values())):
        reporter.warn(note)
    sizes = {name: size_of(model, files[name]) for name, model in opened.items()}
    ready = {name: _in_space_of(first.spec, model).on(hardware) for name, model in opened.items()}
    judge = ready.pop(TEACHER, None)
    heldout = open_heldout(
        data.data,
        first.spec,
        first.classes,
        split=data.split,
        label_column=data.label_column,
        data_root=None if data.data_root is None else Path(data.data_root),
        download=data.download,
        class_names=next((model.class_names for model in opened.values() if model.class_names), None),
        class_map=class_map,
        strict=data.strict,
    )
    for note in heldout.notes:
        reporter.warn(note)
    found = evaluate(
        ready,
        heldout,
        classes=first.classes,
        teacher=judge,
        device=hardware.device,
        batch_size=batch_size,
        reporter=reporter,
    )
    everyone = ready if judge is None else {TEACHER: judge, **ready}
    timed = {name: model for name, model in everyone.items() if model.seconds_a_row is None}
    speeds = _speeds(timed, first.spec.shape, hardware, reporter) if speed else {}
    shown = {name: as_address(file) or str(file) for name, file in files.items()}
    rows = {name: Assessed(shown[name], found[name], sizes[name], speeds.get(name)) for name in everyone}
    measured = rows.pop(TEACHER, None)
    return Assessment(heldout.name, hardware.describe(), heldout.notes, measured, tuple(rows.values()))


def _where_it_applies(files: Mapping[str, Path], stated: Mapping[str, TeacherConfig]) -> dict[str, TeacherConfig]:
    """The settings of each file, without an architecture or a token for those that have no use for one.

    Raises:
        UsageError: if an architecture is stated, and none of the files that it is for has a use for it.
    """
    asked = {name for name, file in files.items() if as_address(file) is not None}
    found = {name: settings if takes_arch(files[name]) else replace(settings, arch=None)
             for name, settings in stated.items()}  # fmt: skip
    if asked:
        found = {name: settings if name in asked else replace(settings, token_env=None)
                 for name, settings in found.items()}  # fmt: skip
    for name, settings in stated.items():
        alike = [other for other, others in stated.items() if others.arch == settings.arch]
        if settings.arch is not None and not any(found[other].arch for other in alike):
            raise UsageError(
                f"--arch {settings.arch} is for weights, and {files[name]} is none", "leave it out; or --against-arch"
            )
    return found


def _mended(models: Iterable[Classifier]) -> Iterable[str]:
    """What is to know of students: that one's own code has changed since."""
    for model in models:
        if model.architecture is not None:
            yield from model.mends


def _key(path: Path) -> str:
    """What a model is called among the results; not as the teacher is."""
    return f"./{path}" if str(path) == TEACHER else as_address(path) or str(path)


def _require_alike(first: Classifier, models: Iterable[Classifier]) -> None:
    for model in models:
        if model.classes != first.classes or model.spec.shape != first.spec.shape:
            raise ModelFileError(
                f"{first.name} maps {format_shape(first.spec.shape)} to {first.classes} classes, "
                f"{model.name} {format_shape(model.spec.shape)} to {model.classes}",
                "compare models of the same input and classes",
            )


def _named_otherwise(first: Classifier, models: Iterable[Classifier]) -> Iterable[str]:
    """Where two models call a class by different names: their outputs are compared by position all the same."""
    for model in models:
        pairs = zip(first.class_names or (), model.class_names or (), strict=False)
        differ = [(index, *names) for index, names in enumerate(pairs) if names[0] != names[1]]
        if differ:
            index, ours, theirs = differ[0]
            yield (
                f"{len(differ)} classes of {first.name} and {model.name} have different names "
                f"(class {index} is {ours!r} and {theirs!r}): they are compared by position"
            )


def _in_space_of(spec: InputSpec, model: Classifier) -> Classifier:
    """The model for rows that were normalised as `spec` says."""
    own = model.spec
    if (spec.mean, spec.std, spec.range) == (own.mean, own.std, own.range):
        return model
    if spec.range != own.range:
        if spec.range is None or own.range is None:
            raise DataError(
                "of two models only one says in which range raw values lie", "give --input-range, or --mean and --std"
            )
        own = _seen_from(spec.range, own, own.range)
    return replace(model, module=nn.Sequential(Denormalise(spec), Normalise(own), model.module))


def _seen_from(bounds: tuple[float, float], spec: InputSpec, own: tuple[float, float]) -> InputSpec:
    """The normalisation of `spec`, with range `own`, for raw values whose range is `bounds` instead."""
    scale = (own[1] - own[0]) / (bounds[1] - bounds[0])
    shift = own[0] - bounds[0] * scale
    return replace(
        spec,
        mean=tuple((mean - shift) / scale for mean in spec.mean),
        std=tuple(std / scale for std in spec.std),
        range=bounds,
    )


def _speeds(
    models: Mapping[str, Classifier], shape: tuple[int, ...], hardware: Hardware, reporter: Reporter
) -> dict[str, Speed]:
    speeds = {}
    with reporter.stage("speed", len(models), "models") as stage:
        for name, model in models.items():
            speeds[name] = measure_speed(model, shape, hardware)
            stage.advance()
        stage.conclude(f"on {hardware.describe()}")
    return speeds


def require_agreement(found: Assessment, gate: float | None) -> None:
    """The gate of `--min-agreement`, which every model must pass.

    Raises:
        AgreementMissed: if a model's agreement is below `gate`.
    """
    if gate is None:
        return
    shares = [(row.path, row.evaluation.agreement) for row in found.models]
    missed = [f"{share:.2%} ({path})" for path, share in shares if share is not None and share < gate]
    if missed:
        raise AgreementMissed(
            f"agreement with the teacher on the held-out data is {', '.join(missed)}, less than {gate:.2%}",
            "a larger bank, more steps or epochs, or a larger student",
        )
