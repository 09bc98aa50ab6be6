"""All 80 of torchvision's, adapted by one set of rules."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from cake_cli.catalog import TORCHVISION_NAMES
from cake_cli.errors import UsageError
from cake_cli.models.architectures import build_student, measure_student
from cake_cli.models.weightless import Weightless

ALL = sorted(TORCHVISION_NAMES)
WHOLE_PATCHES = {name for name in ALL if name.startswith("vit_")}
TOO_SMALL_AT_28 = {name for name in ALL if name.startswith("vgg")} | {"maxvit_t"} | WHOLE_PATCHES - {"vit_h_14"}
LARGER = (
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "inception_v3",
    "maxvit_t",
    "swin_t",
    "swin_v2_t",
    "vit_b_32",
)
AUXILIARY = {"googlenet", "inception_v3"}


def takes(name: str, shape: tuple[int, ...]) -> bool:
    try:
        measure_student(name, shape, 7)
    except UsageError:
        return False
    return True


def test_at_28_all_but_a_few_fit() -> None:
    assert {name for name in ALL if not takes(name, (1, 28, 28))} == TOO_SMALL_AT_28


def test_at_32_all_but_one_fit() -> None:
    assert {name for name in ALL if not takes(name, (3, 32, 32))} == {"vit_h_14"}


@pytest.mark.parametrize("name", ALL)
def test_at_224_they_are_torchvisions_own(name: str) -> None:
    options = {"aux_logits": False, "init_weights": False} if name in AUXILIARY else {}
    with Weightless():
        ours = build_student(name, (3, 224, 224), 10).state_dict()
        theirs = get_model(name, weights=None, num_classes=10, **options).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "vit_b_32", "maxvit_t", "swin_t"])
def test_at_224_they_compute_what_torchvision_computes(name: str) -> None:
    assert measure_student(name, (3, 224, 224), 1000).multiply_adds == pytest.approx(
        {"resnet18": 1.814e9, "vgg11": 7.609e9, "vit_b_32": 4.409e9, "maxvit_t": 5.558e9, "swin_t": 4.491e9}[name],
        rel=0.01,
    )


@pytest.mark.parametrize(("name", "shape"), [
    ("resnet18", (1, 8, 8)), ("squeezenet1_1", (1, 16, 16)), ("mobilenet_v3_small", (2, 8, 8)),
    ("shufflenet_v2_x0_5", (1, 9, 7)), ("mnasnet0_5", (3, 8, 8)), ("regnet_y_400mf", (1, 8, 8)),
    ("googlenet", (1, 16, 16)), ("vgg11_bn", (1, 32, 32)), ("alexnet", (1, 32, 32)),
])  # fmt: skip
def test_they_learn_on_small_images(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = build_student(name, shape, 7).train()
    logits = network(torch.randn(2, *shape))
    assert logits.shape == (2, 7)
    assert bool(logits.isfinite().all())
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGER)
def test_larger_ones_learn_on_small_images(name: str) -> None:
    test_they_learn_on_small_images(name, (3, 32, 32))


def test_the_small_form() -> None:
    with Weightless():
        resnet, inception = (build_student(name, (3, 32, 32), 10) for name in ("resnet18", "inception_v3"))
        densenet, swin = (build_student(name, (1, 32, 32), 10) for name in ("densenet121", "swin_t"))
        vgg = build_student("vgg11", (3, 32, 32), 10)
    for stem in (resnet.conv1, inception.Conv2d_1a_3x3.conv, densenet.features.conv0, swin.features[0][0]):
        assert (stem.kernel_size, stem.stride, stem.padding) == ((3, 3), (1, 1), (1, 1))
    assert densenet.features.conv0.in_channels == swin.features[0][0].in_channels == 1
    for pooling in (resnet.maxpool, inception.maxpool1, densenet.features.pool0):
        assert isinstance(pooling, nn.Identity)
    assert isinstance(inception.maxpool2, nn.MaxPool2d)
    assert vgg.features[0].stride == (1, 1)
    assert isinstance(vgg.features[2], nn.MaxPool2d), "a stem without a stride keeps its pooling"
    assert (vgg.avgpool.output_size, vgg.classifier[0].in_features) == ((1, 1), 512)


def test_the_form_can_be_chosen() -> None:
    with Weightless():
        published = build_student("resnet18:form=published", (3, 32, 32), 10)
        small = build_student("resnet18:form=small", (3, 96, 96), 10)
        grid = build_student("vgg11:form=published", (3, 32, 32), 10)
    assert published.conv1.stride == (2, 2)
    assert small.conv1.stride == (1, 1)
    assert grid.classifier[0].in_features == 512 * 7 * 7


def test_a_vit_keeps_its_patches() -> None:
    with Weightless():
        network = build_student("vit_b_16", (5, 32, 32), 10)
    assert (network.conv_proj.kernel_size, network.conv_proj.in_channels) == ((16, 16), 5)
    assert network.encoder.pos_embedding.shape[1] == 1 + 4


@pytest.mark.parametrize(("side", "window"), [(32, 2), (48, 3), (64, 2), (96, 3), (224, 7), (256, 8)])
def test_the_window_of_maxvit_fits(side: int, window: int) -> None:
    with Weightless():
        assert build_student("maxvit_t", (3, side, side), 10).partition_size == window
    assert takes("maxvit_t", (3, side, side))


@pytest.mark.parametrize(("name", "kind"), [
    ("vit_b_16", "of whole 16x16 patches, such as 32x32,"),
    ("maxvit_t", "whose features divide into windows at every stage, such as 64x64 or 96x96,"),
])  # fmt: skip
def test_images_that_are_not_square(name: str, kind: str) -> None:
    with pytest.raises(UsageError, match=f"{name} takes square images {kind} not 3x32x64"):
        build_student(name, (3, 32, 64), 10)
    assert takes("swin_t", (3, 32, 64))
    assert takes("resnet18", (3, 32, 64))


def test_a_new_stem_keeps_the_size_of_its_outputs() -> None:
    """AlexNet has no normalisation that would hide another scale."""
    torch.manual_seed(0)
    published = build_student("alexnet", (3, 224, 224), 10).features[0]
    small = build_student("alexnet", (1, 32, 32), 10).features[0]
    with torch.no_grad():
        outputs = published(torch.randn(2, 3, 224, 224)).std(), small(torch.randn(8, 1, 32, 32)).std()
    assert float(outputs[1] / outputs[0]) == pytest.approx(1.0, abs=0.25)


def test_a_seed_decides_the_weights() -> None:
    torch.manual_seed(3)
    first = build_student("resnet18", (1, 8, 8), 4).state_dict()
    torch.manual_seed(3)
    again = build_student("resnet18", (1, 8, 8), 4).state_dict()
    assert all(tensor.equal(again[key]) for key, tensor in first.items())
