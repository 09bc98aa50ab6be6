"""Outputs that have the shape of scores and are none: embeddings, regressions, other tasks."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from cake_cli.config import Outputs, TeacherConfig
from cake_cli.errors import ModelFileError, UsageError
from cake_cli.models.labels import ultralytics_task
from cake_cli.models.opened import OpenedModel, OutputKind

_EMBEDDING = re.compile(r"embed|descriptor|feature", re.IGNORECASE)
LEAST_LENGTH = 8
"""Outputs of this many numbers or more are looked at as vectors."""
UNIT = 1e-3


def refuse_other_tasks(metadata: Mapping[str, str]) -> None:
    """Refuses a file that says of itself what else it is.

    Args:
        metadata: texts that it carries, by key.

    Raises:
        ModelFileError: for a detector, a segmentation or a pose model of Ultralytics.
    """
    task = ultralytics_task(metadata)
    if task not in (None, "classify"):
        raise ModelFileError(
            f"the file says that its task is {task!r}, not to classify",
            "give a classifier: one of the yolo -cls models",
        )


def refuse_other_values(outputs: Tensor, stated: Outputs) -> None:
    """Refuses outputs whose values cannot be what the user says they are.

    Args:
        outputs: (3, K), what came out for three random rows.
        stated: the user's ``--outputs``.

    Raises:
        UsageError: for probabilities outside 0 to 1, and logarithms of them above 0.
    """
    low, high = float(outputs.min()), float(outputs.max())
    if (stated == "probs" and (low < -UNIT or high > 1 + UNIT)) or (stated == "log-probs" and high > UNIT):
        single = "; --classes 2, if it is the logit of two classes" if outputs.shape[1] == 1 else ""
        raise UsageError(
            f"--outputs {stated} is not what the model returns: {low:.3g} to {high:.3g} on random inputs",
            "leave --outputs out" + single,
        )


def refuse_no_scores(opened: OpenedModel, outputs: Tensor, kind: OutputKind, settings: TeacherConfig) -> None:
    """Refuses outputs that are not scores of classes, unless the user says that they are.

    Args:
        opened: the model.
        outputs: (3, K), what came out for three random rows.
        kind: what the file ends in.
        settings: `classes` or `outputs` say that these are scores.

    Raises:
        ModelFileError: for one number that is no probability, for vectors of unit length, and for outputs that
            are named embeddings.
    """
    if settings.classes is not None or settings.outputs != "auto" or kind != "logits":
        return
    count = outputs.shape[1]
    if count == 1:
        low, high = float(outputs.min()), float(outputs.max())
        ways = "--classes 2, if it is the logit of the second of two classes"
        if low >= 0 and high <= 1:
            ways = "--outputs probs, if it is the probability of the second of two classes; --classes 2, if its logit"
        elif low >= 0 and bool((outputs == outputs.round()).all()):
            ways = f"--outputs labels --classes K, if it is the number of the class from 0; {ways}"
        raise ModelFileError(
            f"the model returns one number a row ({low:.3g} to {high:.3g} on random inputs) and shows no sigmoid: "
            "a regression, or a binary classifier",
            ways,
        )
    name = opened.facts.get("scores", "")
    if _EMBEDDING.search(name):
        raise ModelFileError(
            f"the output is named {name!r}: an embedding of {count} numbers, not scores of classes",
            f"give the model with its last layer; or --classes {count}, if these are scores",
        )
    lengths = outputs.norm(dim=1)
    if count >= LEAST_LENGTH and bool(((lengths - 1).abs() < UNIT).all()) and bool((outputs < 0).any()):
        raise ModelFileError(
            f"every output is a vector of length 1: an embedding of {count} numbers, not scores of classes",
            f"give the model with its last layer; or --classes {count}, if these are scores",
        )
