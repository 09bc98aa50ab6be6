"""How the weights of the reference implementation are written here."""

from __future__ import annotations


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
