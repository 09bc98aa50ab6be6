"""Support vector machines of `ai.onnx.ml`, as libsvm computes them (Chang & Lin 2011)."""

from __future__ import annotations

from itertools import combinations, pairwise

import torch
from torch import Tensor

from cake_cli.models.onnx.interpreter.node import Node, UnsupportedOperator
from cake_cli.models.onnx.interpreter.operators.learning import class_count, floats, transformed
from cake_cli.models.onnx.interpreter.table import Table

TABLE = Table("ai.onnx.ml")

LEAST = 1e-7
"""Pairwise probabilities stay this far from zero and one."""
MOST_ROUNDS = 100
ACCURACY = 0.005
"""Of the coupled probabilities, times the number of classes: where libsvm stops."""


@TABLE.add("SVMClassifier", weights=("support_vectors", "coefficients", "rho", "prob_a", "prob_b"))
def _svm_classifier(
    node: Node,
    x: Tensor,
    vectors: Tensor | None,
    coefficients: Tensor,
    rho: Tensor,
    prob_a: Tensor | None,
    prob_b: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Labels (N,), as places in the list of classes, and scores.

    Scores are (N, K) with probabilities or without support vectors; otherwise one for each pair of classes,
    (N, K (K - 1) / 2), positive for the first of the pair, but for two classes (N, 2): that score negated, and it.
    """
    x = floats(x).reshape(x.shape[0], -1)
    classes = class_count(node)
    counts = [int(count) for count in node.get("vectors_per_class", ())]
    if vectors is None or not sum(counts):
        scores = x @ coefficients.reshape(classes, -1).mT + rho[0]
        return scores.argmax(1), transformed(node, scores)
    if len(counts) != classes or classes < 2:
        raise UnsupportedOperator(f"{node.title} of {classes} classes with vectors of {len(counts)}")
    decisions = _decisions(_kernel(node, x, vectors.reshape(sum(counts), -1)), coefficients, counts) + rho  # (N, P)
    label = votes(decisions, classes).argmax(1)
    if prob_a is not None and prob_b is not None:
        return label, transformed(node, _coupled(torch.sigmoid(-(decisions * prob_a + prob_b)), classes))
    if classes == 2:
        decisions = torch.cat([-decisions, decisions], 1)
    return label, transformed(node, decisions)


def _kernel(node: Node, x: Tensor, vectors: Tensor) -> Tensor:
    """Rows (N, D) and support vectors (V, D) to (N, V)."""
    kind = node.text("kernel_type", "LINEAR").upper()
    gamma, shift, degree = (*node.get("kernel_params", ()), 0.0, 0.0, 0.0)[:3]
    if kind == "RBF":
        middle = vectors.mean(0)  # distances lose fewer digits around zero
        x, vectors = x - middle, vectors - middle
        distances = x.square().sum(1, keepdim=True) - 2 * x @ vectors.mT + vectors.square().sum(1)
        return torch.exp(-gamma * distances.clamp_min(0))
    products = x @ vectors.mT
    if kind == "POLY":
        return torch.pow(gamma * products + shift, int(degree))
    return torch.tanh(gamma * products + shift) if kind == "SIGMOID" else products


def _decisions(kernel: Tensor, coefficients: Tensor, counts: list[int]) -> Tensor:
    """One score for each pair of classes i < j: the vectors of i with the weights against j, and those of j against i.

    Args:
        kernel: (N, V).
        coefficients: ((K - 1) V,).
        counts: how many of the V vectors are of each class.

    Returns:
        (N, K (K - 1) / 2)
    """
    weights = coefficients.reshape(len(counts) - 1, -1)  # (K - 1, V)
    ends = [sum(counts[:index]) for index in range(len(counts) + 1)]
    parts = [kernel[:, start:end] @ weights[:, start:end].mT for start, end in pairwise(ends)]  # K times (N, K - 1)
    pairs = combinations(range(len(counts)), 2)
    return torch.stack([parts[i][:, j - 1] + parts[j][:, i] for i, j in pairs], 1)


def votes(decisions: Tensor, classes: int) -> Tensor:
    """How many pairs each class wins: (N, K (K - 1) / 2) to (N, K)."""
    won = torch.zeros(len(decisions), classes, dtype=decisions.dtype, device=decisions.device)
    for place, (i, j) in enumerate(combinations(range(classes), 2)):
        first = (decisions[:, place] > 0).to(decisions.dtype)
        won = won + torch.stack([first if k == i else 1 - first if k == j else 0 * first for k in range(classes)], 1)
    return won


def _coupled(pairwise_probabilities: Tensor, classes: int) -> Tensor:
    """Probabilities (N, K) that fit those of all pairs (N, K (K - 1) / 2) best.

    Wu, Lin & Weng 2004, second method: the steps of its Algorithm 2, each row until it is accurate enough.
    """
    r = [[torch.zeros(())] * classes for _ in range(classes)]
    for place, (i, j) in enumerate(combinations(range(classes), 2)):
        r[i][j] = pairwise_probabilities[:, place].clamp(LEAST, 1 - LEAST)
        r[j][i] = 1 - r[i][j]
    q = torch.stack(
        [
            torch.stack(
                [
                    sum((r[other][i].square() for other in range(classes) if other != i), torch.zeros(()))
                    if i == j
                    else -r[j][i] * r[i][j]
                    for j in range(classes)
                ],
                1,
            )
            for i in range(classes)
        ],
        1,
    )  # (N, K, K)
    p = torch.full_like(q[:, 0], 1 / classes)  # (N, K)
    for _ in range(max(MOST_ROUNDS, classes)):
        qp = (q @ p[:, :, None])[:, :, 0]
        pqp = (p * qp).sum(1)
        open_rows = (qp - pqp[:, None]).abs().amax(1) >= ACCURACY / classes
        if not bool(open_rows.any()):
            break
        step = p
        for t in range(classes):
            diff = (pqp - qp[:, t]) / q[:, t, t]
            pqp = (pqp + diff * (diff * q[:, t, t] + 2 * qp[:, t])) / (1 + diff).square()
            qp = (qp + diff[:, None] * q[:, t]) / (1 + diff)[:, None]
            raised = torch.cat([step[:, :t], step[:, t : t + 1] + diff[:, None], step[:, t + 1 :]], 1)
            step = raised / (1 + diff)[:, None]
        p = torch.where(open_rows[:, None], step, p)
    return p
