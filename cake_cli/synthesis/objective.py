"""The CAKE objective, a number for each sample.

Braun, Mundt, Kersting, "Deep Classifier Mimicry without Data Access" (AISTATS 2024), Section 3. The paper's
terms are means over a set; here they are sums over samples, so that neither the size of a set nor the
number of sets side by side changes what happens to one sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import functional as F

from cake_cli.spec import InputSpec
from cake_cli.synthesis.priors import Prior, TotalVariation


@dataclass(frozen=True)
class Candidates:
    """The samples of one step, and what the teacher says of them."""

    inputs: Tensor
    """(N, *shape), normalised."""
    logits: Tensor
    """(N, K), float32."""
    targets: Tensor
    """(N,), the labels to reach."""
    groups: int
    """G: consecutive samples that form a row of distinct targets; N is a multiple of it."""


Term = Callable[[Candidates], Tensor]
"""One number for each sample, (N,), of which the sum over samples is minimised."""


def classification(candidates: Candidates) -> Tensor:
    """Cross-entropy of each sample to its target, (N,)."""
    return F.cross_entropy(candidates.logits, candidates.targets, reduction="none")


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
class Objective:
    """A weighted sum of terms in the teacher's logits and of priors on the inputs."""

    terms: Mapping[str, tuple[float, Term]]
    """Name to weight and term."""
    priors: Mapping[str, tuple[float, Prior]] = field(default_factory=dict)
    """Name to weight and data prior."""

    def of_logits(self, candidates: Candidates) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the weighted terms for each sample (N,), and the unweighted terms (N,) by name, detached."""
        values = {name: term(candidates) for name, (_, term) in self.terms.items()}
        total = candidates.logits.new_zeros(len(candidates.logits))
        for name, (weight, _) in self.terms.items():
            total = total + weight * values[name]
        return total, {name: value.detach() for name, value in values.items()}

    def __call__(self, candidates: Candidates) -> tuple[Tensor, dict[str, Tensor]]:
        """The whole objective of each sample (N,), priors included, and all unweighted parts (N,) by name."""
        total, values = self.of_logits(candidates)
        for name, (weight, prior) in self.priors.items():
            value = prior.value(candidates.inputs)
            total = total + weight * value
            values[name] = value.detach()
        return total, values


def cake_objective(spec: InputSpec, *, cls: float, contrastive: float, tv: float) -> Objective:
    """The objective of CAKE with the mean-squared contrastive loss; parts of weight zero are left out.

    Args:
        spec: the input; vectors have no total variation.
        cls: weight of the cross-entropy.
        contrastive: weight of the contrastive term.
        tv: weight of total variation.
    """
    terms: dict[str, tuple[float, Term]] = {"cls": (cls, classification), "contrastive": (contrastive, contrastive_mse)}
    return Objective(
        {name: entry for name, entry in terms.items() if entry[0] > 0},
        {"tv": (tv, TotalVariation())} if spec.is_image and tv > 0 else {},
    )


def reference_weights(*, contr: float, cls: float, tv: float, set_size: int, groups: int) -> tuple[float, float, float]:
    """The reference implementation's weights, which scale means over a set, as weights per sample.

    Args:
        contr: weight of ``½ · G² · mean over rows, ordered pairs and logits``.
        cls: weight of ``G · mean over the set of cross-entropy``.
        tv: weight of ``mean over the set and channels of total variation``.
        set_size: B.
        groups: G.

    Returns:
        (cls, contrastive, tv) for `cake_objective`, which give the same gradient.
    """
    return cls * groups / set_size, contr * groups**2 / set_size, tv / set_size
