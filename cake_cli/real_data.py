"""Real data that a student learns from: Hinton's distillation, and the end of data-freeness. It never selects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from cake_cli.config import Config
from cake_cli.data import HeldOut, open_heldout, read_class_map, training_split, what_is_read
from cake_cli.distillation.pool import Part
from cake_cli.distillation.shelf import Shelf
from cake_cli.errors import DataError, RunError, UsageError
from cake_cli.events import Reporter
from cake_cli.hardware import Hardware
from cake_cli.models.classifier import Classifier

AT_ONCE = 1000
"""Samples that go through the teacher together, at most."""


def open_real(config: Config, teacher: Classifier) -> HeldOut:
    """Opens the data of `--real-data`, whose training split is taken where there is one.

    Raises:
        UsageError: if they are what the student is to be measured on.
        DataError: if they are missing, damaged, do not fit the teacher, or are all for measuring.
    """
    settings, data = config.training, config.evaluation
    source = settings.real_data or ""
    split = settings.real_split or training_split(source)
    if data.data is not None and what_is_read(source, split) == what_is_read(data.data, data.split):
        raise UsageError(
            f"the student would be measured on {data.data}, which it learns from",
            "--data with other data, or --split with another split",
        )
    return open_heldout(
        source,
        teacher.spec,
        teacher.classes,
        split=split,
        label_column=settings.real_label_column,
        class_map=read_class_map(data.class_map),
        strict=data.strict,
        data_root=None if data.data_root is None else Path(data.data_root),
        download=data.download,
        class_names=teacher.class_names,
    )


def label(
    data: HeldOut, teacher: Classifier, hardware: Hardware, shelf: Shelf, reporter: Reporter, *, at_once: int
) -> None:
    """Puts real samples, with the teacher's logits and their true labels, on the disk for the length of the run.

    Args:
        data: the samples.
        teacher: on the device.
        hardware: the device.
        shelf: where they are put, or lie already.
        reporter: told of the course.
        at_once: samples that go through the teacher together.

    Raises:
        RunError: if the teacher's outputs are not finite.
        DataError: if the data are damaged, or none can be read.
        EnvironmentFault: if the disk is full.
    """
    if shelf.is_whole:
        return
    told = set(data.notes)
    with reporter.stage("labelling", data.samples, "real samples") as stage:

        def answered() -> Iterator[Part]:
            for rows, labels in data.batches(min(AT_ONCE, at_once)):
                yield Part(rows, _answers(teacher, hardware, rows), labels)
                stage.advance(len(rows))

        shelf.fill(answered())
        stage.conclude(f"{data.samples:,} real samples labelled by the teacher")
    for note in data.notes:
        if note not in told:
            reporter.warn(note)
    if sum(len(part.inputs) for part in shelf.parts(teacher.spec.shape, teacher.classes)) < 2:
        raise DataError(f"{data.name} has fewer than two samples to learn from", "--real-data with more")


def _answers(teacher: Classifier, hardware: Hardware, rows: Tensor) -> Tensor:
    """The teacher's logits (N, K) of rows (N, *shape), on the CPU."""
    with torch.no_grad():
        logits = teacher(hardware.place_rows(rows)).float().cpu()
    bad = int((~logits.isfinite().all(dim=1)).sum())
    if bad:
        raise RunError(
            f"the teacher's outputs are not finite for {bad} of {len(rows)} real samples",
            "check --mean, --std and --input-range",
        )
    return logits
