"""Support vector machines whose scores are of pairs of classes, brought to one score a class."""

from __future__ import annotations

from itertools import combinations

import torch
from onnx import ModelProto
from torch import Tensor, nn

from cake_cli.models.onnx.interpreter.operators.support_vectors import votes
from cake_cli.models.onnx.preparation.tail import LAYOUT


class ByClass(nn.Module):
    """Scores of pairs to one score a class; where votes are not tied, the greatest is the file's own label.

    For two classes the file gives the score of the pair negated, and as it is: they change places. For more,
    each class has the pairs that it wins, plus its summed scores squeezed into less than half a vote, as
    scikit-learn's one-versus-rest decision function has it.

    Args:
        classes: K.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, scores: Tensor) -> Tensor:
        """(N, 2) to (N, 2), or (N, K (K - 1) / 2) to (N, K)."""
        if self.classes == 2:
            return scores.flip(1)
        sums = [torch.zeros_like(scores[:, 0])] * self.classes
        for place, (i, j) in enumerate(combinations(range(self.classes), 2)):
            sums[i] = sums[i] + scores[:, place]
            sums[j] = sums[j] - scores[:, place]
        confidence = torch.stack(sums, 1)  # (N, K)
        return votes(scores, self.classes) + confidence / (3 * (confidence.abs() + 1))


def scores_of_pairs(model: ModelProto) -> ByClass | None:
    """What brings the output of a graph to one score a class; None where it has them already.

    Args:
        model: with one output, its softmax taken off.
    """
    makers = {name: node for node in model.graph.node for name in node.output if name}
    name = model.graph.output[0].name
    node = makers.get(name)
    while node is not None and node.op_type in LAYOUT and not node.domain:
        name = node.input[0]
        node = makers.get(name)
    if node is None or (node.domain, node.op_type) != ("ai.onnx.ml", "SVMClassifier") or name != node.output[1]:
        return None
    fields = {attribute.name: attribute for attribute in node.attribute}
    if "vectors_per_class" not in fields or ("prob_a" in fields and fields["prob_a"].floats):
        return None
    return ByClass(len(fields["vectors_per_class"].ints))
