"""Torchvision classifiers at small size, and the ways torch writes them as ONNX."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

import torch
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2
from torchvision.models.vgg import make_layers

CLASSES = 10

small_maxvit = partial(
    MaxVit,
    stem_channels=16,
    partition_size=2,
    block_channels=[16, 32],
    block_layers=[1, 1],
    head_dim=8,
    stochastic_depth_prob=0.0,
)
small_swin = partial(
    SwinTransformer, patch_size=[4, 4], embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4],
    stochastic_depth_prob=0.0,
)  # fmt: skip


def small_vgg(num_classes: int) -> nn.Module:
    """VGG with narrow layers: the real one is half a gigabyte of classifier."""
    plan = [8, "M", 8, "M", 16, "M", 16, "M", 16, "M"]
    model = models.VGG(make_layers(plan, batch_norm=True), num_classes=num_classes, init_weights=False)
    model.classifier = nn.Sequential(nn.Linear(16 * 7 * 7, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, num_classes))
    return model


ARCHITECTURES: dict[str, tuple[Callable[..., nn.Module], int]] = {
    "alexnet": (models.alexnet, 224),
    "convnext": (
        partial(ConvNeXt, [CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 2)], stochastic_depth_prob=0.0), 32,
    ),
    "densenet": (partial(models.DenseNet, 8, (2, 3, 2, 2), 16), 32),
    "efficientnet_b0": (models.efficientnet_b0, 32),
    "efficientnet_v2_s": (models.efficientnet_v2_s, 32),
    "googlenet": (partial(models.googlenet, aux_logits=False, init_weights=False), 32),
    "inception_v3": (partial(models.inception_v3, aux_logits=False, init_weights=False), 80),
    "maxvit": (partial(small_maxvit, input_size=(32, 32)), 32),
    "mnasnet0_5": (models.mnasnet0_5, 32),
    "mobilenet_v2": (models.mobilenet_v2, 32),
    "mobilenet_v3_small": (models.mobilenet_v3_small, 32),
    "regnet_x_400mf": (models.regnet_x_400mf, 32),
    "regnet_y_400mf": (models.regnet_y_400mf, 32),
    "resnet18": (models.resnet18, 32),
    "resnext50_32x4d": (models.resnext50_32x4d, 32),
    "shufflenet_v2_x0_5": (models.shufflenet_v2_x0_5, 32),
    "squeezenet1_1": (models.squeezenet1_1, 32),
    "swin": (small_swin, 32),
    "swin_v2": (partial(small_swin, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2), 32),
    "vgg_bn": (small_vgg, 224),
    "vit": (
        partial(models.VisionTransformer, image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32,
                mlp_dim=64), 32,
    ),
    "wide_resnet50_2": (models.wide_resnet50_2, 32),
}  # fmt: skip


def build(architecture: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """A classifier in eval mode with lively batch statistics, and the shape of its input."""
    factory, size = ARCHITECTURES[architecture]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = factory(num_classes=CLASSES)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    for name, parameter in model.named_parameters():
        if "layer_scale" in name or (parameter.dim() > 1 and not parameter.any()):  # a ViT's head starts at zero
            nn.init.normal_(parameter)
    return model.eval().requires_grad_(False), (3, size, size)


@contextmanager
def _written_out_attention() -> Iterator[None]:
    """Without the fused attention of inference, which the legacy exporter has no symbol for."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def export_current(
    model: nn.Module, shape: tuple[int, ...], path: Path, *, opset: int, symbolic: bool, exported: object = None
) -> object:
    """Writes a file with the exporter of today; returns the exported program for the next opset."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exported is None:
            example = torch.randn(2 if symbolic else 1, *shape)
            shapes = ({0: torch.export.Dim("batch")},) if symbolic else None
            exported = torch.export.export(model, (example,), dynamic_shapes=shapes, strict=False)
        program = torch.onnx.export(exported, (), None, opset_version=opset, dynamo=True, verbose=False)
        program.save(str(path))
    return exported


def export_legacy(model: nn.Module, shape: tuple[int, ...], path: Path, *, opset: int, symbolic: bool) -> None:
    """Writes a file with the exporter that traces."""
    axes = {"input": {0: "batch"}, "logits": {0: "batch"}} if symbolic else None
    with warnings.catch_warnings(), _written_out_attention(), redirect_stdout(StringIO()):  # it prints graphs
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.randn(1, *shape),), str(path), opset_version=opset, dynamo=False, verbose=False,
            input_names=["input"], output_names=["logits"], dynamic_axes=axes,
        )  # fmt: skip
