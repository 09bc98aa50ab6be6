"""The numbers that come first, and the models beside each other on one scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cake_cli.config import LABELLED_ONLY
from cake_cli.report.words import bounds, count, dig, figure, interval, number, percent, plural

MODELS = {"student": "Student", "teacher": "Teacher", "noise_baseline": "Noise baseline"}
"""The models of an evaluation, in the order of the page."""


@dataclass(frozen=True)
class Stat:
    """One large number."""

    role: str
    """student, teacher, noise_baseline, agreement or plain: decides its colour."""
    label: str
    value: str
    detail: str


@dataclass(frozen=True)
class Whisker:
    """A model's accuracy and interval on the common scale, in per cent of its length."""

    role: str
    label: str
    value: str
    detail: str
    point: float
    low: float
    high: float


@dataclass(frozen=True)
class Scale:
    """Models beside each other."""

    whiskers: tuple[Whisker, ...]
    first: str
    last: str


def stats(record: Mapping[str, Any]) -> list[Stat]:
    """Measured on held-out data where there were any, else what is known without."""
    if isinstance(dig(record, "evaluation"), Mapping):
        return _measured(record)
    found = []
    fidelity = number(dig(record, "synthetic_fidelity"))
    if fidelity is not None:
        text = "of held-out synthetic samples; not real data"
        found.append(Stat("student", "Synthetic agreement", percent(fidelity), text))
    health = dig(record, "synthesis", "health")
    if number(dig(health, "samples")) is not None:
        method = str(dig(record, "synthesis", "method") or "")
        text = "of noise" if method in LABELLED_ONLY else f"balance {figure(dig(record, 'synthesis', 'balance'))}"
        found.append(Stat("plain", "Synthetic samples", count(dig(health, "samples")), text))
        if method not in LABELLED_ONLY and number(dig(health, "on_target")) is not None:
            detail = "of samples are what they were drawn towards"
            found.append(Stat("plain", "On target", percent(health["on_target"]), detail))
    own, whole = number(dig(record, "student", "parameters")), number(dig(record, "teacher", "parameters"))
    if own and whole:
        detail = f"{count(own)} of {count(whole)} weights"
        found.append(Stat("plain", "Size of the teacher's", _ratio(own, whole), detail))
    return found


def _ratio(own: float, whole: float) -> str:
    return percent(own / whole, 0) if 0.01 <= own / whole < 10 else f"{own / whole:.2g} ×"


def _measured(record: Mapping[str, Any]) -> list[Stat]:
    evaluation = record["evaluation"]
    found = []
    for role, label in MODELS.items():
        accuracy = number(dig(evaluation, "accuracy", role))
        if accuracy is not None:
            ends = interval(dig(evaluation, "models", role, "accuracy_interval"))
            found.append(Stat(role, f"{label} accuracy", percent(accuracy), ends))
    agreement = number(dig(evaluation, "agreement"))
    if agreement is not None:
        ends = interval(dig(evaluation, "models", "student", "agreement_interval"))
        found.append(Stat("agreement", "Agreement", percent(agreement), ends))
    return found


def scale(record: Mapping[str, Any]) -> Scale | None:
    """The accuracies with their intervals on a scale that just holds them; None for fewer than two models."""
    evaluation = dig(record, "evaluation")
    points = {role: number(dig(evaluation, "accuracy", role)) for role in MODELS}
    known = {role: point for role, point in points.items() if point is not None}
    if len(known) < 2:
        return None
    ends = {r: bounds(dig(evaluation, "models", r, "accuracy_interval")) or (p, p) for r, p in known.items()}
    low = max(0.0, math.floor(20 * min(end[0] for end in ends.values()) - 0.2) / 20)
    high = min(1.0, math.ceil(20 * max(end[1] for end in ends.values()) + 0.2) / 20)

    def place(share: float) -> float:
        return round(100 * (share - low) / (high - low), 2)

    whiskers = tuple(
        Whisker(
            role,
            MODELS[role],
            percent(known[role]),
            interval(dig(evaluation, "models", role, "accuracy_interval")),
            place(known[role]),
            place(ends[role][0]),
            place(ends[role][1]),
        )
        for role in known
    )
    return Scale(whiskers, percent(low, 0), percent(high, 0))


def measured_on(record: Mapping[str, Any]) -> str:
    """``500 held-out samples of heldout.npz``, empty without an evaluation."""
    samples, data = dig(record, "evaluation", "samples"), dig(record, "evaluation", "data")
    if number(samples) is None:
        return ""
    return plural(samples, "held-out sample") + (f" of {data}" if data else "")
