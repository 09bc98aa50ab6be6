"""What weights look like that fit no architecture known by name: a sentence, and what would open them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from cake_cli.models.weights import torchvision

Shapes = Mapping[str, tuple[int, ...]]
CODE = "FILE.py:FUNCTION"
"""Stands for the user's code that builds the network."""


@dataclass(frozen=True)
class Likeness:
    """What weights look like."""

    sentence: str
    arch: str | None = CODE
    """What `--arch` would have to be; None where these weights are no classifier of images or vectors."""
    input_shape: tuple[int | str, ...] = ("C", "H", "W")
    """One row as far as the weights tell; letters where they do not."""
    fix: str | None = None
    """What to do instead of naming an architecture."""


def looks_like(shapes: Shapes) -> Likeness:
    """The first description that holds.

    Args:
        shapes: of all weights, in the file's order, batch counters left out.
    """
    tries: tuple[Callable[[Shapes], Likeness | None], ...] = (
        *(_no_classifier, _quantised, _framework, _tutorial, _other_head, _cifar_resnet, _wide_resnet),
    )
    return next((found for found in (attempt(shapes) for attempt in tries) if found is not None), _layers(shapes))


_MARKS = (
    (r"word_embeddings|token_emb|embed_tokens|\bwte\.|shared\.weight|\blm_head", "a language model"),
    (r"lstm|\bgru\b|\brnn\b", "a recurrent network for sequences"),
    (r"\brpn\.|regression_header|bbox|anchor|\bloc\.\d|\bBboxHead", "an object detector"),
    (r"noise_pred|time_embed|\bbetas$|alphas_cumprod", "a diffusion model"),
    (r"\bdecoder\.", "a model with a decoder: an autoencoder, a segmentation or a translation"),
    (r"upconv|up_convs?\.|\bup[1-4]\.|deconv", "a segmentation network or another that returns images"),
)


def _no_classifier(shapes: Shapes) -> Likeness | None:
    for pattern, kind in _MARKS:
        name = next((name for name in shapes if re.search(pattern, name)), None)
        if name is not None:
            return Likeness(f"{kind} by its names ({name}), not a classifier of images or vectors", None)
    return None


def _quantised(shapes: Shapes) -> Likeness | None:
    name = next((name for name in shapes if name.endswith(("zero_point", "_packed_params"))), None)
    if name is None:
        return None
    fix = "give the float model's weights from before quantisation"
    return Likeness(f"a network quantised to int8 ({name}), which has no gradient", None, fix=fix)


_LIBRARIES = (
    (
        r"^\d*\.?model\.\d+\.(conv|cv\d)\.|^\d+\.conv\.weight$",
        "a YOLO model of Ultralytics",
        "yolo export model=FILE format=onnx",
    ),
    (
        r"^(vit|swin|swinv2|deit|beit|resnet|convnext|convnextv2|mobilenet_v[12]|efficientnet|dinov2|regnet|levit|cvt"
        r"|poolformer|pvt|van|focalnet|bit)\.(embeddings|embedder|encoder|conv_stem|stem|poolformer|pvt)\b",
        "an image classifier of transformers",
        "name its folder, with config.json and model.safetensors in it",
    ),
)


def _framework(shapes: Shapes) -> Likeness | None:
    for pattern, kind, fix in _LIBRARIES:
        name = next((name for name in shapes if re.search(pattern, name)), None)
        if name is not None:
            return Likeness(f"{kind} by its names ({name})", None, fix=fix)
    return None


_TUTORIALS: tuple[tuple[str, tuple[int, ...], Shapes], ...] = (
    (
        "the network of PyTorch's CIFAR-10 tutorial",
        (3, 32, 32),
        {"conv1.weight": (6, 3, 5, 5), "conv2.weight": (16, 6, 5, 5), "fc1.weight": (120, 400)},
    ),
    (
        "the network of pytorch/examples, mnist/main.py",
        (1, 28, 28),
        {"conv1.weight": (32, 1, 3, 3), "conv2.weight": (64, 32, 3, 3), "fc1.weight": (128, 9216)},
    ),
)


def _tutorial(shapes: Shapes) -> Likeness | None:
    for name, row, known in _TUTORIALS:
        if known.items() <= shapes.items() and len(shapes) <= 10:
            return Likeness(name, "FILE.py:Net", row)
    return None


def _cifar_resnet(shapes: Shapes) -> Likeness | None:
    """ResNets of three stages for CIFAR (He et al. 2016, Section 4.2), and of four in the names of others."""
    stem = shapes.get("conv1.weight", shapes.get("conv1.0.weight", ()))
    stages = _blocks(shapes, r"layers?(\d+)\.(\d+)\.") or _blocks(shapes, r"conv(\d+)_x\.(\d+)\.")
    if len(stem) != 4 or len(stages) < 3:
        return None
    deep = any(re.search(r"\.conv3\.weight|residual_function\.6\.weight", name) for name in shapes)
    depth = 2 + (3 if deep else 2) * sum(stages)
    head = "linear" if "linear.weight" in shapes else "fc"
    names = ", ".join(sorted({part for part in ("shortcut", "downsample", "residual_function", head)
                              if any(re.search(rf"(^|\.){part}\.", name) for name in shapes)}))  # fmt: skip
    kind = f"ResNet-{depth} for small images: stages of {', '.join(map(str, stages))} blocks, {stem[0]} channels first"
    forks = {("linear", 3): "akamaster/pytorch_resnet_cifar10", ("fc", 3): "chenyaofo/pytorch-cifar-models"}
    forks |= {("linear", 4): "kuangliu/pytorch-cifar"}
    known = "weiaicunzai/pytorch-cifar100" if "conv1.0.weight" in shapes else forks.get((head, len(stages)))
    like = f" as in {known}" if known and f"{head}.weight" in shapes else ""
    function = f"resnet{depth}" if len(stages) == 3 or head == "fc" else f"ResNet{depth}"
    return Likeness(f"a {kind}, its names{like} ({names})", f"resnet.py:{function}", (stem[1], 32, 32))


def _wide_resnet(shapes: Shapes) -> Likeness | None:
    """Wide ResNets (Zagoruyko & Komodakis 2016)."""
    stages = _blocks(shapes, r"block(\d+)\.layer\.(\d+)\.")
    stem, first = shapes.get("conv1.weight", ()), shapes.get("block1.layer.0.conv1.weight", ())
    if len(stages) != 3 or len(stem) != 4 or len(first) != 4:
        return None
    depth, width = 6 * stages[0] + 4, first[0] // 16
    return Likeness(
        f"a Wide ResNet-{depth}-{width}, its names as in xternalz/WideResNet-pytorch",
        CODE,
        (stem[1], 32, 32),
    )


def _blocks(shapes: Shapes, pattern: str) -> list[int]:
    """How many blocks each stage has."""
    found: dict[int, set[str]] = {}
    for name in shapes:
        match = re.match(pattern, name)
        if match:
            found.setdefault(int(match[1]), set()).add(match[2])
    return [len(found[stage]) for stage in sorted(found)]


def _other_head(shapes: Shapes) -> Likeness | None:
    """A network of torchvision, perhaps below a name, whose last layers are others."""
    for prefix in ("", *dict.fromkeys(f"{name.partition('.')[0]}." for name in shapes)):
        inner = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
        for name, head in torchvision.bodies(inner):
            rest = [f"{key} {shape}" for key, shape in shapes.items() if key.endswith("weight")
                    and (not key.startswith(prefix) or key.removeprefix(prefix).startswith(head))]  # fmt: skip
            below = f" below the name {prefix.rstrip('.')}" if prefix else ""
            own = f", with another head: {', '.join(rest[-3:])}" if rest else ", without a head"
            return Likeness(f"{name} of torchvision{below}{own}", CODE, (3, "H", "W"))
    return None


def _layers(shapes: Shapes) -> Likeness:
    """What can be said of any network: how it begins and ends."""
    convolutions = [shape for shape in shapes.values() if len(shape) == 4]
    lines = [shape for shape in shapes.values() if len(shape) == 3]
    matrices: list[tuple[int, ...]] = [shape for shape in shapes.values() if len(shape) == 2]
    ends = next(_sinks(matrices), None)
    scores = _count(ends[0], "output") if ends else "no linear layer at its end"
    if convolutions:
        first = convolutions[0]
        told = (
            f"a network of {_count(len(convolutions), 'convolution')}, from {_count(first[1], 'channel')} to {scores}"
        )
        return Likeness(told, CODE, (first[1], "H", "W"))
    if lines or not matrices:
        told = _count(len(lines), "layer") + " for sequences" if lines else "no layers of a classifier"
        return Likeness(f"{told}, {scores}", None)
    chain = _chain(matrices)
    sizes = " to ".join(map(str, chain))
    layers = _count(len(matrices), "linear layer")
    told = f"a chain of {layers}, {sizes}, whose activations the file does not say"
    return Likeness(told, CODE, (chain[0],)) if chain else Likeness(f"{layers}, {scores}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _sinks(matrices: list[tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
    """Linear layers whose results no other takes, the last of the file first."""
    taken = {shape[1] for shape in matrices}
    yield from (shape for shape in reversed(matrices) if shape[0] not in taken)
    yield from reversed(matrices)


def _chain(matrices: list[tuple[int, ...]]) -> list[int]:
    """The sizes of layers that follow each other, in the file's order or in that of their sizes; empty if none do."""
    for order in (matrices, sorted(matrices, key=lambda shape: -shape[1])):
        if order and all(one[0] == two[1] for one, two in pairwise(order)):
            return [order[0][1], *(shape[0] for shape in order)]
    return []
