"""Samples of several files, by position."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from cake_cli.distillation.pool import Part, Pool


def test_classes_are_counted_of_what_is_chosen_alone() -> None:
    def part(*classes: int) -> Part:
        chosen = torch.tensor(classes)
        return Part(torch.zeros(len(classes), 2), F.one_hot(chosen, 4).float())

    parts = (part(0, 0, 3), part(1), part(3, 3, 0, 2))
    assert Pool(parts, torch.arange(8)).class_counts().tolist() == [3, 1, 1, 3]
    assert Pool(parts, torch.tensor([0, 2, 5, 6])).class_counts().tolist() == [2, 0, 0, 2]
