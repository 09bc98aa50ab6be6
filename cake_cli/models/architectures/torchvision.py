"""Torchvision's classifiers, each adapted to channels, image size and classes by the same few rules."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from cake_cli.catalog import WHAT_FITS, Form
from cake_cli.errors import UsageError
from cake_cli.models.architectures.residual import is_small
from cake_cli.models.counting import without_memory
from cake_cli.spec import format_shape


def torchvision_network(name: str, shape: tuple[int, int, int], classes: int, form: Form | None) -> nn.Module:
    """A classifier of torchvision for images of any channels, size and number of classes.

    The rules, for every family alike:

    - *Head*: torchvision builds it for the number of classes. The auxiliary heads of GoogLeNet and Inception
      are left out.
    - *Channels*: the first convolution is replaced by one of as many input channels as the image has.
    - *Published form*, from `SMALL_IMAGE` pixels on: everything else is as published.
    - *Small form*, below that: a first convolution with a stride is replaced by one of 3x3, stride 1 and padding
      1, and the first max-pooling, which completes such a stem, is dropped: what He et al. (2016, Section 4.2)
      and Huang et al. (2017, Section 3) do on CIFAR, done to all families. Where a fixed grid is pooled before
      the linear layers (AlexNet 6x6, VGG 7x7) and the features are smaller than it, the grid shrinks to them,
      and the linear layer behind it with it.
    - The patches of a ViT are its name and stay: it takes square images of whole patches, and has as many
      positions as they make. The window of MaxViT is the largest that divides all its stages (7 at 224x224, as
      published and as its authors scale it).
    - A layer that is replaced is drawn anew, normal with the standard deviation of the weights before it times
      the root of the ratio of the fan-ins, so that its outputs keep their size; its bias stays.

    What an image of this size leads to is not looked at here, but in `measure_student`.

    Args:
        name: a name of `cake_cli.catalog.TORCHVISION_NAMES`.
        shape: (C, H, W).
        classes: K.
        form: published or small; None chooses by the size of the image.

    Raises:
        UsageError: if a ViT or MaxViT cannot be built for this size.
    """
    from torchvision.models._api import get_model

    small = is_small(shape) if form is None else form == "small"
    if name == "maxvit_t":
        network = _maxvit(shape, classes, small=small)
    else:
        options: dict[str, Any] = {"num_classes": classes}
        if name in ("googlenet", "inception_v3"):
            options |= {"aux_logits": False, "init_weights": True, "transform_input": False}
        if name.startswith("vit_"):
            options["image_size"] = _square(name, shape)
        network = get_model(name, weights=None, **options)
    _adapt_stem(network, shape[0], small=small and not name.startswith("vit_"))
    if small:
        _adapt_grid(network, shape)
    return network


def _square(name: str, shape: tuple[int, int, int]) -> int:
    """The side of the images of a ViT."""
    patch, (height, width) = int(name.rpartition("_")[2]), shape[1:]
    if height != width or height % patch:
        nearest = max(1, round(min(height, width) / patch)) * patch
        raise UsageError(
            f"{name} takes square images of whole {patch}x{patch} patches, such as {nearest}x{nearest}, "
            f"not {format_shape(shape)}",
            WHAT_FITS,
        )
    return height


def _maxvit(shape: tuple[int, int, int], classes: int, *, small: bool) -> nn.Module:
    """MaxViT-T, Table 1 of Tu et al. 2022, with a window that divides the features of every stage."""
    from torchvision.models.maxvit import MaxVit

    image = (2 * shape[1], 2 * shape[2]) if small else (shape[1], shape[2])  # it halves them for a stem of stride 2
    sides = list(image)
    halved = []
    for _ in range(5):
        sides = [(side + 1) // 2 for side in sides]
        halved.append(sides)
    window = math.gcd(*(side for stage in halved[1:] for side in stage))
    if window < 2 or image[0] != image[1]:
        step = 32 if small else 64
        raise UsageError(
            f"maxvit_t takes square images whose features divide into windows at every stage, such as {step}x{step} "
            f"or {3 * step // 2}x{3 * step // 2}, not {format_shape(shape)}",
            WHAT_FITS,
        )
    return MaxVit(
        input_size=image,
        stem_channels=64,
        partition_size=window,
        block_channels=[64, 128, 256, 512],
        block_layers=[2, 2, 5, 2],
        head_dim=32,
        stochastic_depth_prob=0.2,
        num_classes=classes,
    )


def _adapt_stem(network: nn.Module, channels: int, *, small: bool) -> None:
    name, first = next((name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    small = small and max(first.stride) > 1
    if channels == first.in_channels and not small:
        return
    form: dict[str, Any] = {"kernel_size": first.kernel_size, "stride": first.stride, "padding": first.padding}
    if small:
        form = {"kernel_size": 3, "stride": 1, "padding": 1}
        pooling = next((name for name, layer in network.named_modules() if isinstance(layer, nn.MaxPool2d)), None)
        if pooling is not None:
            network.set_submodule(pooling, nn.Identity())
    stem = nn.Conv2d(channels, first.out_channels, bias=first.bias is not None, **form)
    network.set_submodule(name, _drawn_like(stem, first))


def _adapt_grid(network: nn.Module, shape: tuple[int, int, int]) -> None:
    """Makes a fixed grid before the linear layers no larger than the features that it is pooled from."""
    layers = list(network.named_modules())
    name, pool, grid = next(((name, layer, _grid(layer)) for name, layer in layers if _grid(layer)), ("", network, ()))
    if not grid:
        return
    features = _input_of(network, pool, shape)
    fitting = tuple(min(wanted, there) for wanted, there in zip(grid, features[2:], strict=False))
    if fitting in ((), grid):
        return
    place = next(place for place, layer in layers if isinstance(layer, nn.Linear))
    before = network.get_submodule(place)
    assert isinstance(before, nn.Linear)
    after = nn.Linear(features[1] * math.prod(fitting), before.out_features, bias=before.bias is not None)
    network.set_submodule(name, nn.AdaptiveAvgPool2d(fitting))
    network.set_submodule(place, _drawn_like(after, before))


def _grid(layer: nn.Module) -> tuple[int, ...]:
    """The fixed grid that a layer pools to; empty for one that pools to a single value, and for all others."""
    if not isinstance(layer, nn.AdaptiveAvgPool2d) or not isinstance(layer.output_size, tuple):
        return ()
    sides = tuple(side for side in layer.output_size if side is not None)
    return sides if max(sides, default=1) > 1 else ()


def _input_of(network: nn.Module, layer: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a layer gets; empty where the image is too small to come so far."""
    seen: list[tuple[int, ...]] = []
    hook = layer.register_forward_pre_hook(lambda _, rows: seen.append(tuple(rows[0].shape)))
    try:
        without_memory(network, torch.empty(2, *shape, device="meta"))
    except RuntimeError:
        return ()
    finally:
        hook.remove()
    return seen[0]


def _drawn_like(layer: nn.Conv2d | nn.Linear, before: nn.Conv2d | nn.Linear) -> nn.Module:
    old, new = before.weight, layer.weight
    if not old.is_meta:
        ratio = old[0].numel() / new[0].numel()
        nn.init.normal_(new, std=float(_spread(old)) * math.sqrt(ratio))
    if before.bias is not None:
        layer.bias = before.bias
    return layer


def _spread(weights: Tensor) -> Tensor:
    return weights.detach().square().mean().sqrt()
