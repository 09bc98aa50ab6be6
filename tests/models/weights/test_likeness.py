"""Weights that fit nothing by name: what they look like, and what the user is told to type."""

from __future__ import annotations

import pytest
from torch import nn
from torchvision.models import resnet18

from cake_cli.models.weights.likeness import looks_like


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    state = network.state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")}


def convolution(channels: int = 16, inside: int = 16) -> tuple[int, ...]:
    return (channels, inside, 3, 3)


def akamaster(blocks: int) -> dict[str, tuple[int, ...]]:
    stages = {f"layer{s}.{b}.conv{c}.weight": convolution() for s in (1, 2, 3) for b in range(blocks) for c in (1, 2)}
    return {"conv1.weight": convolution(16, 3)} | stages | {"linear.weight": (10, 64), "linear.bias": (10,)}


def test_cifar_resnets_are_named_with_the_function_that_builds_them() -> None:
    like = looks_like(akamaster(9))
    assert "ResNet-56" in like.sentence
    assert "akamaster" in like.sentence
    assert (like.arch, like.input_shape) == ("resnet.py:resnet56", (3, 32, 32))


def test_a_wide_resnet_tells_depth_and_width() -> None:
    layers = {f"block{s}.layer.{n}.conv1.weight": convolution(160) for s in (1, 2, 3) for n in range(4)}
    like = looks_like({"conv1.weight": convolution(16, 3)} | layers | {"fc.weight": (100, 640)})
    assert "Wide ResNet-28-10" in like.sentence


def test_a_torchvision_network_with_another_head_is_recognised() -> None:
    network = resnet18(num_classes=10)
    network.fc = nn.Sequential(nn.Dropout(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10))  # type: ignore[assignment]
    like = looks_like(shapes(network))
    assert like.sentence == ("resnet18 of torchvision, with another head: fc.1.weight (64, 512), fc.3.weight (10, 64)")
    below = looks_like(shapes(nn.ModuleDict({"backbone": network, "classifier": nn.Linear(10, 5)})))
    assert below.sentence.startswith("resnet18 of torchvision below the name backbone, with another head")


@pytest.mark.parametrize(("network", "told", "row"), [
    (nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10)), "2 linear layers, 784 to 64 to 10", (784,)),
    (nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(32, 7)), "1 convolution, from 1 channel to 7 outputs",
     (1, "H", "W")),
    (nn.Sequential(nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)), "no linear layer at its end", (3, "H", "W")),
])  # fmt: skip
def test_any_network_is_told_by_its_layers(network: nn.Module, told: str, row: tuple[object, ...]) -> None:
    like = looks_like(shapes(network))
    assert told in like.sentence
    assert like.input_shape == row


@pytest.mark.parametrize(("names", "kind"), [
    (["bert.embeddings.word_embeddings.weight"], "a language model"),
    (["rpn.head.conv.weight", "backbone.conv1.weight"], "an object detector"),
    (["lstm.weight_ih_l0"], "a recurrent network"),
    (["fc.weight", "fc.scale", "fc.zero_point"], "quantised to int8"),
    (["model.0.conv.weight", "model.0.bn.weight"], "a YOLO model of Ultralytics"),
    (["vit.embeddings.cls_token"], "an image classifier of transformers"),
])  # fmt: skip
def test_what_cannot_be_built_from_a_name_says_why(names: list[str], kind: str) -> None:
    like = looks_like(dict.fromkeys(names, (4, 4)))
    assert kind in like.sentence
    assert like.arch is None


def test_the_tutorial_network() -> None:
    network = nn.ModuleDict({
        "conv1": nn.Conv2d(3, 6, 5), "conv2": nn.Conv2d(6, 16, 5),
        "fc1": nn.Linear(400, 120), "fc2": nn.Linear(120, 84), "fc3": nn.Linear(84, 10),
    })  # fmt: skip
    assert looks_like(shapes(network)).input_shape == (3, 32, 32)
