"""What is said before a run: what was understood, and the plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cake_cli import __version__
from cake_cli.catalog import short_name
from cake_cli.cli.console import Console, count, duration, size
from cake_cli.config import SynthesisConfig
from cake_cli.spec import InputSpec, format_shape
from cake_cli.text import counted

MOST_SHOWN = 4
"""Numbers of a mean that are written out."""

if TYPE_CHECKING:
    from cake_cli.data import HeldOut
    from cake_cli.estimating import Estimate
    from cake_cli.models.classifier import Classifier
    from cake_cli.models.counting import Size
    from cake_cli.planning import Prepared


def normalisation(spec: InputSpec) -> str:
    """Mean and standard deviation, and where they were read."""
    if spec.is_identity:
        return spec.source
    mean, std = (" ".join(_few(values)) for values in (spec.mean, spec.std))
    raw = " of the raw values that the file takes" if spec.expects == "raw" else ""
    return f"mean {mean}  std {std}{raw} ({spec.source})"


def _few(values: tuple[float, ...]) -> list[str]:
    shown = [f"{value:.3g}" for value in values[:MOST_SHOWN]]
    return shown if len(values) <= MOST_SHOWN else [*shown, "..."]


def size_cells(found: Size, against: Size | None = None, units: tuple[str, str, str] = ("", "", "")) -> list[str]:
    """``11.2 M (0.5x)``, ``556 M (0.4x)``, ``43 MiB (0.5x)``: parameters, multiply-adds, file, beside the teacher's.

    What is not known, as of teachers that are only asked, is ``unknown``.
    """
    written = (count(found.parameters), count(found.multiply_adds), size(found.bytes))
    other = (0, 0, 0) if against is None else (against.parameters, against.multiply_adds, against.bytes)
    own = (found.parameters, found.multiply_adds, found.bytes)
    shown = [text if value else "unknown" for text, value in zip(written, own, strict=True)]
    ratios = [f" ({times(mine / theirs)})" if theirs > 0 else "" for mine, theirs in zip(own, other, strict=True)]
    return [f"{cell}{unit}{ratio}" for cell, unit, ratio in zip(shown, units, ratios, strict=True)]


def sizes(found: Size, against: Size | None = None) -> str:
    """``11.2 M params (0.5x), 556 M multiply-adds (0.4x), 43 MiB file (0.5x)``."""
    return ", ".join(size_cells(found, against, (" params", " multiply-adds", " file")))


def times(ratio: float) -> str:
    """``0.04x``, ``1.2x``, ``31x``: two figures."""
    return f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.2g}x"


def teacher_line(teacher: Classifier, found: Size | None = None) -> str:
    """``teacher.onnx  opset 17, 21.3 M params, 1.2 G multiply-adds, 81 MiB, 3x32x32 -> 10 logits``."""
    opset = teacher.facts.get("opset", "").removeprefix("ai.onnx ")
    opset = f"opset {opset}, " if opset else ""
    made = f"{teacher.architecture}, " if teacher.architecture else ""
    if not teacher.parameters:
        what = f"{teacher.name}  {opset}asked from outside, {format_shape(teacher.spec.shape)}"
        return f"{what} -> {teacher.classes} {teacher.output_kind}"
    return (
        f"{teacher.name}  {made}{opset}{f'{count(teacher.parameters)} params' if found is None else sizes(found)}, "
        f"{format_shape(teacher.spec.shape)} -> {teacher.classes} {teacher.output_kind}"
    )


def show_plan(console: Console, prepared: Prepared, cost: Estimate, out: Path) -> None:
    """The block before a run."""
    config, hardware = prepared.config, prepared.hardware
    rows: list[tuple[str, str]] = []
    if prepared.teacher is not None:
        rows.append(("teacher", teacher_line(prepared.teacher, prepared.teacher_size)))
        rows += [("", mend) for mend in prepared.teacher.mends]
        if prepared.teacher.batching != "direct" or console.verbose:
            rows += [("", check) for check in prepared.teacher.checks]
    if prepared.bank is not None:
        rows.append(("bank", f"{prepared.bank.path}  {len(prepared.bank):,} samples"))
    for name, student in prepared.blueprints.items():
        rows.append(("student", f"{short_name(name)}  {sizes(student.size, prepared.teacher_size)}, {student.note}"))
    rows.append(("input", normalisation(prepared.subject.spec)))
    if prepared.real is not None:
        rows.append(("REAL DATA", _real_line(prepared.real, config.training.true_label_weight)))
    rows.append(("data", _data_line(prepared)))
    if prepared.outside_contract:
        used = " and ".join(prepared.outside_contract)
        rows.append(("contract", f"not strict: {used} of the teacher {'were' if prepared.bank else 'are'} used"))
    rows += [("queries", told) for told in (_queries(prepared),) if told]
    rows.append(("plan", _plan_line(prepared, cost)))
    console.facts(
        f"cake {__version__}   {out}   {hardware.describe()}   {hardware.precision}   seed {config.seed}", rows
    )
    if prepared.doubt is not None:
        console.warn(prepared.doubt)
    if prepared.unused:
        *first, last = (f"synthesis.{name}" for name in prepared.unused)
        names = f"{', '.join(first)} and {last}" if first else last
        console.warn(f"the bank is there already, and {names} {'have' if prepared.unused[1:] else 'has'} no part in it")
    for data in (prepared.real, prepared.heldout):
        for note in data.notes if data is not None else ():
            console.warn(note)
    console.say()


def _real_line(real: HeldOut, hard_weight: float) -> str:
    return f"{real.name}, {real.samples:,} samples, lambda {hard_weight:g}: this run is NOT data-free"


def _data_line(prepared: Prepared) -> str:
    heldout = prepared.heldout
    if prepared.architecture is None:
        return "none is used"
    trained = "none for training; " if prepared.real is None else ""
    if prepared.student is not None and prepared.student.weights is not None:
        trained += "what the first weights saw is your own claim; "
    if heldout is None:
        return f"{trained}none held out, so accuracy will not be measured (--data)"
    alone = "" if prepared.teacher is not None else "; no agreement and no noise baseline beside it (--teacher)"
    return f"{trained}{heldout.name}, {heldout.samples:,} samples, for the report only{alone}"


def _steps(settings: SynthesisConfig) -> str:
    if settings.only_labels:
        return ""
    if settings.way == "generative":
        return f" x {counted(settings.steps, 'updates')} of a generator"
    return f" x {counted(settings.steps, 'steps')}"


def _method(settings: SynthesisConfig) -> str:
    """``cake``, or ``cake snn, langevin noise, adam``: the method, and the choices that are not the default."""
    compares = settings.way == "cake" and settings.contrast > 0 and settings.contrastive != "mse"
    found = [f"{settings.way} {settings.contrastive}" if compares else settings.way]
    if settings.way in ("cake", "naive"):
        noise = {"langevin": "Langevin noise", "both": "implicit and Langevin noise", "none": "no noise"}
        found += [noise[settings.noise]] if settings.noise in noise else []
        named = {"sgd": "plain gradient descent", "adam": "Adam"}
        found += [named[settings.optimizer]] if settings.optimizer in named else []
        found += ["estimated gradients"] if settings.gradients == "estimated" else []
    found += [] if settings.only_labels or settings.bounds is None else [f"bounds: {settings.bounds}"]
    return ", ".join(found)


def _queries(prepared: Prepared) -> str:
    """What a teacher that is only asked will be asked; empty for others."""
    settings, teacher = prepared.config.synthesis, prepared.teacher
    if teacher is None or (teacher.no_gradient is None and settings.gradients != "estimated"):
        return ""
    parts = []
    if prepared.synthesizes:
        limit = "" if settings.queries is None else f" of at most {settings.queries:,}"
        each = " (labels alone)"
        if not settings.only_labels:
            each = f" ({settings.directions} directions a step, smoothing {settings.smoothing:g})"
        parts.append(f"{prepared.planned_passes.forward:,}{limit} for samples{each}")
    if prepared.trains_baseline:
        floor = prepared.floor_samples * len(prepared.students)
        parts.append(f"{floor:,} for the noise baseline (--no-baseline)")
    views = prepared.config.training.views
    if views and prepared.architecture is not None:
        parts.append(
            f"{prepared.config.training.rows_learned(prepared.learned_rows, prepared.epochs):,} for views, at most"
        )
    if prepared.noise_samples:
        parts.append(f"{prepared.noise_samples:,} for starting points beside the bank")
    if prepared.real is not None:
        parts.append(f"{prepared.real.samples:,} for real data")
    if prepared.heldout is not None:
        parts.append(f"{prepared.heldout.samples * len(prepared.students):,} for the held-out data")
    if teacher.answers is not None and prepared.synthesizes:
        parts.append(f"{len(teacher.answers) * prepared.plan.wave_count:,} to see that answers stay")
    return ", ".join(parts)


def _range(numbers: Sequence[float]) -> str:
    """``17 to 2``, or the one number that all are."""
    ends = list(dict.fromkeys((max(numbers, default=0), min(numbers, default=0))))
    return " to ".join(f"{end:.2g}" if end < 1 else f"{end:g}" for end in ends)


def _plan_line(prepared: Prepared, cost: Estimate) -> str:
    config, plan = prepared.config, prepared.plan
    parts: list[str] = []
    if prepared.synthesizes:
        rounds = f" in {plan.rounds} rounds" if plan.rounds > 1 else ""
        parts.append(f"{plan.samples:,} samples{_steps(config.synthesis)} ({_method(config.synthesis)}){rounds}")
    if prepared.noise_samples:
        chosen = f", {prepared.chosen_samples:,} of them chosen" if prepared.chosen_samples else ""
        parts.append(f"{prepared.noise_samples:,} starting points labelled beside{chosen}")
    if prepared.waypoints and prepared.synthesizes:
        parts.append(f"{counted(prepared.waypoints, 'points')} on the way of each")
    if prepared.architecture is not None:
        baseline = " and a noise baseline" if prepared.trains_baseline else ""
        views = f" of views ({', '.join(config.training.views)})" if config.training.views else ""
        between = f" and {_range(prepared.epochs_between)} epochs after each round"
        between = between if plan.rounds > 1 else ""
        epochs = counted(prepared.epochs, "epochs")
        parts.append(f"{epochs}{between if prepared.synthesizes else ''}{views}{baseline}")
    parts.append(f"about {duration(cost.total_seconds)}")
    budget = config.synthesis.budget_seconds
    if prepared.bank is None and budget is not None:
        parts.append(f"at most {duration(budget)} of synthesis")
    parts.append(f"{size(cost.disk)} of disk" + (f" and {size(cost.memory)} of memory" if cost.memory else ""))
    return ", ".join(parts)
