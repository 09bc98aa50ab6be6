"""What ``--student`` and ``--export`` take: names, options, and how such a text is read; without torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cake_cli.errors import UsageError, did_you_mean


def _each(name: str, about: str, sizes: str) -> dict[str, str]:
    """A family: `name` and `about` with each of the sizes put in; ``v2_s=S`` is written S in `about`."""
    pairs = [(size, shown or size) for size, _, shown in (entry.partition("=") for entry in sizes.split())]
    return {name.format(size): about.format(shown) for size, shown in pairs}


OWN: tuple[dict[str, str], ...] = (
    {"cnn": "three 3x3 convolutions (32, 64, 128), max-pooling, a linear layer; any image size"},
    {
        "lenet5-half": "LeNet-5 with half the channels",
        "lenet5": "LeNet-5 in the form that DAFL and CAKE use; images of 28 to 36 pixels",
    },
    {"linear": "one linear layer; images or vectors"},
    {"mlp": "hidden layers of 256 and 256; mlp:64,64 gives others; images or vectors"},
    {"resnet4": "the small ResNet of the CAKE paper: four stages of one block"},
    {"vit": "a small Vision Transformer; vit:patch=4,dim=64,depth=6,heads=4 are its options"},
    {
        "wrn-16-1": "CIFAR Wide ResNet of 16 layers, width 1; any wrn-D-K with D = 6n + 4",
        "wrn-16-2": "CIFAR Wide ResNet of 16 layers, width 2",
        "wrn-40-1": "CIFAR Wide ResNet of 40 layers, width 1",
        "wrn-40-2": "CIFAR Wide ResNet of 40 layers, width 2",
        "wrn-28-10": "CIFAR Wide ResNet of 28 layers, width 10",
    },
)
"""Our own networks by family, small ones first."""

TORCHVISION: tuple[dict[str, str], ...] = (
    _each("resnet{}", "ResNet-{}", "18 34 50 101 152"),
    {
        "resnext50_32x4d": "ResNeXt-50 32x4d",
        "resnext101_32x8d": "ResNeXt-101 32x8d",
        "resnext101_64x4d": "ResNeXt-101 64x4d",
    },
    {"wide_resnet50_2": "Wide ResNet-50-2", "wide_resnet101_2": "Wide ResNet-101-2"},
    {"alexnet": "AlexNet"},
    _each("convnext_{}", "ConvNeXt-{}", "tiny small base large"),
    _each("densenet{}", "DenseNet-{}", "121 169 201 161"),
    _each("efficientnet_{}", "EfficientNet-{}", "b0=B0 b1=B1 b2=B2 b3=B3 b4=B4 b5=B5 b6=B6 b7=B7"),
    _each("efficientnet_v2_{}", "EfficientNetV2-{}", "s=S m=M l=L"),
    {"googlenet": "GoogLeNet, without its auxiliary heads"},
    {"inception_v3": "Inception v3, without its auxiliary head"},
    {"maxvit_t": "MaxViT-T, its window fitted to the image"},
    _each("mnasnet{}", "MnasNet, width {}", "0_5=0.5 0_75=0.75 1_0=1.0 1_3=1.3"),
    {
        "mobilenet_v3_small": "MobileNetV3-small",
        "mobilenet_v2": "MobileNetV2",
        "mobilenet_v3_large": "MobileNetV3-large",
    },
    _each("regnet_x_{}", "RegNetX-{}", "400mf 800mf 1_6gf=1.6gf 3_2gf=3.2gf 8gf 16gf 32gf"),
    _each("regnet_y_{}", "RegNetY-{}", "400mf 800mf 1_6gf=1.6gf 3_2gf=3.2gf 8gf 16gf 32gf 128gf"),
    _each("shufflenet_v2_x{}", "ShuffleNetV2, width {}", "0_5=0.5 1_0=1.0 1_5=1.5 2_0=2.0"),
    _each("squeezenet1_{}", "SqueezeNet 1.{}", "1 0"),
    {**_each("swin_{}", "Swin-{}", "t=T s=S b=B"), **_each("swin_v2_{}", "Swin V2-{}", "t=T s=S b=B")},
    {
        **_each("vgg{}", "VGG-{}", "11 13 16 19"),
        **_each("vgg{}_bn", "VGG-{} with batch normalisation", "11 13 16 19"),
    },
    {
        **_each("vit_b_{}", "ViT-B/{}; square images of whole patches", "32 16"),
        **_each("vit_l_{}", "ViT-L/{}; square images of whole patches", "32 16"),
        "vit_h_14": "ViT-H/14; square images of whole patches",
    },
)
"""Torchvision's classifiers by family, small ones first."""

FAMILIES = OWN + TORCHVISION
STUDENTS: dict[str, str] = {name: about for family in FAMILIES for name, about in family.items()}
"""Name and what it is."""
TORCHVISION_NAMES = frozenset(name for family in TORCHVISION for name in family)

OTHER_FORMS: dict[str, str] = {
    "NAME:form=published": "a torchvision network as published; form=small: the form below 64 pixels",
    "timm:NAME": "an architecture of timm, in the extra of that name",
    "FILE.py:FUNCTION": "your own: runs that file, and calls FUNCTION(channels, (height, width), classes)",
    "FILE": "a student of cake: its architecture, and its weights to start from",
    "same": "the teacher's architecture, where it is known",
}
"""What else ``--student`` takes."""

ExportFormat = Literal["onnx", "torchscript", "pt2", "safetensors"]
EXPORTS: dict[ExportFormat, str] = {
    "onnx": ".onnx",
    "torchscript": ".torchscript",
    "pt2": ".pt2",
    "safetensors": ".safetensors",
}
"""Formats of `cake export`, and how the names of their files end."""

Form = Literal["published", "small"]
FORMS: tuple[Form, ...] = ("published", "small")
VIT_LIMITS = {"patch": 4096, "dim": 8192, "depth": 256, "heads": 256}
"""The options of `vit` with the largest value of each."""
VIT_DEFAULTS = {"dim": 64, "depth": 6, "heads": 4}
"""Of the options that the image does not choose."""
MOST_LAYERS, WIDEST = 64, 65_536
_WRN = re.compile(r"wrn-(\d{1,4})-(\d{1,3})")
_SOURCE = re.compile(r".+\.py:[A-Za-z_]\w*")
_TIMM = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")

WHAT_FITS = "`cake students TEACHER` lists what fits"
"""The advice where an architecture does not take an input."""

Kind = Literal["name", "timm", "source", "file", "same"]


@dataclass(frozen=True)
class Wanted:
    """What a text of ``--student`` means."""

    kind: Kind
    base: str
    """The name in the catalogue (``wrn-22-4`` too), timm's name, ``file.py:function``, or a path."""
    hidden: tuple[int, ...] = ()
    """Sizes of hidden layers, where they were given (mlp)."""
    form: Form | None = None
    """Where it was given (torchvision)."""
    numbers: Mapping[str, int] = field(default_factory=dict)
    """Options that are numbers, where they were given (vit), and those that the name holds (wrn)."""


def is_source(text: str) -> bool:
    """Whether a text of ``--student`` or ``--arch`` is ``FILE.py:FUNCTION``."""
    return _SOURCE.fullmatch(text) is not None


def read_student(text: str) -> Wanted:
    """What a text of ``--student`` means.

    Raises:
        UsageError: if there is no such architecture, with the nearest name; or if it has no such option, or
            the option no such value.
    """
    base, _, options = text.partition(":")
    if text == "same":
        return Wanted("same", text)
    if is_source(text):
        return Wanted("source", text)
    if base == "timm" and not _TIMM.fullmatch(options):
        raise UsageError(f"timm:NAME takes a name of timm, not {options!r}", "--student timm:resnet10t")
    if base == "timm":
        return Wanted("timm", options)
    return _named(base, text) if is_named(base) else _file(text)


def _named(base: str, text: str) -> Wanted:
    _, colon, options = text.partition(":")
    if colon and not options:
        raise UsageError(f"{text!r} ends in a colon, but names no option", f"--student {base}")
    if base == "mlp":
        return Wanted("name", base, hidden=_hidden(options))
    if base == "vit":
        return Wanted("name", base, numbers=_vit_options(options))
    if base in TORCHVISION_NAMES:
        return Wanted("name", base, form=_form(base, options))
    if options:
        raise UsageError(f"{base} takes no options, not {options!r}", f"--student {base}")
    wide = _WRN.fullmatch(base)
    return Wanted("name", base, numbers={} if wide is None else _wide(base, int(wide[1]), int(wide[2])))


def _file(text: str) -> Wanted:
    if text.endswith(".py"):
        raise UsageError(f"{text} is code, but no function of it is named", f"--student {text}:FUNCTION")
    if _is_path(text):
        return Wanted("file", text)
    hint = did_you_mean(text.partition(":")[0], STUDENTS)
    raise UsageError(f"there is no student {text!r}" + (f", {hint}" if hint else ""), "`cake students` lists them")


def is_named(text: str) -> bool:
    """Whether a text begins with the name of an architecture of the catalogue, options aside."""
    base = text.partition(":")[0]
    return base in STUDENTS or _WRN.fullmatch(base) is not None


def usual_student(shape: Sequence[object]) -> str:
    """What is proposed for inputs (C, H, W) or (D,) where nothing is known of the user's wish."""
    return "cnn" if len(shape) == 3 else "mlp"


def short_name(student: str) -> str:
    """A text of ``--student`` without folders: ``nets.py:make`` of ``/home/me/nets.py:make``."""
    wanted = read_student(student)
    if wanted.kind == "source":
        file, _, function = student.rpartition(":")
        return f"{Path(file).name}:{function}"
    if wanted.kind == "file":
        path = Path(student)
        return path.parent.name if path.stem == "student" and path.parent.name else path.stem
    return student


def relatives(base: str) -> list[str]:
    """The other names of an architecture's family."""
    family: Iterable[str] = next((family for family in FAMILIES if base in family), {})
    return [name for name in family if name != base]


def _is_path(text: str) -> bool:
    if "/" in text or text.endswith((".safetensors", ".pt", ".pth", ".ckpt", ".bin")):
        return True
    return bool(text) and len(text) < 256 and Path(text).exists()


def _hidden(options: str) -> tuple[int, ...]:
    parts = options.split(",") if options else []
    sizes = [int(part) if part.strip().isdecimal() else 0 for part in parts]
    if any(not 1 <= size <= WIDEST for size in sizes) or len(sizes) > MOST_LAYERS:
        told = f"mlp takes sizes of hidden layers, up to {MOST_LAYERS} of up to {WIDEST}, not {options!r}"
        raise UsageError(told, "--student mlp:256,256")
    return tuple(sizes)


def _pairs(base: str, options: str, known: Iterable[str], example: str) -> dict[str, str]:
    """``a=1,b=2`` as a mapping of known keys, each given once."""
    found: dict[str, str] = {}
    for part in options.split(",") if options else []:
        key, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign or not value:
            raise UsageError(f"an option of {base} is written KEY=VALUE, not {part!r}", f"--student {example}")
        if key not in known:
            hint = did_you_mean(key, known)
            told = f"{base} has no option {key!r}" + (f", {hint}" if hint else f"; it has {', '.join(known)}")
            raise UsageError(told, f"--student {example}")
        if key in found:
            raise UsageError(f"{base} was given {key} twice", f"--student {example}")
        found[key] = value
    return found


def _vit_options(options: str) -> dict[str, int]:
    example = "vit:patch=4,dim=64,depth=6,heads=4"
    numbers: dict[str, int] = {}
    for key, value in _pairs("vit", options, VIT_LIMITS, example).items():
        number = int(value) if value.isdecimal() else 0
        if not 1 <= number <= VIT_LIMITS[key]:
            told = f"{key} of vit is a whole number from 1 to {VIT_LIMITS[key]}, not {value!r}"
            raise UsageError(told, f"--student {example}")
        numbers[key] = number
    whole = VIT_DEFAULTS | numbers
    if whole["dim"] % whole["heads"]:
        heads = max(count for count in range(1, whole["heads"]) if whole["dim"] % count == 0)
        fitting = ",".join(f"{key}={value}" for key, value in (numbers | {"heads": heads}).items())
        told = f"vit cannot cut dim={whole['dim']} into heads={whole['heads']} equal parts"
        raise UsageError(told, f"--student vit:{fitting}")
    return numbers


def _form(base: str, options: str) -> Form | None:
    value = _pairs(base, options, ("form",), f"{base}:form=small").get("form")
    form = next((form for form in FORMS if form == value), None)
    if value is not None and form is None:
        raise UsageError(f"form of {base} is published or small, not {value!r}", f"--student {base}:form=small")
    return form


def _wide(base: str, depth: int, width: int) -> dict[str, int]:
    if depth % 6 != 4 or not 10 <= depth <= 256 or not 1 <= width <= 64:
        nearest = min(range(10, 257, 6), key=lambda fitting: abs(fitting - depth))
        raise UsageError(
            f"{base} is no Wide ResNet: wrn-D-K has D = 6n + 4 layers (10, 16, 22, ..., 256) and a width K of 1 to 64",
            f"--student wrn-{nearest}-{min(max(width, 1), 64)}",
        )
    return {"depth": depth, "width": width}
