"""The tables of the page: both networks, metrics, classes, cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cake_cli.errors import UsageError
from cake_cli.report.headline import MODELS
from cake_cli.report.words import NOTHING, count, dig, duration, figure, interval, network, number, percent
from cake_cli.spec import InputSpec, format_shape

MOST_CLASSES = 20

_STAGES = {"load": "Loading the teacher", "synthesis": "Synthesis", "training": "Training the student"}
_STAGES |= {"baseline": "Noise baseline", "evaluation": "Evaluation", "export": "Export"}


@dataclass(frozen=True)
class Cell:
    """A figure, and in small print what belongs to it."""

    value: str
    detail: str = ""


@dataclass(frozen=True)
class Entry:
    """One of several students, and where its own page is."""

    name: str
    page: str
    """Path relative to the folder of the page that lists it; empty where there is none."""
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Students:
    """Several students of one bank beside each other."""

    head: tuple[str, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Table:
    """Rows of a heading and cells under column headings."""

    head: tuple[str, ...]
    """The first is that of the row headings."""
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def networks(record: Mapping[str, Any]) -> Table:
    """Teacher and student beside each other."""
    teacher, student = dig(record, "teacher"), dig(record, "student")
    own, whole = number(dig(student, "parameters")), number(dig(teacher, "parameters"))
    work, more = (number(dig(side, "size", "multiply_adds")) for side in (student, teacher))
    rows = [
        ("Network", _text(dig(teacher, "name")), _text(network(record))),
        ("Weights", Cell(count(whole)), Cell(count(own), _beside(own, whole))),
        ("Multiply-adds", Cell(count(more)), Cell(count(work), _beside(work, more))),
        ("File", _text(dig(teacher, "path")), _text(dig(student, "file"))),
        ("SHA-256", Cell(str(dig(teacher, "sha256") or NOTHING)[:12]), Cell(NOTHING)),
        ("Output", _text(dig(teacher, "output_kind")), Cell("logits")),
        ("Read through", _text(dig(teacher, "converter")), Cell(NOTHING)),
    ]
    kept = [row for row in rows if row[1].value != NOTHING]
    if dig(record, "students"):
        return Table(("", "Teacher"), tuple((name, (left,)) for name, left, _ in kept))
    return Table(("", "Teacher", "Student"), tuple((name, (left, right)) for name, left, right in kept))


def _beside(own: float | None, whole: float | None) -> str:
    return f"{own / whole:.3g} of the teacher's" if own and whole else ""


def _text(value: Any) -> Cell:
    return Cell(str(value) if value else NOTHING)


def several(record: Mapping[str, Any], students: Mapping[str, Mapping[str, Any]]) -> Students | None:
    """The students of a run that has several, with what is known of each; None where there is one.

    Args:
        record: of the run.
        students: the records of theirs, by name; those that were not begun have none.
    """
    folders = dig(record, "students")
    if not isinstance(folders, Mapping):
        return None
    entries = []
    for name, folder in folders.items():
        own = students.get(name, {})
        found = dig(own, "evaluation", "models", "student")
        cells = (
            Cell(count(dig(own, "student", "parameters"))),
            Cell(percent(dig(found, "accuracy")), interval(dig(found, "accuracy_interval"))),
            Cell(percent(dig(found, "agreement")), interval(dig(found, "agreement_interval"))),
            Cell(percent(dig(own, "evaluation", "accuracy", "noise_baseline"))),
            Cell(percent(dig(own, "synthetic_fidelity"))),
            Cell(str(dig(own, "status") or "not begun")),
        )
        entries.append(Entry(name, f"{folder}/report.html" if dig(own, "report") else "", cells))
    head = ("Student", "Weights", "Accuracy", "Agreement", "Accuracy from noise", "Synthetic agreement", "State")
    return Students(head, tuple(entries))


def input_line(record: Mapping[str, Any]) -> str:
    """What one input is, for both; empty where it is not known."""
    try:
        spec = InputSpec.from_json(dig(record, "teacher", "input") or {})
    except UsageError:
        return ""
    told = f"{format_shape(spec.shape)} values to {count(dig(record, 'teacher', 'classes'))} classes"
    told += f"; mean {_few(spec.mean)}, standard deviation {_few(spec.std)}"
    told += f", raw values from {spec.range[0]:g} to {spec.range[1]:g}" if spec.range else ", raw values without bounds"
    return f"{told} ({spec.source})."


def _few(values: tuple[float, ...]) -> str:
    listed = ", ".join(f"{value:.4g}" for value in values[:4])
    return listed + (", …" if len(values) > 4 else "")


def metrics(record: Mapping[str, Any]) -> Table | None:
    """Every metric of every model, with its interval; None without an evaluation."""
    models = {role: dig(record, "evaluation", "models", role) for role in MODELS}
    known = {role: found for role, found in models.items() if isinstance(found, Mapping)}
    if not known:
        return None

    def row(name: str, cell: Any) -> tuple[str, tuple[Cell, ...]]:
        return name, tuple(cell(found) for found in known.values())

    rows = [
        row("Accuracy", lambda m: Cell(percent(m.get("accuracy")), interval(m.get("accuracy_interval")))),
        row("Top-5 accuracy", lambda m: Cell(percent(m.get("top5")))),
        row(
            "Agreement with the teacher",
            lambda m: Cell(percent(m.get("agreement")), interval(m.get("agreement_interval"))),
        ),
        row("KL from the teacher, in nats", lambda m: Cell(figure(m.get("kl")))),
        row("Expected calibration error", lambda m: Cell(percent(m.get("ece")))),
    ]
    return Table(("Metric", *(MODELS[role] for role in known)), tuple(row for row in rows if _says_something(row)))


def _says_something(row: tuple[str, tuple[Cell, ...]]) -> bool:
    return any(cell.value != NOTHING for cell in row[1])


def by_class(record: Mapping[str, Any], labels: tuple[str, ...]) -> Table | None:
    """Recall of each class; of more than `MOST_CLASSES`, those that the student loses most of."""
    models = {role: dig(record, "evaluation", "models", role, "per_class") for role in MODELS}
    known = {role: found for role, found in models.items() if isinstance(found, list) and len(found) == len(labels)}
    if "student" not in known:
        return None

    def loss(index: int) -> float:
        own = number(dig(known["student"][index], "recall"))
        best = number(dig(known["teacher"][index], "recall")) if "teacher" in known else 1.0
        return (best if best is not None else 1.0) - own if own is not None else float("-inf")

    shown = sorted(range(len(labels)), key=loss, reverse=True)[:MOST_CLASSES]
    rows = tuple(
        (
            labels[index],
            (
                *(Cell(percent(dig(found[index], "recall"))) for found in known.values()),
                Cell(count(dig(known["student"][index], "support"))),
            ),
        )
        for index in (sorted(shown) if len(labels) <= MOST_CLASSES else shown)
    )
    heads = (MODELS[role].partition(" ")[0] for role in known)
    return Table(("Class", *heads, "Samples"), rows)


def by_confidence(record: Mapping[str, Any]) -> Table | None:
    """Agreement of the student where the teacher is more or less sure."""
    bins = dig(record, "evaluation", "models", "student", "agreement_by_confidence")
    if not isinstance(bins, list):
        return None
    rows = tuple(
        (f"{percent(dig(b, 'low'), 0)} to {percent(dig(b, 'high'), 0)}", (Cell(percent(dig(b, "agreement"))), Cell(n)))
        for b in bins
        if (n := count(dig(b, "samples"))) not in ("0", NOTHING)
    )
    return Table(("Teacher's confidence", "Agreement", "Samples"), rows) if rows else None


def cost(record: Mapping[str, Any]) -> Table:
    """Seconds by stage, and their sum."""
    seconds = dig(record, "seconds")
    spent = {str(stage): number(value) for stage, value in seconds.items()} if isinstance(seconds, Mapping) else {}
    known = {stage: value for stage, value in spent.items() if value is not None}
    rows = [(_STAGES.get(stage, stage.capitalize()), (Cell(duration(value)),)) for stage, value in known.items()]
    if len(rows) > 1:
        rows.append(("In all", (Cell(duration(sum(known.values()))),)))
    return Table(("Stage", "Time"), tuple(rows))


def rounds(record: Mapping[str, Any]) -> Table | None:
    """What each round made, and how the student of the one before did on it; None of a single round."""
    entries = dig(record, "rounds")
    known = [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []
    if len(known) < 2:
        return None

    def share(entry: Mapping[str, Any], name: str) -> Cell:
        found = entry.get(name)
        ends = [dig(found, "low"), dig(found, "high")]
        return Cell(percent(dig(found, "value")), interval(ends)) if found else Cell(NOTHING)

    rows = tuple(
        (
            f"Round {count(entry.get('round'))}",
            (
                Cell(count(entry.get("samples"))),
                Cell(figure(entry.get("disagreement"))),
                share(entry, "expected_agreement"),
                share(entry, "agreement_on_samples"),
                Cell(percent(entry.get("synthetic_fidelity"))),
            ),
        )
        for entry in known
    )
    head = (
        "",
        "Samples",
        "Weight of disagreement",
        "Expected agreement",
        "On the samples, before learning",
        "Held out, after",
    )
    return Table(head, rows)


def _in_training(record: Mapping[str, Any]) -> Cell:
    asked = number(dig(record, "training_passes", "forward"))
    return (
        Cell(count(asked), "starting points, real samples or views that the teacher labelled")
        if asked
        else Cell(NOTHING)
    )


def _of_student(record: Mapping[str, Any]) -> Cell:
    asked = [number(dig(record, "student_passes", name)) for name in ("forward", "backward")]
    return Cell(" + ".join(map(count, asked)), "forward and backward, in synthesis") if all(asked) else Cell(NOTHING)


def means(record: Mapping[str, Any]) -> Table:
    """What was computed on, and what the teacher was asked."""
    passes = dig(record, "teacher_passes")
    versions = dig(record, "versions")
    listed = ", ".join(f"{name} {version}" for name, version in versions.items()) if versions else None
    rows = [
        ("Forward passes", Cell(count(dig(passes, "forward")), "samples through the teacher")),
        ("Backward passes", Cell(count(dig(passes, "backward")), "samples through the teacher")),
        ("Passes in training", _in_training(record)),
        ("Passes of the student", _of_student(record)),
        ("Device", _text(dig(record, "device"))),
        ("Precision", _text(dig(record, "precision"))),
        ("Seed", Cell(str(dig(record, "seed")) if number(dig(record, "seed")) is not None else NOTHING)),
        ("Versions", _text(listed)),
    ]
    return Table(("What", "Used"), tuple((name, (cell,)) for name, cell in rows if cell.value != NOTHING))
