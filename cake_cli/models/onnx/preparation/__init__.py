"""Small named passes that bring an ONNX model into the plain form that converters expect.

A pass changes the model it is given (a working copy) and returns a short sentence if it mended
something that the user may want to know of, else None.
"""

from __future__ import annotations

from collections.abc import Callable

from onnx import ModelProto

from cake_cli.models.onnx.preparation.bypass import bypass_dropout, bypass_identity, bypass_zipmap
from cake_cli.models.onnx.preparation.floats import widen_floats
from cake_cli.models.onnx.preparation.functions import inline_functions
from cake_cli.models.onnx.preparation.order import sort_nodes
from cake_cli.models.onnx.preparation.sigmoids import read_sigmoids
from cake_cli.models.onnx.preparation.spelling import (
    drop_listed_initializers,
    name_nodes,
    raise_ir_version,
    spell_main_domain,
)
from cake_cli.models.onnx.preparation.strides import read_flat_gathers

Pass = Callable[[ModelProto], str | None]

PASSES: tuple[Pass, ...] = (
    spell_main_domain,
    raise_ir_version,
    drop_listed_initializers,
    inline_functions,
    sort_nodes,
    name_nodes,
    bypass_zipmap,
    bypass_dropout,
    bypass_identity,
    read_flat_gathers,
)
"""Before the input and the output are chosen."""

LATER_PASSES: tuple[Pass, ...] = (widen_floats, read_sigmoids)
"""After the model has been cut down to what the chosen output needs."""


def prepare(model: ModelProto, passes: tuple[Pass, ...]) -> list[str]:
    """Runs passes in order and returns what they mended.

    Raises:
        ModelFileError: if the graph has a cycle, or functions that never end.
    """
    return [mend for run in passes if (mend := run(model)) is not None]


__all__ = ["LATER_PASSES", "PASSES", "Pass", "prepare"]
