"""torchvision's classifiers by the keys and shapes of their weights, built without drawing any."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import nn
from torchvision.models import _api as models

from cake_cli.models.weightless import Weightless

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Family:
    """Architectures whose weights share two names."""

    marker: str
    """The name of a weight near the input that no other family has with that head."""
    head: str
    """The name of the last weight: its first dimension is the number of classes."""
    names: tuple[str, ...]


def _sizes(stem: str, sizes: str) -> tuple[str, ...]:
    return tuple(stem + size for size in sizes.split())


FAMILIES = (
    Family("layer1.0.conv1.weight", "fc.weight", (
        *_sizes("resnet", "18 34 50 101 152"), "resnext50_32x4d", *_sizes("resnext101_", "32x8d 64x4d"),
        *_sizes("wide_resnet", "50_2 101_2"),
    )),
    Family("features.0.weight", "classifier.6.weight", (
        "alexnet", *_sizes("vgg", "11 11_bn 13 13_bn 16 16_bn 19 19_bn"),
    )),
    Family("features.0.1.weight", "classifier.2.weight", _sizes("convnext_", "tiny small base large")),
    Family("features.conv0.weight", "classifier.weight", _sizes("densenet", "121 161 169 201")),
    Family("features.1.0.block.0.0.weight", "classifier.1.weight", _sizes(
        "efficientnet_", "b0 b1 b2 b3 b4 b5 b6 b7 v2_s v2_m v2_l"
    )),
    Family("inception3a.branch1.conv.weight", "fc.weight", ("googlenet",)),
    Family("Mixed_5b.branch1x1.conv.weight", "fc.weight", ("inception_v3",)),
    Family("stem.0.0.weight", "classifier.5.weight", ("maxvit_t",)),
    Family("layers.0.weight", "classifier.1.weight", _sizes("mnasnet", "0_5 0_75 1_0 1_3")),
    Family("features.1.conv.0.0.weight", "classifier.1.weight", ("mobilenet_v2",)),
    Family("features.1.block.0.0.weight", "classifier.3.weight", _sizes("mobilenet_v3_", "small large")),
    Family("trunk_output.block1.block1-0.proj.0.weight", "fc.weight", (
        *_sizes("regnet_x_", "400mf 800mf 1_6gf 3_2gf 8gf 16gf 32gf"),
        *_sizes("regnet_y_", "400mf 800mf 1_6gf 3_2gf 8gf 16gf 32gf 128gf"),
    )),
    Family("stage2.0.branch1.0.weight", "fc.weight", _sizes("shufflenet_v2_x", "0_5 1_0 1_5 2_0")),
    Family("features.3.squeeze.weight", "classifier.1.weight", _sizes("squeezenet", "1_0 1_1")),
    Family("features.1.0.attn.qkv.weight", "head.weight", _sizes("swin_", "t s b v2_t v2_s v2_b")),
    Family("class_token", "heads.head.weight", _sizes("vit_", "b_16 b_32 l_16 l_32 h_14")),
)  # fmt: skip
NAMES = tuple(name for family in FAMILIES for name in family.names)


def family_of(name: str) -> Family:
    """The family of one of `NAMES`."""
    return next(family for family in FAMILIES if name in family.names)


def build(name: str, shapes: Shapes, image: tuple[int, int] | None = None) -> nn.Module:
    """An architecture without memory for its weights, with as many classes as the weights have.

    Args:
        name: one of `NAMES`.
        shapes: of the weights; what they determine beside the number of classes is taken from them: the
            auxiliary heads of GoogLeNet and Inception, the image size of a ViT.
        image: (H, W), for MaxViT.
    """
    head = shapes.get(family_of(name).head, (1000,))
    options: dict[str, Any] = {"num_classes": head[0]}
    if name in ("googlenet", "inception_v3"):
        aux = any(key.startswith(("aux1.", "AuxLogits.")) for key in shapes)
        options |= {"init_weights": False, "aux_logits": aux, "transform_input": False}
    if name.startswith("vit_"):
        options["image_size"] = vit_image(name, shapes)
    if name == "maxvit_t" and image is not None:
        options["input_size"] = image
    with Weightless():
        module: nn.Module = models.get_model(name, weights=None, **options)
    return module


def vit_image(name: str, shapes: Shapes) -> int:
    """The side of the images that a ViT's position embedding is for; 224 where that cannot be told."""
    positions = shapes.get("encoder.pos_embedding", (1, 1, 1))
    side = math.isqrt(max(positions[1] - 1, 0)) if len(positions) == 3 else 0
    return side * int(name.rpartition("_")[2]) or 224


def fitting_names(shapes: Shapes) -> list[str]:
    """The architectures whose keys and shapes are exactly those of the weights, whatever the number of classes."""
    found = []
    for family in FAMILIES:
        if family.marker in shapes and len(shapes.get(family.head, ())) in (2, 4):
            found += [name for name in family.names if _shapes_of(name, _key(name, shapes)) == dict(shapes)]
    return found


def _key(name: str, shapes: Shapes) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """What `build` reads of the shapes, so that builds can be remembered: of the head the number of classes alone."""
    aux = next((key for key in shapes if key.startswith(("aux1.", "AuxLogits."))), None)
    head = family_of(name).head
    read = ("encoder.pos_embedding", *([aux] if aux else []))
    classes = ((head, tuple(shapes[head][:1])),) if head in shapes else ()
    return classes + tuple((key, tuple(shapes[key])) for key in read if key in shapes)


@cache
def _shapes_of(name: str, key: tuple[tuple[str, tuple[int, ...]], ...]) -> dict[str, tuple[int, ...]]:
    state = build(name, dict(key)).state_dict()
    return {k: tuple(v.shape) for k, v in state.items() if not k.endswith("num_batches_tracked")}


def published_side(name: str) -> int:
    """The side of the images that torchvision's own weights of a name take."""
    entries: Any = models.get_model_weights(name)
    return int(entries.DEFAULT.transforms().crop_size[0])


def published(name: str, sha256: str) -> Any | None:
    """Torchvision's own entry for a file that it publishes, told by the hash that its address carries."""
    entries: Any = models.get_model_weights(name)
    for entry in entries:
        stem = entry.url.rpartition("/")[2].rpartition(".")[0]
        if len(stem.rpartition("-")[2]) == 8 and sha256.startswith(stem.rpartition("-")[2]):
            return entry
    return None


def bodies(shapes: Shapes) -> list[tuple[str, str]]:
    """The architectures whose weights, all but the head, are among those given; each with its head's name."""
    found = []
    for family in FAMILIES:
        if family.marker not in shapes:
            continue
        head = family.head.partition(".")[0] + "."
        for name in family.names:
            body = {
                key: shape for key, shape in _shapes_of(name, _key(name, shapes)).items() if not key.startswith(head)
            }
            if body.items() <= shapes.items():
                found.append((name, head))
    return found
