"""Which architectures a file of weights fits, and the command that says so."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import torch

from cake_cli.catalog import STUDENTS
from cake_cli.errors import UsageError
from cake_cli.models.architectures import LENET_SIZES, SMALL_IMAGE, build_student
from cake_cli.models.weights import torchvision
from cake_cli.models.weights.reading import Weights

Shapes = Mapping[str, tuple[int, ...]]
_NAMED_LAYERS = ("resnet1", "resnet3", "resnet5", "resnext", "wide_resnet")


@dataclass(frozen=True)
class Fit:
    """An architecture that weights fit."""

    architecture: str
    """What `--arch` takes."""
    origin: str
    """``torchvision`` or ``cake``."""
    classes: int
    input_shape: tuple[int | str, ...]
    """One row as far as the weights determine it; letters where they do not."""

    def flags(self) -> str:
        """``--arch resnet18 --input-shape 3,H,W``."""
        return f"--arch {self.architecture} --input-shape {','.join(map(str, self.input_shape))}"


def fitting(weights: Weights) -> list[Fit]:
    """Every architecture of torchvision and of our students whose keys and shapes are exactly the weights'."""
    shapes = weights.shapes()
    found = []
    for name in torchvision.fitting_names(shapes):
        image = (torchvision.vit_image(name, shapes),) * 2 if name.startswith("vit_") else ("H", "W")
        classes = shapes[torchvision.family_of(name).head][0]
        found.append(Fit(name, "torchvision", classes, (3, *image)))
    for name, shape, classes, shown in _candidates(shapes):
        if student_shapes(name, shape, classes) == dict(shapes) and name not in {fit.architecture for fit in found}:
            found.append(Fit(name, "cake", classes, shown))
    return found


@cache
def student_shapes(name: str, shape: tuple[int, ...], classes: int) -> Shapes | None:
    """The keys and shapes of one of our students; None where it does not take such an input."""
    try:
        with torch.device("meta"):
            state = build_student(name, shape, classes).state_dict()
    except UsageError:
        return None
    return {key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}


def _candidates(shapes: Shapes) -> Iterator[tuple[str, tuple[int, ...], int, tuple[int | str, ...]]]:
    """Students that the first and last weights allow: name, an input, classes, and what of the input is known."""
    named = {name: shape for name, shape in shapes.items() if len(shape) in (2, 4)}
    order = sorted(named, key=_natural)  # safetensors keeps no order of its own
    if not order:
        return
    matrices = [named[name] for name in order]
    first, last = named.get("conv1.weight", matrices[0]), named.get("fc.weight", matrices[-1])
    if len(last) != 2:
        return
    classes = last[0]
    if all(len(shape) == 2 for shape in matrices) and math.prod(first) > 0 and classes > 0:
        hidden = [shape[0] for shape in matrices[:-1]]
        name = f"mlp:{','.join(map(str, hidden))}" if hidden else "linear"
        yield name, (first[1],), classes, (first[1],)
    if len(first) != 4 or first[1] < 1 or classes < 1:
        return
    channels, small = first[1], first[-1] == 3
    numbered = all(name[0].isdigit() for name in shapes)  # our plain sequences; torchvision's ResNets name their layers
    for name in STUDENTS:
        if name in ("mlp", "linear") or numbered == name.startswith(_NAMED_LAYERS):
            continue
        sides: tuple[int, ...] = (SMALL_IMAGE // 2 if small else SMALL_IMAGE,)
        for side in (LENET_SIZES.start, 32) if name.startswith("lenet") else sides:
            yield name, (channels, side, side), classes, (channels, "H", "W")


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts ``10.weight`` behind ``3.weight``, as layers are numbered."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def command(weights: Weights, fits: list[Fit]) -> str:
    """What to type to open the weights as the first architecture that they fit."""
    flags = fits[0].flags() if fits else "--arch NAME --input-shape C,H,W"
    return f"cake distill {shlex.quote(str(weights.path))} {flags} --student cnn"
