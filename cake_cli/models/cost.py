"""What a model holds and costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cake_cli.models.counting import multiply_adds, stored_bytes
from cake_cli.models.formats import weights_file

if TYPE_CHECKING:
    from cake_cli.models.classifier import Classifier


@dataclass(frozen=True)
class Size:
    """What a network holds and costs."""

    parameters: int
    multiply_adds: int
    """Of one row's forward pass."""
    bytes: int
    """Of its file, or of its weights in one."""


def size_of(model: Classifier, path: Path) -> Size:
    """What an opened model holds and costs, while it is still on the CPU.

    The bytes are those of its file or of a folder's weights; where they lie in other files (an ONNX file with
    external data is less than half as large as its weights) or nowhere, those that its weights take.
    """
    path, stored, found = weights_file(path), stored_bytes(model.module), 0
    if path.is_dir():
        found = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    elif path.is_file():
        found = path.stat().st_size
    return Size(model.parameters, multiply_adds(model, model.spec.shape), found if 2 * found >= stored else stored)
