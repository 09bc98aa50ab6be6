"""Every classification architecture of torchvision, at the smallest input that it takes.

Most are the real thing. Those of more than a hundred million weights keep their depth and their operators
and lose width; what was changed stands beside them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.efficientnet import EfficientNet, _efficientnet_conf
from torchvision.models.maxvit import MaxVit
from torchvision.models.regnet import BlockParams, RegNet
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import SqueezeExcitation

CLASSES = 10
VGG_PLANS = {"11": "A", "13": "B", "16": "D", "19": "E"}


@dataclass(frozen=True)
class Architecture:
    """How a classifier of `CLASSES` classes is made."""

    make: Callable[..., nn.Module]
    size: int = 32
    """Height and width of its input."""
    changed: str = ""
    """In what it is not torchvision's own; empty where it is."""


def _narrow_vgg(name: str) -> Architecture:
    """The legacy exporter pools to 7x7 only what is 7x7 already: at that size VGG is large in every way."""

    def make(num_classes: int) -> nn.Module:
        depth, _, norm = name.removeprefix("vgg").partition("_")
        plan = [width if width == "M" else width // 4 for width in cfgs[VGG_PLANS[depth]]]
        model = models.VGG(make_layers(plan, batch_norm=bool(norm)), num_classes=num_classes, init_weights=False)
        sizes = (128 * 7 * 7, 256, 256, num_classes)
        for place, (before, after) in zip((0, 3, 6), pairwise(sizes), strict=True):
            model.classifier[place] = nn.Linear(before, after)
        return model

    return Architecture(make, 224, "1/4 of the width, classifier 256 wide")


def _narrow_regnet(depth: int, w_0: int, w_a: float, w_m: float, group: int, part: int, **more: float) -> Architecture:
    def make(num_classes: int) -> nn.Module:
        params = BlockParams.from_init_params(
            depth=depth, w_0=w_0 // part // 8 * 8, w_a=w_a / part, w_m=w_m, group_width=group // part, **more
        )
        return RegNet(params, num_classes=num_classes)

    return Architecture(make, changed=f"1/{part} of the width")


def _narrow_efficientnet(name: str, part: int) -> Architecture:
    def make(num_classes: int) -> nn.Module:
        blocks, last = _efficientnet_conf(name)
        for block in blocks:
            block.input_channels //= part
            block.out_channels //= part
        return EfficientNet(blocks, dropout=0.4, last_channel=last // part, num_classes=num_classes)

    return Architecture(make, changed=f"1/{part} of the width")


def _narrow_vit(patch: int, layers: int, heads: int, width: int) -> Architecture:
    size = 2 * patch
    make = partial(
        models.VisionTransformer, image_size=size, patch_size=patch, num_layers=layers, num_heads=heads,
        hidden_dim=width, mlp_dim=4 * width,
    )  # fmt: skip
    return Architecture(make, size, f"{width} wide, {size // patch}x{size // patch} patches")


def _vit(name: str, patch: int) -> Architecture:
    return Architecture(partial(models.get_model, name, image_size=2 * patch), 2 * patch, "2x2 patches")


def _plain(name: str, size: int = 32, **settings: object) -> Architecture:
    return Architecture(partial(models.get_model, name, **settings), size)


OWN_WAY: dict[str, Architecture] = {
    "alexnet": _plain("alexnet", 224),
    "convnext_large": Architecture(
        partial(
            ConvNeXt,
            [CNBlockConfig(48, 96, 3), CNBlockConfig(96, 192, 3), CNBlockConfig(192, 384, 27),
             CNBlockConfig(384, None, 3)],
            stochastic_depth_prob=0.5,
        ),
        changed="1/4 of the width",
    ),
    "efficientnet_v2_l": _narrow_efficientnet("efficientnet_v2_l", 2),
    "googlenet": _plain("googlenet", aux_logits=False, init_weights=False),
    "inception_v3": _plain("inception_v3", 75, aux_logits=False, init_weights=False),
    "maxvit_t": Architecture(
        partial(MaxVit, input_size=(64, 64), stem_channels=64, block_channels=[64, 128, 256, 512],
                block_layers=[2, 2, 5, 2], head_dim=32, stochastic_depth_prob=0.2, partition_size=2),
        64, "windows of 2x2 instead of 7x7",
    ),
    "regnet_x_32gf": _narrow_regnet(23, 320, 69.86, 2.0, 168, 4),
    "regnet_y_32gf": _narrow_regnet(20, 232, 115.89, 2.53, 232, 4, se_ratio=0.25),
    "regnet_y_128gf": _narrow_regnet(27, 456, 160.83, 2.52, 264, 8, se_ratio=0.25),
    **{name: _plain(name, 64) for name in ("swin_t", "swin_s", "swin_b", "swin_v2_t", "swin_v2_s", "swin_v2_b")},
    **{f"vgg{depth}{norm}": _narrow_vgg(f"vgg{depth}{norm}") for depth in (11, 13, 16, 19) for norm in ("", "_bn")},
    "vit_b_16": _vit("vit_b_16", 16),
    "vit_b_32": _vit("vit_b_32", 32),
    "vit_l_16": _narrow_vit(16, 24, 16, 256),
    "vit_l_32": _narrow_vit(32, 24, 16, 256),
    "vit_h_14": _narrow_vit(14, 32, 16, 256),
    "wide_resnet101_2": Architecture(
        partial(ResNet, Bottleneck, [3, 4, 23, 3], width_per_group=96), changed="1.5 times as wide instead of twice"
    ),
}  # fmt: skip
"""Those that need a larger input than 32x32, or are too large as they are."""


MINIATURES: dict[str, Architecture] = {
    "small_convnext": Architecture(
        partial(ConvNeXt, [CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 2)], stochastic_depth_prob=0.0)
    ),
    "small_swin": Architecture(
        partial(SwinTransformer, patch_size=[4, 4], embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4],
                stochastic_depth_prob=0.0)
    ),
    "small_vit": Architecture(
        partial(models.VisionTransformer, image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32,
                mlp_dim=64)
    ),
}  # fmt: skip
"""A few blocks each, for the tests that run every time."""


def torchvision_names() -> list[str]:
    """Every classification architecture of torchvision."""
    names: list[str] = models.list_models(module=models)
    return names


def architecture(name: str) -> Architecture:
    """How one of them, or a miniature, is made."""
    return {**OWN_WAY, **MINIATURES}.get(name) or _plain(name)


def build(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """A classifier in eval mode whose scores depend on its input, and the shape of its input."""
    chosen = architecture(name)
    shape = (3, chosen.size, chosen.size)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = chosen.make(num_classes=CLASSES)
    for key, parameter in model.named_parameters():
        if "layer_scale" in key or (parameter.dim() > 1 and not parameter.any()):  # a ViT's head starts at zero
            nn.init.normal_(parameter)
    model = model.eval().requires_grad_(False)
    _enliven(model, torch.randn(128 if chosen.size < 100 else 32, *shape))
    return model, shape


def _enliven(model: nn.Module, rows: Tensor) -> None:
    """Gives every layer outputs of about unit variance on these rows (N, C, H, W).

    As torch initialises them, the scores of many deep networks are their biases: any two files of them
    would compare equal.
    """

    def scale(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        bias = 0.0 if module.bias is None else module.bias.reshape(-1, *[1] * (output.dim() - 2 if conv(module) else 0))
        spread = (output - bias).std().clamp_min(1e-12) / (0.05 if module in gates else 1.0)
        module.weight /= spread
        return (output - bias) / spread + bias

    def conv(module: nn.Module) -> bool:
        return isinstance(module, nn.Conv2d)

    def measure(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        mean, variance = inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3))
        module.running_mean.copy_(mean)
        # Channels that hardly differ between these rows stay small: they would be made of rounding errors.
        module.bias.normal_(0, 1.5)  # and few ReLU are near their kink: deep networks of them double every error
        module.running_var.copy_(variance + 0.3 * variance.mean() + 0.05 * mean.square())

    gates = {part for module in model.modules() if isinstance(module, SqueezeExcitation) for part in module.modules()}
    hooks = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            hooks.append(module.register_forward_hook(scale))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(measure))
    with torch.no_grad():
        model(rows)
    for hook in hooks:
        hook.remove()
