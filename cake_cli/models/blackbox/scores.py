"""From what a black box says to logits."""

from __future__ import annotations

from torch import Tensor, nn

from cake_cli.config import Outputs
from cake_cli.models.blackbox.box import BlackBox
from cake_cli.models.classifier import HardLabels, LogitOf, LogOf, TwoClasses
from cake_cli.models.opened import OutputKind

FLOOR = 1e-6
"""Probabilities below are taken for it: those of trees and of short JSON numbers are often exactly 0."""
NEAR_ONE = 0.02
"""How far from 1 the sum of probabilities may be that were rounded on their way."""


def kind_of(box: nn.Module, outputs: Tensor, stated: Outputs) -> OutputKind:
    """What answers are: as the user says, as they say themselves, or as they look.

    Args:
        box: that gave them.
        outputs: (3, K).
        stated: the user's ``--outputs``.
    """
    said = box.kind if isinstance(box, BlackBox) else None
    if said == "labels":
        return "labels"
    if stated != "auto" and stated != "labels":  # noqa: PLR1714  # so that mypy sees it
        return stated
    if said is not None and said != "sigmoid":
        return said
    inside = bool(((outputs >= 0) & (outputs <= 1)).all())
    sums_to_one = bool(((outputs.sum(dim=1) - 1).abs() < NEAR_ONE).all())
    if outputs.shape[1] > 1 and inside and sums_to_one:
        return "probs"
    return said or "logits"


def to_logits(kind: OutputKind, columns: int, *, hard: bool = False) -> list[nn.Module]:
    """What turns answers (N, columns) of a kind into logits (N, K), or into those of hard labels."""
    after: list[nn.Module] = []
    if kind == "sigmoid" or (kind == "probs" and columns == 1):
        after.append(LogitOf(FLOOR))
    elif kind == "probs":
        after.append(LogOf(FLOOR))
    if columns == 1:
        after.append(TwoClasses())
    return [*after, HardLabels()] if hard and kind != "labels" else after
