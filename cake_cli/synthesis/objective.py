"""The CAKE objective, a number for each sample.

Braun, Mundt, Kersting, "Deep Classifier Mimicry without Data Access" (AISTATS 2024), Section 3. The paper's
terms are means over a set; here they are sums over samples, so that neither the size of a set nor the
number of sets side by side changes what happens to one sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from cake_cli.spec import InputSpec
from cake_cli.synthesis.contrastive import contrastive_mse
from cake_cli.synthesis.disagreement import NAME, Disagreement
from cake_cli.synthesis.priors import Prior, TotalVariation
from cake_cli.synthesis.statistics import BatchNormStatistics
from cake_cli.synthesis.terms import Candidates, Term, classification, negative_entropy


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms in what the teacher says and of priors on the inputs."""

    terms: Mapping[str, tuple[float, Term]]
    """Name to weight and term."""
    priors: Mapping[str, tuple[float, Prior]] = field(default_factory=dict)
    """Name to weight and data prior."""
    whole_sets: bool = False
    """Whether a term looks beyond a row, so that a set must go through the teacher in one piece."""
    layers: tuple[nn.Module, ...] = ()
    """Layers of the teacher whose inputs a term needs (`Candidates.heard`). None in the strict contract."""

    @property
    def weights(self) -> dict[str, float]:
        """Name to weight of every part, for the record."""
        return {name: weight for parts in (self.terms, self.priors) for name, (weight, _) in parts.items()}

    @property
    def asks_student(self) -> bool:
        """Whether a student is asked in every step, beside the teacher."""
        return NAME in self.terms

    def against(self, student: Disagreement, weight: float) -> Objective:
        """The objective with a term that draws samples to where teacher and student differ; as it is at weight 0."""
        return replace(self, terms={**self.terms, NAME: (weight, student)}) if weight > 0 else self

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


def cake_objective(
    spec: InputSpec,
    *,
    cls: float,
    contrastive: float,
    tv: float,
    entropy: float = 0.0,
    contrast: Term = contrastive_mse,
    variation: Prior | None = None,
    priors: Mapping[str, tuple[float, Prior]] | None = None,
    statistics: tuple[float, BatchNormStatistics] | None = None,
) -> Objective:
    """The objective of CAKE; parts of weight zero are left out.

    Args:
        spec: the input; vectors have no total variation.
        cls: weight of the cross-entropy.
        contrastive: weight of the contrastive term.
        tv: weight of total variation.
        entropy: weight of minus the entropy of a set's mean prediction.
        contrast: the contrastive term; the paper's by default, and all others look at whole sets.
        variation: the total variation; anisotropic, as in the paper, by default.
        priors: name to weight and prior, beside total variation.
        statistics: weight and term of BatchNorm statistics, which leave the strict contract.
    """
    terms: dict[str, tuple[float, Term]] = {
        "cls": (cls, classification), "contrastive": (contrastive, contrast), "entropy": (entropy, negative_entropy),
    }  # fmt: skip
    if statistics is not None:
        terms["batchnorm"] = statistics
    smooth = {"tv": (tv, variation or TotalVariation())} if spec.is_image and tv > 0 else {}
    return Objective(
        terms={name: entry for name, entry in terms.items() if entry[0] > 0},
        priors={**smooth, **(priors or {})},
        whole_sets=statistics is not None or entropy > 0 or (contrastive > 0 and contrast is not contrastive_mse),
        layers=() if statistics is None else statistics[1].layers,
    )
