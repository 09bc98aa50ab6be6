"""Contrastive terms: samples of *different* classes are drawn *together*, towards the boundary between them.

That is the reverse of contrastive representation learning, where samples of a class are drawn together. All three
look at the teacher's logits only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cake_cli.synthesis.terms import Candidates


def contrastive_mse(candidates: Candidates) -> Tensor:
    """Squared distance of each sample's logits to the mean of its row, averaged over logits: (N,).

    Summed over a row this is G times the variance, and the mean over all ordered pairs of a squared
    difference is twice the variance: the paper's pairwise term in O(G) instead of O(G²).
    """
    logits, groups = candidates.logits, candidates.groups
    rows = logits.reshape(-1, groups, logits.shape[1])  # (R, G, K)
    centred = rows - rows.mean(dim=1, keepdim=True)
    return centred.square().mean(dim=2).flatten()  # (R, G) -> (N,)


@dataclass(frozen=True)
class SoftNearestNeighbour:
    """The inverse soft nearest neighbour loss of a sample's set: small where classes are entangled.

    Frosst, Papernot, Hinton, "Analyzing and Improving Representations with the Soft Nearest Neighbor Loss" (ICML
    2019), Section 2, over the B samples of a set with squared distances D between their logits::

        l_i = -log( sum of exp(-D_ij / T) over j ≠ i of i's class / sum of exp(-D_ij / T) over j ≠ i )

    l is great where a sample's neighbours are of other classes. CAKE wants that, so 1 / l is minimised, l being the
    mean over the set: this form is the reference implementation's. A sample that is alone in its class counts for
    nothing there, and a set in which all are has the value 0.

    Attributes:
        temperature: T as a multiple of the mean of D over the pairs of the set, which is not differentiated. Logits
            differ by orders of magnitude from teacher to teacher, and with the reference's T = 1 the exponentials of
            most would all be 0 or 1.
    """

    temperature: float = 0.1

    def __call__(self, candidates: Candidates) -> Tensor:
        """1 / l of the set of each sample, (N,)."""
        size = candidates.own_set_size
        distances = _pair_distances(candidates.logits, size)  # (S, B, B)
        same, other = _pairs(candidates.targets, size)
        scale = distances.detach().sum(dim=(1, 2), keepdim=True) / max(1, size * (size - 1))  # (S, 1, 1)
        nearness = -distances / (self.temperature * scale).clamp_min(1e-12)
        counted = same.any(dim=2) & other.any(dim=2)  # (S, B)
        each = F.softplus(_log_sum(nearness, other) - _log_sum(nearness, same))  # l_i, (S, B)
        members = counted.sum(dim=1)  # (S,)
        mean = torch.where(counted, each, 0.0).sum(dim=1) / members.clamp_min(1)
        inverse = 1 / torch.where(members > 0, mean, 1.0).clamp_min(1e-6)
        return torch.where(members > 0, inverse, 0.0).repeat_interleave(size, output_size=same.shape[0] * size)


@dataclass(frozen=True)
class Triplet:
    """A triplet margin loss with the roles that CAKE gives them.

    Schroff, Kalenichenko, Philbin, "FaceNet" (CVPR 2015), Section 3.1, averaged over all triplets of an anchor before
    the hinge. The anchor i is to be nearer to its row, whose samples all have other classes, than to the samples of
    its own class in the other rows of its set::

        max(0, mean of D_ij over j in i's row - mean of D_ip over p of i's class + margin)

    D is the squared distance of logits, averaged over logits as in `contrastive_mse`. So rows are drawn together across
    the boundary, and samples of a class are dispersed along it, until the margin is reached. A sample that is alone
    in its class has no triplet and the value 0.

    Attributes:
        margin: in squared logits.
    """

    margin: float = 1.0

    def __call__(self, candidates: Candidates) -> Tensor:
        """The hinge of each sample, (N,)."""
        logits, groups, size = candidates.logits, candidates.groups, candidates.own_set_size
        to_row = _pair_distances(logits, groups).sum(dim=2).flatten() / (groups - 1)  # (R, G) -> (N,)
        same, _ = _pairs(candidates.targets, size)
        members = same.sum(dim=2).flatten()  # (S, B) -> (N,)
        to_class = (_pair_distances(logits, size) * same).sum(dim=2).flatten() / members.clamp_min(1)
        hinge = ((to_row - to_class) / logits.shape[1] + self.margin).clamp_min(0)
        return torch.where(members > 0, hinge, 0.0)


def _pair_distances(logits: Tensor, size: int) -> Tensor:
    """Squared distances (P, size, size) within consecutive parts of `size` rows of (N, K)."""
    parts = logits.reshape(-1, size, logits.shape[1])  # (P, size, K)
    parts = parts - parts.detach().mean(dim=1, keepdim=True)  # smaller numbers, less cancellation
    squares = parts.square().sum(dim=2)  # (P, size)
    products = parts @ parts.transpose(1, 2)  # (P, size, size)
    return (squares.unsqueeze(2) + squares.unsqueeze(1) - 2 * products).clamp_min(0)


def _pairs(targets: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Which pairs of a set are of one class and which of two, (S, B, B) each; nothing pairs with itself."""
    sets = targets.reshape(-1, size)  # (S, B)
    equal = sets.unsqueeze(2) == sets.unsqueeze(1)
    alone = torch.eye(size, dtype=torch.bool, device=targets.device)
    return equal & ~alone, ~equal


def _log_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Logarithm of the sum of exponentials of values (S, B, B) where a mask is true, (S, B).

    Where it is true nowhere the result is a finite number far below all others, so that gradients stay finite.
    """
    return values.masked_fill(~mask, -1e9).logsumexp(dim=2)
