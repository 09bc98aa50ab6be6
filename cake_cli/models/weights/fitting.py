"""Which architectures a file of weights fits, and the command that says so."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

from torch import nn

from cake_cli.catalog import usual_student
from cake_cli.errors import UsageError
from cake_cli.models.architectures import LENET_SIZES, SMALL_IMAGE, build_student
from cake_cli.models.architectures.plain import LENET_WIDTHS
from cake_cli.models.weightless import Weightless
from cake_cli.models.weights import torchvision
from cake_cli.models.weights.likeness import looks_like
from cake_cli.models.weights.reading import Weights
from cake_cli.models.weights.spellings import respelled, spellings
from cake_cli.models.weights.timm_table import timm_names
from cake_cli.text import as_argument

Shapes = Mapping[str, tuple[int, ...]]
SHOWN = 8


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
    spelling: str = ""
    """How the names have to be read for it, in words; empty where they are as they should be."""

    def flags(self) -> str:
        """``--arch resnet18 --input-shape 3,H,W``."""
        return f"--arch {self.architecture} --input-shape {','.join(map(str, self.input_shape))}"


def fitting(weights: Weights) -> list[Fit]:
    """Every architecture whose keys and shapes are exactly the weights'.

    Those of torchvision, or else our students; in other spellings of the names where none fits; those of timm
    where still none does, for timm has most of torchvision's networks too.
    """
    shapes = weights.shapes()
    for spelling, names in spellings(shapes):
        read = respelled(shapes, names)
        found = [replace(fit, spelling=spelling) for fit in _fitting(read)]
        found = found or [
            Fit(f"timm:{name}", "timm", classes, (channels, "H", "W"), spelling)
            for name, classes, channels in timm_names(read)
        ]
        if found:
            return found
    return []


def in_spelling_of(architecture: str, weights: Weights) -> Weights:
    """The weights under the names that an architecture has for them, where they fit it under others."""
    fit = next((fit for fit in fitting(weights) if fit.architecture == architecture), None)
    if fit is None or not fit.spelling:
        return weights
    names = dict(spellings(weights.tensors))[fit.spelling]
    return replace(weights, tensors=respelled(weights.tensors, names), mends=(*weights.mends, fit.spelling))


def _fitting(shapes: Shapes) -> list[Fit]:
    found = []
    for name in torchvision.fitting_names(shapes):
        image = (torchvision.vit_image(name, shapes),) * 2 if name.startswith("vit_") else ("H", "W")
        classes = shapes[torchvision.family_of(name).head][0]
        found.append(Fit(name, "torchvision", classes, (3, *image)))
    if found:
        return found
    for name, shape, classes, shown in _candidates(shapes):
        if student_shapes(name, shape, classes) == dict(shapes) and name not in {fit.architecture for fit in found}:
            found.append(Fit(name, "cake", classes, shown))
    return found


@cache
def student_shapes(name: str, shape: tuple[int, ...], classes: int) -> Shapes | None:
    """The keys and shapes of one of our students; None where it does not take such an input."""
    try:
        with Weightless():
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
    if all(name[0].isdigit() for name in shapes):
        yield from _sequences(named, matrices[0], matrices[-1])
    for family in torchvision.FAMILIES:
        head = shapes.get(family.head, ())
        if family.marker in shapes and len(head) in (2, 4):
            yield from _of_family(family, shapes, head[0])


def _sequences(
    named: Shapes, first: tuple[int, ...], last: tuple[int, ...]
) -> Iterator[tuple[str, tuple[int, ...], int, tuple[int | str, ...]]]:
    """Our plain sequences: layers are numbered."""
    if len(last) != 2 or last[0] < 1:
        return
    if all(len(shape) == 2 for shape in named.values()) and math.prod(first) > 0:
        hidden = [named[name][0] for name in sorted(named, key=_natural)[:-1]]
        name = f"mlp:{','.join(map(str, hidden))}" if hidden else "linear"
        yield name, (first[1],), last[0], (first[1],)
    if len(first) == 4 and first[1] > 0:
        side = SMALL_IMAGE // 2 if first[-1] == 3 else SMALL_IMAGE
        for name in ("cnn", "resnet4", *_wide(named), *LENET_WIDTHS):
            for size in (LENET_SIZES.start, 32) if name in LENET_WIDTHS else (side,):
                yield name, (first[1], size, size), last[0], (first[1], "H", "W")


def _of_family(
    family: torchvision.Family, shapes: Shapes, classes: int
) -> Iterator[tuple[str, tuple[int, ...], int, tuple[int | str, ...]]]:
    """Torchvision's, for images of other sizes and channels than published."""
    for name in family.names:
        stem = shapes.get(_stem_of(name), ())
        if len(stem) != 4 or stem[1] < 1 or classes < 1:
            continue
        vit = name.startswith("vit_")
        image = torchvision.vit_image(name, shapes) if vit else SMALL_IMAGE
        for side in (image,) if vit else (SMALL_IMAGE // 2, SMALL_IMAGE):
            yield name, (stem[1], side, side), classes, (stem[1], *((side, side) if vit else ("H", "W")))


@cache
def _stem_of(name: str) -> str:
    """The key of the first convolution, which tells the channels of the image."""
    network = torchvision.build(name, {})
    return next(f"{place}.weight" for place, layer in network.named_modules() if isinstance(layer, nn.Conv2d))


def _wide(shapes: Shapes) -> list[str]:
    """The Wide ResNet that convolutions allow: six layers a block of each stage, and four."""
    blocks = [shape[0] for name, shape in shapes.items() if name.endswith(".conv1.weight")]
    return [f"wrn-{4 + 2 * len(blocks)}-{min(blocks) // 16}"] if blocks and min(blocks) >= 16 else []


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts ``10.weight`` behind ``3.weight``, as layers are numbered."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def command(weights: Weights, fits: list[Fit]) -> str:
    """What to type to open the weights; with NAME where several fit, and with the user's code where none does."""
    file = as_argument(weights.path)
    if fits:
        flags = fits[0].flags() if len(fits) == 1 else fits[0].flags().replace(fits[0].architecture, "NAME", 1)
        return f"cake distill {file} {flags} --student {usual_student(fits[0].input_shape)}"
    like = looks_like(weights.shapes())
    if like.arch is None:
        return like.fix or "give a classifier of images or vectors"
    flags = f"--arch {like.arch} --input-shape {','.join(map(str, like.input_shape))}"
    return f"cake distill {file} {flags} --student {usual_student(like.input_shape)}"


def described(weights: Weights, fits: list[Fit]) -> str:
    """What the weights fit, or what they look like."""
    if not fits:
        return f"they look like {looks_like(weights.shapes()).sentence}"
    names = [f"{fit.architecture} of {fit.origin} with {fit.classes} classes" for fit in fits[:SHOWN]]
    more = f" and {len(fits) - SHOWN} more" if len(fits) > SHOWN else ""
    several = ", which compute different things: name the one that it is" if len(fits) > 1 else ""
    return f"they fit {', '.join(names)}{more}{several}"
