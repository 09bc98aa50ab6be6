"""The names of student architectures and export formats: what completion and suggestions need, without torch."""

from __future__ import annotations

from typing import Literal

from cake_cli.errors import UsageError, did_you_mean

STUDENTS: dict[str, str] = {
    "cnn": "three 3x3 convolutions (32, 64, 128), max-pooling, a linear layer; any image size",
    "lenet5": "LeNet-5 in the form that DAFL and CAKE use; images of 32x32 or near",
    "lenet5-half": "LeNet-5 with half the channels",
    "linear": "one linear layer",
    "mlp": "hidden layers of 256 and 256; mlp:64,64 gives others; images or vectors",
    "resnet4": "the small ResNet of the CAKE paper: four stages of one block",
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
    "resnet152": "ResNet-152",
    "resnext50_32x4d": "ResNeXt-50 32x4d",
    "resnext101_32x8d": "ResNeXt-101 32x8d",
    "resnext101_64x4d": "ResNeXt-101 64x4d",
    "wide_resnet50_2": "Wide ResNet-50-2",
    "wide_resnet101_2": "Wide ResNet-101-2",
}
"""Name and what it is. The ResNets have a 3x3 stride-1 stem without pooling below 64 pixels."""


ExportFormat = Literal["onnx", "torchscript", "pt2", "safetensors"]
EXPORTS: dict[ExportFormat, str] = {
    "onnx": ".onnx",
    "torchscript": ".torchscript",
    "pt2": ".pt2",
    "safetensors": ".safetensors",
}
"""Formats of `cake export`, and how the names of their files end."""


def base_name(student: str) -> str:
    """``mlp`` of ``mlp:64,64``.

    Raises:
        UsageError: if there is no such architecture; with the nearest name.
    """
    name = student.partition(":")[0]
    if name not in STUDENTS:
        hint = did_you_mean(name, STUDENTS)
        raise UsageError(
            f"there is no student {student!r}" + (f", {hint}" if hint else ""), "`cake students` lists them"
        )
    return name
