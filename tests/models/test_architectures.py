from __future__ import annotations

import pytest
import torch
import torchvision

from cake_cli.catalog import STUDENTS
from cake_cli.errors import UsageError
from cake_cli.models.architectures import build_student

ANY_SIZE = [name for name in STUDENTS if not name.startswith("lenet")]
HEAVY = {name for name in STUDENTS if name.startswith(("resnext", "wide", "resnet1"))} - {"resnet18"}


@pytest.mark.parametrize("name", [name for name in ANY_SIZE if name not in HEAVY])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (5, 9, 7)])
def test_any_channels_and_small_sizes(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = build_student(name, shape, 7).train()
    logits = network(torch.randn(2, *shape))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("name", STUDENTS)
def test_every_name_of_the_catalogue_builds(name: str) -> None:
    with torch.device("meta"):
        network = build_student(name, (3, 32, 32), 10)
    assert network(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)


@pytest.mark.parametrize(
    "name", [name for name in STUDENTS if name.startswith(("resnet", "resnext", "wide")) and name != "resnet4"]
)
def test_large_inputs_get_torchvisions_own_network(name: str) -> None:
    with torch.device("meta"):
        ours = build_student(name, (3, 224, 224), 1000).state_dict()
        theirs = getattr(torchvision.models, name)(weights=None).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


def test_small_inputs_keep_their_resolution() -> None:
    network = build_student("resnet18", (3, 32, 32), 10)
    assert network.conv1.stride == (1, 1)
    assert network.conv1.kernel_size == (3, 3)
    assert isinstance(network.maxpool, torch.nn.Identity)


@pytest.mark.parametrize(("name", "parameters"), [("lenet5", 61_706), ("lenet5-half", 15_738)])
def test_lenet_has_its_published_size(name: str, parameters: int) -> None:
    network = build_student(name, (1, 32, 32), 10)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert build_student(name, (1, 28, 28), 10)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(("name", "shape", "message"), [
    ("resnet81", (3, 32, 32), "did you mean 'resnet18'"),
    ("lenet5", (1, 8, 8), "takes images of 28 to 36 pixels"),
    ("resnet18", (12,), "is for images"),
    ("cnn:3", (1, 8, 8), "takes no options"),
    ("mlp:0", (4,), "takes sizes of hidden layers"),
    ("mlp:a,b", (4,), "takes sizes of hidden layers"),
    ("mlp:99999999", (4,), "takes sizes of hidden layers"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        build_student(name, shape, 10)
    assert caught.value.fix


def test_mlp_takes_sizes_and_vectors() -> None:
    network = build_student("mlp:12,5", (4,), 3)
    assert [tuple(layer.weight.shape) for layer in network if isinstance(layer, torch.nn.Linear)] == [
        (12, 4),
        (5, 12),
        (3, 5),
    ]
