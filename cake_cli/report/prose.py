"""The sentences of the page: what was asked, what state the run is in, what it does not promise."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cake_cli.catalog import is_source
from cake_cli.report.words import dig, network, number, percent, plural

Record = Mapping[str, Any]
"""The content of run.json; any key may be absent."""


KINDS = {
    "naive": "inverted sample",
    "generative": "generated sample",
    "noise": "noise sample",
    "smooth-noise": "noise sample",
}
"""What the samples of a method are called, other than synthetic."""


@dataclass(frozen=True)
class Banner:
    """Something to know before reading on."""

    title: str
    text: str
    grave: bool = False


@dataclass(frozen=True)
class Point:
    """A statement and what it means."""

    title: str
    text: str


def title(record: Record) -> str:
    """``teacher.onnx to cnn``, as far as it is known."""
    teacher, student = dig(record, "teacher", "name"), network(record)
    return f"{teacher or 'a teacher'} → {student or 'a student'}"


def asked(record: Record) -> str:
    """What the run was to do, in a few sentences."""
    teacher = dig(record, "teacher", "name") or "the teacher"
    student = network(record) or "a student"
    samples, steps = number(dig(record, "synthesis", "samples")), dig(record, "plan", "steps")
    samples = samples or dig(record, "plan", "samples")
    epochs = dig(record, "plan", "epochs")
    trained = f"{plural(epochs, 'epoch')} of training" if epochs else ""
    if dig(record, "command") == "train":
        size = f" of {plural(samples, 'sample')}" if samples else ""
        told = f"Train {student} on a bank{size} that {teacher} has labelled"
        told += ", and on real data" if dig(record, "data_free") is False else ""
        told += f", in {trained}" if trained else ""
    else:
        real = number(dig(record, "real_data", "samples"))
        real_data = f" ({plural(real, 'sample')} of {dig(record, 'real_data', 'data')})" if real else ""
        free = f"with real data{real_data}" if dig(record, "data_free") is False else "without its training data"
        kind = KINDS.get(str(dig(record, "synthesis", "method")))
        made = plural(samples, kind or "synthetic sample") if samples else ""
        stepped = dig(record, "synthesis", "method") != "generative" and number(steps)
        made += f" of {plural(steps, 'gradient step')}" if made and stepped else ""
        stages = ", then ".join(part for part in (made, trained) if part)
        told = f"Distil the classifier {teacher} into {student}, {free}" + (f": {stages}" if stages else "")
    data = dig(record, "evaluation", "data")
    return told + (f"; measured on the held-out data {data}." if data else ".")


def banners(record: Record, *, gate: float | None) -> list[Banner]:
    """The state of a run that did not end well, real data, and a gate that was missed.

    Args:
        record: of the run.
        gate: the least agreement that was asked for, if any.
    """
    found = []
    status, error = dig(record, "status"), dig(record, "error")
    if status == "failed":
        text = (
            f"It stopped with: {str(error).rstrip('.')}." if error else "It stopped with an error; log.txt says more."
        )
        found.append(Banner("This run failed.", f"{text} What follows is what there was by then.", grave=True))
    elif status == "interrupted":
        text = "It was stopped before its end and can go on with cake resume. What follows is what there was by then."
        found.append(Banner("This run was interrupted.", text, grave=True))
    elif status == "running":
        text = "It had not ended when this page was written; cake report writes it again."
        found.append(Banner("This run is not finished.", text))
    if dig(record, "data_free") is False:
        text = "Real data took part in making the student. Nothing on this page shows what cake does without data."
        found.append(Banner("This run was not data-free.", text, grave=True))
    first = dig(record, "student", "init_sha256")
    if first:
        text = f"They are of a file with the SHA-256 {str(first)[:12]}. cake does not know which data they have seen."
        found.append(Banner("The student started from weights.", text))
    outside = dig(record, "outside_contract")
    if isinstance(outside, Sequence) and not isinstance(outside, str) and outside:
        used = " and ".join(str(name) for name in outside)
        text = f"{used} of the teacher were used: more than its outputs and their gradient in the input."
        found.append(Banner("This run left the strict contract.", text))
    agreement = number(dig(record, "evaluation", "agreement"))
    if gate is not None and agreement is not None:
        told = f"Asked for at least {percent(gate)} agreement, measured {percent(agreement)}."
        reached = agreement >= gate
        title_ = "The agreement that was asked for is reached." if reached else "The agreement asked for is missed."
        found.append(Banner(title_, told, grave=not reached))
    return found


def limits(record: Record) -> list[Point]:
    """What the run does not promise."""
    data = dig(record, "evaluation", "data")
    elsewhere = (
        f"They were compared on {data} only. How they agree on other data, or away from the data that the teacher "
        "was made for, is not measured."
        if data
        else "They were compared on synthetic samples only. How they agree on real data is not measured."
    )
    free = dig(record, "data_free")
    points = [
        Point(
            "No privacy guarantee.",
            "Samples and student come from the teacher and may carry what it remembers of its training data.",
        ),
        Point(
            "A student copies its teacher's mistakes.",
            "It learns the teacher's answers, right or wrong, with its biases; agreement is not correctness.",
        ),
        Point("Agreement elsewhere is unknown.", elsewhere),
        Point(
            "Synthetic samples need not look like data.",
            "They are made to lie along the teacher's decision boundaries. Odd pictures are no fault, and pleasing "
            "ones no proof.",
        ),
        Point(
            "One run is one draw.",
            "Intervals say how far a figure may be off for so many held-out samples. Another seed "
            "gives another student.",
        ),
    ]
    if free is False:
        points.insert(0, Point("Not data-free.", "Real data took part in making this student."))
    elif free is True:
        used = " The held-out data served this report only: they neither trained nor selected." if data else ""
        used += " What its first weights saw is not known." if dig(record, "student", "init_sha256") else ""
        points.append(Point("Data-free, as far as cake can see.", f"No real sample trained the student.{used}"))
    return points


def advice_without_evaluation(record: Record, run: Path, arch: str | None) -> str:
    """What to type to measure a student that was not; `arch` is the teacher's `--arch`, where it was given."""
    teacher, student = dig(record, "teacher", "path"), str(dig(record, "student", "architecture") or "")
    code = ["--arch", student] if is_source(student) else []
    against = ["--against", str(teacher), *(["--against-arch", arch] if arch else [])] if teacher else []
    return shlex.join(["cake", "evaluate", str(run / "student.safetensors"), *code, "--data", "DATA", *against])
