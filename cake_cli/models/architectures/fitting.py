"""Whether an architecture takes an input, what it costs there, and which others would do."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from cake_cli.catalog import WHAT_FITS, Wanted, read_student, relatives
from cake_cli.errors import CakeError, UsageError
from cake_cli.models.architectures.building import build_student
from cake_cli.models.counting import Size, count_multiply_adds, parameters, stored_bytes, without_memory
from cake_cli.models.weightless import Weightless
from cake_cli.spec import format_shape

ROWS = 2
"""Rows of a trial: batch normalisation in training takes no fewer."""
SIDES = (4, 8, 16, 32, 64, 128, 256, 512)
"""Between which the smallest image of an architecture is looked for."""
NAMED = 4
"""How many others are named where an architecture does not fit."""
RELATIVES_NAMED = 2
OFTEN_FITTING = ("cnn", "resnet4", "resnet18", "wrn-16-2", "mobilenet_v3_small", "vit", "mlp")
"""What is suggested where the family has nothing, in this order: small networks of different kinds."""
LARGEST_NAMED = 100_000_000
"""Parameters of the largest network that is suggested."""

Shape = tuple[int, ...]


def measure_student(name: str, shape: Shape, classes: int) -> Size:
    """What a student holds and costs; arguments and errors are those of `size_and_layers`."""
    return size_and_layers(name, shape, classes)[0]


def size_and_layers(name: str, shape: Shape, classes: int) -> tuple[Size, int]:
    """Puts two rows through a student in training mode, and counts; its layers are the kernels and matrices it learns.

    Our own networks and torchvision's take no memory and little time for it (the meta device); timm's and one's
    own code are built and run.

    Args:
        name: as for `build_student`.
        shape: (C, H, W) or (D,).
        classes: K.

    Raises:
        UsageError: if the student does not take such an input, does not return (N, K), or has nothing to learn.
        CakeError: as `build_student`.
    """
    on_paper = read_student(name).kind == "name"
    with Weightless() if on_paper else nullcontext():
        network = build_student(name, shape, classes).train()
    products, logits = (_without_memory if on_paper else _for_real)(network, name, shape)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (ROWS, classes):
        got = format_shape(tuple(logits.shape)) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise UsageError(
            f"{name} returns {got} for {ROWS} inputs of {format_shape(shape)}, not {ROWS}x{classes}",
            "return one score for each row and class",
        )
    layers = sum(weights.dim() > 1 for weights in network.parameters())
    return Size(parameters(network), products, stored_bytes(network)), layers


def _without_memory(network: nn.Module, name: str, shape: Shape) -> tuple[int, object]:
    try:
        with torch.no_grad():
            return count_multiply_adds(partial(without_memory, network), torch.empty(ROWS, *shape, device="meta"))
    except (RuntimeError, ValueError) as fault:
        raise UsageError(f"{name} cannot take inputs of {format_shape(shape)}") from fault


def _for_real(network: nn.Module, name: str, shape: Shape) -> tuple[int, object]:
    rows = torch.randn(ROWS, *shape, generator=torch.Generator().manual_seed(0))
    try:
        counted = count_multiply_adds(network, rows)
    except Exception as fault:  # foreign code fails in any way it likes
        reason = str(fault).strip().partition("\n")[0].rstrip(".") or type(fault).__name__
        raise UsageError(f"{name} does not take inputs of {format_shape(shape)}: {reason}", WHAT_FITS) from fault
    if isinstance(counted[1], Tensor) and not counted[1].requires_grad:
        raise UsageError(
            f"{name} cannot learn: its output does not depend on parameters that require a gradient",
            "return a torch.nn.Module with parameters, and do not detach its output",
        )
    return counted


def does_not_fit(name: str, shape: Shape, classes: int, fault: UsageError) -> UsageError:
    """The refusal of a student for an input: the smallest that it takes, and a few others that fit.

    Args:
        name: what was asked for.
        shape: (C, H, W) or (D,).
        classes: K.
        fault: what `size_and_layers` raised.
    """
    wanted = read_student(name)
    if len(shape) != 3 or wanted.kind == "source":
        return fault
    others = ", ".join(that_fit(wanted, shape, classes))
    advice = "" if fault.fix in (None, WHAT_FITS) else f"{fault.fix}; or "
    return UsageError(why_not(name, shape, classes, fault), f"{advice}--student with one of {others}; {WHAT_FITS}")


def why_not(name: str, shape: Shape, classes: int, fault: UsageError) -> str:
    """Why an architecture does not take an input, with the smallest that it takes; arguments as `does_not_fit`."""
    if fault.fix is not None:  # it was refused for another reason than what its layers made of the image
        return fault.what
    smallest = smallest_side(name, shape, classes)
    return fault.what if smallest is None else f"{fault.what}: it takes {smallest}x{smallest} and larger"


def that_fit(wanted: Wanted, shape: Shape, classes: int) -> list[str]:
    """A few architectures that take an image: first of the same family, then small ones of other kinds."""
    family = _fitting(relatives(wanted.base) if wanted.kind == "name" else (), shape, classes, RELATIVES_NAMED)
    others = (name for name in OFTEN_FITTING if name not in family and name != wanted.base)
    return family + _fitting(others, shape, classes, NAMED - len(family))


def _fitting(names: Iterable[str], shape: Shape, classes: int, most: int) -> list[str]:
    found: list[str] = []
    for name in names:
        if len(found) == most:
            break
        try:
            if measure_student(name, shape, classes).parameters <= LARGEST_NAMED:
                found.append(name)
        except CakeError:
            continue
    return found


def smallest_side(name: str, shape: Shape, classes: int) -> int | None:
    """The smallest square image that an architecture takes; None where none up to 512 pixels is found."""
    low = 0
    for side in SIDES:
        if not _takes(name, shape[0], side, classes):
            low = side
            continue
        high = side
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if _takes(name, shape[0], middle, classes) else (middle, high)
        return high
    return None


def _takes(name: str, channels: int, side: int, classes: int) -> bool:
    try:
        measure_student(name, (channels, side, side), classes)
    except UsageError:
        return False
    return True
