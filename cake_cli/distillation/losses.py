"""What a student minimises against its teacher, and against true labels where there are any.

Every loss maps the student's logits (N, K) and the teacher's (N, K) to one value a sample, (N,); the trainer
takes their mean. Labels are never smoothed: the teacher's probabilities are the smoothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from cake_cli.config import Labels, LossName

Loss = Callable[[Tensor, Tensor], Tensor]
"""(student's logits (N, K), teacher's logits (N, K)) to losses (N,)."""


def soft_cross_entropy(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Cross-entropy to the teacher's softened probabilities, times temperature².

    At temperature 1 this is the student's loss of the CAKE paper (Section 3); the square keeps the
    gradient's scale (Hinton, Vinyals, Dean 2015, Section 2).

    Args:
        student: logits (N, K).
        teacher: logits (N, K).
        temperature: divides both.

    Returns:
        Losses (N,).
    """
    soft_labels = (teacher / temperature).softmax(dim=1)
    return F.cross_entropy(student / temperature, soft_labels, reduction="none") * temperature**2


def kl_divergence(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL from the teacher's softened probabilities to the student's, times temperature².

    Less the teacher's entropy it is `soft_cross_entropy`: the same gradient, and 0 where both agree.
    Arguments and result are the same.
    """
    target = (teacher / temperature).log_softmax(dim=1)
    found = (student / temperature).log_softmax(dim=1)
    return F.kl_div(found, target, reduction="none", log_target=True).sum(dim=1) * temperature**2  # (N, K) -> (N,)


def logit_matching(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the mean over classes of the squared difference of logits.

    Ba and Caruana 2014, equation 1, with the mean over classes for their sum, which makes it what
    `kl_divergence` of centred logits comes to at high temperature (Hinton, Vinyals, Dean 2015, Section 2.1):
    one learning rate serves both.

    Args:
        student: logits (N, K).
        teacher: logits (N, K).

    Returns:
        Losses (N,).
    """
    return (student - teacher).square().mean(dim=1) / 2  # (N, K) -> (N,)


def hard_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy to the teacher's most probable class: losses (N,) of logits (N, K) and (N, K)."""
    return F.cross_entropy(student, teacher.argmax(dim=1), reduction="none")


def distillation_loss(labels: Labels, temperature: float, loss: LossName = "ce") -> Loss:
    """The loss against the teacher for a kind of labels."""
    if labels == "hard":
        return hard_cross_entropy
    if loss == "logits":
        return logit_matching
    soft = kl_divergence if loss == "kl" else soft_cross_entropy
    return lambda student, teacher: soft(student, teacher, temperature=temperature)


def class_weights(counts: Tensor, power: float) -> Tensor:
    """What a sample of each class counts for in the loss: its class's share to the power of -`power`.

    Inverse frequency where `power` is 1, and its root where it is 1/2; scaled to a mean of 1 over all samples.

    Args:
        counts: samples of each class, (K,).
        power: 0 for weights of 1.

    Returns:
        (K,) float32; a class without samples, which only a view can have, counts as the rarest of the others.
    """
    rarest = counts[counts > 0].min()
    weights = torch.where(counts > 0, (counts.double().clamp_min(1) / rarest) ** -power, 1.0)
    return (weights * (counts.sum() / (weights * counts).sum())).float()


def with_true_labels(soft: Tensor, student: Tensor, labels: Tensor, hard_weight: float) -> Tensor:
    """Hinton's distillation: lambda · hard(f_S(x), y) + (1 - lambda) · soft(f_S(x), f_T(x)), sample by sample.

    Hinton, Vinyals, Dean 2015, Section 2. Synthetic samples have no true label, and only the soft part.

    Args:
        soft: losses against the teacher (N,).
        student: logits (N, K).
        labels: true classes (N,) int64, -1 where there is none.
        hard_weight: lambda, in [0, 1].

    Returns:
        Losses (N,).
    """
    hard = F.cross_entropy(student, labels.clamp_min(0), reduction="none")
    return torch.where(labels >= 0, hard_weight * hard + (1 - hard_weight) * soft, soft)
