"""What a student minimises against its teacher."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from cake_cli.config import Labels

Loss = Callable[[Tensor, Tensor], Tensor]
"""(student's logits (N, K), teacher's logits (N, K)) to the mean loss, a scalar."""


def soft_cross_entropy(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Cross-entropy to the teacher's softened probabilities, mean over samples, times temperature².

    At temperature 1 this is the student's loss of the CAKE paper (Section 3); the square keeps the
    gradient's scale (Hinton, Vinyals, Dean 2015, Section 2).

    Args:
        student: logits (N, K).
        teacher: logits (N, K).
        temperature: divides both.
    """
    return F.cross_entropy(student / temperature, (teacher / temperature).softmax(dim=1)) * temperature**2


def hard_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy to the teacher's most probable class, mean over samples."""
    return F.cross_entropy(student, teacher.argmax(dim=1))


def distillation_loss(labels: Labels, temperature: float) -> Loss:
    """The loss for a kind of labels."""
    if labels == "hard":
        return hard_cross_entropy
    return lambda student, teacher: soft_cross_entropy(student, teacher, temperature=temperature)
