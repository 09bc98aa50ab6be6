"""From a text of ``--student`` to a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from cake_cli.catalog import TORCHVISION_NAMES, VIT_DEFAULTS, Wanted, read_student
from cake_cli.errors import UsageError
from cake_cli.models.architectures import plain, residual
from cake_cli.models.architectures.timm import timm_network
from cake_cli.models.architectures.torchvision import torchvision_network
from cake_cli.models.architectures.vit import VisionTransformer, vit_options
from cake_cli.models.source import call_function, read_source
from cake_cli.spec import format_shape

FOR_VECTORS = ("mlp", "linear")
HIDDEN = (256, 256)

Image = tuple[int, int, int]


def build_student(name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """A freshly initialised student; draws its weights from torch's global generator.

    Args:
        name: a name of `cake_cli.catalog.STUDENTS`, with options after a colon where it takes some;
            ``timm:NAME``; or ``file.py:function``, whose code is run, and which is called with C, (H, W), K
            (for vectors D, (), K).
        shape: (C, H, W) or (D,).
        classes: K, the number of logits.

    Returns:
        A module that maps float32 (N, *shape) to (N, K). That it does is found out by `measure_student`.

    Raises:
        UsageError: if there is no such architecture, its options are wrong, or it cannot be built for the input.
        ModelFileError: if a function of one's own fails.
        EnvironmentFault: if timm is asked for and missing.
    """
    wanted = read_student(name)
    if wanted.kind == "source":
        return _own(wanted.base, shape, classes)
    if wanted.kind in ("file", "same"):
        raise UsageError(f"{name} is not the name of an architecture", "`cake students` lists them")
    if wanted.kind == "name" and wanted.base == "linear":
        return plain.linear(shape, classes)
    if wanted.kind == "name" and wanted.base == "mlp":
        return plain.mlp(shape, classes, wanted.hidden or HIDDEN)
    image = _image(name, shape)
    if wanted.kind == "timm":
        return timm_network(wanted.base, image, classes)
    return _for_images(wanted, image, classes)


def written_options(name: str, shape: tuple[int, ...]) -> str:
    """The options that a name has for an input, with everything that was left to choose: ``patch=4,dim=64,...``.

    Behind the name and a colon they build the same network, whatever the defaults of another version are.

    Raises:
        UsageError: as `build_student`.
    """
    wanted = read_student(name)
    if wanted.kind != "name":
        return ""
    if wanted.base == "mlp":
        return ",".join(map(str, wanted.hidden or HIDDEN))
    if wanted.base == "vit":
        options = vit_options(_image(name, shape), wanted.numbers, VIT_DEFAULTS)
        return ",".join(f"{key}={value}" for key, value in options.items())
    if wanted.base in TORCHVISION_NAMES:
        return f"form={wanted.form or ('small' if residual.is_small(_image(name, shape)) else 'published')}"
    return ""


def _image(name: str, shape: tuple[int, ...]) -> Image:
    if len(shape) != 3:
        told = f"{name} is for images, not for vectors of {format_shape(shape)}"
        raise UsageError(told, " or ".join(f"--student {fitting}" for fitting in FOR_VECTORS))
    return shape[0], shape[1], shape[2]


def _for_images(wanted: Wanted, image: Image, classes: int) -> nn.Module:
    base, numbers = wanted.base, wanted.numbers
    builders: dict[str, Callable[[], nn.Module]] = {
        "cnn": lambda: plain.cnn(image[0], classes),
        "lenet5": lambda: plain.lenet(base, image, classes),
        "lenet5-half": lambda: plain.lenet(base, image, classes),
        "resnet4": lambda: residual.resnet4(image, classes),
        "vit": lambda: VisionTransformer(image, classes, **vit_options(image, numbers, VIT_DEFAULTS)),
    }
    if base in builders:
        return builders[base]()
    if base in TORCHVISION_NAMES:
        return torchvision_network(base, image, classes, wanted.form)
    return residual.wide_resnet(image, classes, depth=numbers["depth"], width=numbers["width"])


def _own(text: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    source = read_source(Path(text))
    assert source is not None
    return call_function(
        source,
        (shape[0], tuple(shape[1:]), classes),
        contract="make it a function of channels, (height, width) and classes that returns a torch.nn.Module",
    )
