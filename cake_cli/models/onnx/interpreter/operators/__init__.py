"""The torch counterparts of ONNX operators, one module a theme."""

from cake_cli.models.onnx.interpreter.operators import (
    activation,
    arithmetic,
    attention,
    control,
    convolution,
    fused_attention,
    indexing,
    layout,
    learning,
    linear,
    making,
    microsoft,
    normalization,
    pooling,
    recurrent,
    reduction,
    sampling,
    support_vectors,
)
from cake_cli.models.onnx.interpreter.table import Operator

OPERATORS: dict[tuple[str, str], Operator] = {}
"""(domain, operator) to its torch counterpart."""

for theme in (
    activation,
    arithmetic,
    attention,
    control,
    convolution,
    fused_attention,
    indexing,
    layout,
    learning,
    linear,
    making,
    microsoft,
    normalization,
    pooling,
    recurrent,
    reduction,
    sampling,
    support_vectors,
):
    OPERATORS.update(theme.TABLE)
