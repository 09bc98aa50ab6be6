"""What is measured of a black box when it is opened: that rows stand alone, and that answers stay."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cake_cli.errors import ModelFileError, RunError
from cake_cli.events import Reporter
from cake_cli.hardware import Hardware
from cake_cli.models.blackbox.box import BlackBox
from cake_cli.models.classifier import Batched, Classifier
from cake_cli.models.opened import OpenedModel
from cake_cli.models.verify import TOLERANCE, Measured, deviation, probe_rows

MOVED = 1e-3
"""A difference, relative to the greatest score, from another answer to the same rows that is more than rounding."""
JITTER = 5
"""How many times as far apart as two answers to the same rows are answers that depend on other rows."""
LOOKS, NOISE = 8, 3
"""Answers that are looked at where one is not as it was, and how many standard errors their mean may be off."""


def measure_answers(opened: OpenedModel, rows: Tensor, *, verify: bool) -> Measured:
    """Asks three rows together, together again, and one by one.

    Args:
        opened: a black box.
        rows: (3, *input_shape), in the model's own layout and scale.
        verify: if not, they are asked once.

    Raises:
        ModelFileError: if what is said are no scores.
        EnvironmentFault: if nothing is said.
    """
    box = opened.module
    if not isinstance(box, BlackBox):
        raise TypeError("only black boxes are asked so")
    try:
        with torch.no_grad():
            first, together = _timed(box, rows)
            spent = together / len(rows)
            if not verify:
                return Measured(box, "direct", first, (_asked(box),), constant=False, seconds_a_row=spent)
            again, warm = _timed(box, rows)
            together = min(together, warm)  # the first question opens a connection, and any may have to wait
            each = [_timed(box, row[None]) for row in rows]
            alone = torch.cat([answer for answer, _ in each])
            spent = _seconds_a_row(together, min(seconds for _, seconds in each), len(rows), box.most_rows)
    except RunError as fault:
        raise ModelFileError(fault.what, fault.fix) from fault
    moved = deviation(again, first)
    if moved > MOVED:
        note = f"answers change: by {moved:.1%} of the largest score for the same input, so labels are noisy"
        return Measured(box, "direct", first, (_asked(box),), (note,), constant=False, seconds_a_row=spent)
    apart = deviation(alone, first)
    twice = "the same answer twice" + (f" (within {moved:.0e})" if moved else "")
    if apart <= max(TOLERANCE, JITTER * moved):
        checks = (f"rows independent (within {apart:.0e})", twice, _asked(box))
        return Measured(box, "direct", first, checks, seconds_a_row=spent)
    note = f"an answer depends on the other rows that are asked with it (by {apart:.1%}): rows are asked one by one"
    looped, spent = Batched(box, "loop"), min(seconds for _, seconds in each)
    return Measured(looped, "loop", alone, (twice, _asked(box)), (note,), seconds_a_row=spent)


def _timed(box: BlackBox, rows: Tensor) -> tuple[Tensor, float]:
    started = time.perf_counter()
    answer: Tensor = box(rows)
    return answer, time.perf_counter() - started


def _seconds_a_row(together: float, alone: float, rows: int, most_rows: int | None) -> float:
    """Of full questions, from one of few rows and one of a single row: each row has a part, and each question."""
    each = max(0.0, together - alone) / (rows - 1)
    return each + max(0.0, alone - each) / (most_rows or rows)


def _asked(box: BlackBox) -> str:
    return f"asked {box.asked} rows to open it"


@dataclass(frozen=True)
class Moved:
    """How far answers are from those of another day."""

    share: float
    """Of the largest score."""
    labels: int
    """Rows of which the most probable class is another."""
    rows: int

    def __str__(self) -> str:
        other = f", and the class of {self.labels} of {self.rows} rows is another" if self.labels else ""
        return f"by {self.share:.1%} of the largest score{other}"


def moved_since(before: Tensor, now: Tensor) -> Moved | None:
    """Whether answers (R, K) to the same rows are others than before; None if they are the same up to rounding."""
    if before.shape != now.shape:
        return Moved(1.0, len(before), len(before))
    share = deviation(now, before)
    if share <= MOVED:
        return None
    return Moved(share, int((before.argmax(dim=1) != now.argmax(dim=1)).sum()), len(before))


def _as_said(teacher: Classifier, logits: Tensor) -> Tensor:
    """Logits (..., K) in terms of what was answered: a small difference of probabilities may be a large one of logs."""
    if teacher.output_kind == "probs":
        return logits.softmax(dim=-1)
    return logits.sigmoid() if teacher.output_kind == "sigmoid" else logits


def asked_again(teacher: Classifier, hardware: Hardware) -> Tensor | None:
    """What a black box now says to the rows of its check, logits (R, K); None of any other teacher."""
    return None if teacher.answers is None else _asked_of(teacher, hardware, len(teacher.answers))


def _asked_of(teacher: Classifier, hardware: Hardware, rows: int) -> Tensor:
    """The answers, logits (R, K), to so many rows of the check."""
    with torch.no_grad():
        return teacher(hardware.place_rows(probe_rows(teacher.spec.shape, rows))).cpu()


def still_the_same(
    teacher: Classifier, hardware: Hardware, begun: Tensor, now: Tensor | None, reporter: Reporter, *, bank: Path
) -> Classifier:
    """Refuses to go on where an endpoint says something else than when a bank was begun.

    Args:
        teacher: that is asked.
        hardware: the device.
        begun: its logits (R, K) to the rows of the check when the bank was begun, which were the same twice.
        now: those of now; None where it turned out to be noisy.
        reporter: told if it is.
        bank: for the message.

    Returns:
        The teacher; one that looks no more if its answers turn out to be noisy, by `LOOKS` of them.

    Raises:
        RunError: with how far they have moved.
    """
    if now is None and teacher.noise is None:
        return teacher
    known = _as_said(teacher, begun)
    moved = None if now is None else moved_since(known, _as_said(teacher, now))
    if now is not None and moved is None:
        return teacher
    looks = [now] if now is not None else []
    looks += [_asked_of(teacher, hardware, len(begun)) for _ in range(LOOKS - len(looks))]
    if all(look.shape == begun.shape for look in looks):
        answers = _as_said(teacher, torch.stack(looks))
        if _is_noise(known, answers):
            if teacher.noise is None:
                told = f"{teacher.name} answers the same question otherwise now and then, so labels are noisy"
                reporter.warn(told)
            return replace(teacher, answers=None)
        moved = moved_since(known, answers.mean(dim=0))
    raise RunError(
        f"{teacher.name} answers otherwise than when the bank {bank} was begun: {moved or Moved(1.0, 0, len(begun))}",
        "bring back the model that answered then, and `cake resume`; or begin anew with another --out",
    )


def _is_noise(known: Tensor, answers: Tensor) -> bool:
    """Whether answers differ by chance from what they were, rather than with the model.

    Args:
        known: what was answered once, (R, K).
        answers: what is answered now, (L, R, K).
    """
    mean = answers.mean(dim=0)
    spread = max(deviation(answer, mean) for answer in answers)
    near = deviation(mean, known) <= max(MOVED, NOISE * spread / len(answers) ** 0.5)
    same = (answers.argmax(dim=2) == known.argmax(dim=1)).float().mean()
    return near and bool(same >= 0.5)
