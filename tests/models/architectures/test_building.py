"""Our own networks: any channels, sizes and classes; published sizes; options."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from cake_cli.catalog import OWN
from cake_cli.errors import ModelFileError, UsageError
from cake_cli.models.architectures import build_student, measure_student, written_options
from cake_cli.models.counting import parameters

OURS = [name for family in OWN for name in family]


@pytest.mark.parametrize("name", [name for name in OURS if not name.startswith("lenet") and name != "wrn-28-10"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (5, 9, 7)])
def test_any_channels_and_small_sizes(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = build_student(name, shape, 7).train()
    logits = network(torch.randn(2, *shape))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(("name", "classes", "count"), [
    ("lenet5", 10, 61_706), ("lenet5-half", 10, 15_738),
    ("wrn-16-2", 100, 703_284), ("wrn-40-1", 100, 569_780), ("wrn-40-2", 100, 2_255_156),
    ("wrn-28-10", 100, 36_536_884),
])  # fmt: skip
def test_published_sizes(name: str, classes: int, count: int) -> None:
    channels = 1 if name.startswith("lenet") else 3
    assert measure_student(name, (channels, 32, 32), classes).parameters == count


def test_large_images_get_a_stem() -> None:
    at_224 = measure_student("wrn-16-2", (3, 224, 224), 10).multiply_adds
    assert at_224 < 16 * measure_student("wrn-16-2", (3, 32, 32), 10).multiply_adds


def test_mlp_takes_sizes_and_vectors() -> None:
    network = build_student("mlp:12,5", (4,), 3)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [(12, 4), (5, 12), (3, 5)]


@pytest.mark.parametrize(("shape", "patch"), [
    ((1, 8, 8), 2), ((1, 9, 7), 1), ((1, 6, 6), 1), ((1, 12, 12), 2), ((1, 28, 28), 4),
    ((3, 32, 32), 4), ((3, 64, 64), 8), ((3, 224, 224), 16), ((3, 30, 45), 3),
])  # fmt: skip
def test_a_vit_finds_a_patch(shape: tuple[int, ...], patch: int) -> None:
    assert written_options("vit", shape) == f"patch={patch},dim=64,depth=6,heads=4"


def test_a_vit_has_its_options() -> None:
    network = build_student("vit:patch=2,dim=12,depth=3,heads=2", (3, 8, 6), 5)
    assert network.positions.shape == (1, 1 + 4 * 3, 12)
    assert (len(network.blocks), network.blocks[0].heads) == (3, 2)
    assert network(torch.randn(2, 3, 8, 6)).shape == (2, 5)
    rows = torch.randn(4, 3, 8, 6)
    torch.testing.assert_close(network(rows)[1:2], network(rows[1:2]))


@pytest.mark.parametrize(("name", "shape", "message", "fix"), [
    ("vit:patch=5", (3, 16, 32), "a patch of 5 does not divide images of 3x16x32; 1, 2, 4, 8 and 16 do", "patch=4"),
    ("vit:patch=5,dim=8", (3, 7, 7), "a patch of 5 does not divide images of 3x7x7; 1 and 7 do", "vit:patch=1,dim=8"),
    ("vit:patch=2", (3, 7, 5), "a patch of 2 does not divide images of 3x7x5; 1 does", "vit:patch=1"),
    ("vit", (3, 227, 227), "vit finds no patch for images of 3x227x227: 1x1 would make 51,529", "vit:patch=227"),
    ("lenet5", (1, 8, 8), "lenet5 takes images of 28 to 36 pixels, not 1x8x8", "cake students"),
    ("resnet18", (12,), "resnet18 is for images, not for vectors of 12", "--student mlp or --student linear"),
    ("same", (12,), "same is not the name of an architecture", "cake students"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(name: str, shape: tuple[int, ...], message: str, fix: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_student(name, shape, 10)
    assert caught.value.what.startswith(message)
    assert fix in str(caught.value.fix)


def test_written_options_build_the_same() -> None:
    for name in ("mlp", "vit", "resnet18", "cnn", "wrn-16-1"):
        options = written_options(name, (1, 8, 8))
        again = f"{name}:{options}" if options else name
        assert measure_student(again, (1, 8, 8), 3) == measure_student(name, (1, 8, 8), 3)
    assert written_options("resnet18", (3, 64, 64)) == "form=published"


OWN_CODE = """
from torch import nn

def make(channels, size, classes):
    assert isinstance(size, tuple)
    values = channels
    for side in size:
        values *= side
    return nn.Sequential(nn.Flatten(), nn.Linear(values, classes))

def wrong(channels, size, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, classes + 1))

def frozen(channels, size, classes):
    return make(channels, size, classes).requires_grad_(False)

def narrow(channels, size, classes):
    return nn.Linear(3, classes)
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN_CODE)
    return path


def test_own_code_is_called_with_channels_size_and_classes(code: Path) -> None:
    assert parameters(build_student(f"{code}:make", (1, 4, 4), 5)) == 16 * 5 + 5
    assert measure_student(f"{code}:make", (12,), 5).multiply_adds == 12 * 5


@pytest.mark.parametrize(("function", "message"), [
    ("wrong", "own.py:wrong returns 2x4 for 2 inputs of 1x4x4, not 2x3"),
    ("frozen", "own.py:frozen cannot learn"),
    ("narrow", "own.py:narrow does not take inputs of 1x4x4: "),
])  # fmt: skip
def test_own_code_is_tried(code: Path, function: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        measure_student(f"{code}:{function}", (1, 4, 4), 3)
    assert message in caught.value.what
    assert caught.value.fix


def test_own_code_that_fails_or_is_not_there(code: Path) -> None:
    code.write_text("def make(): pass")
    with pytest.raises(ModelFileError, match=r"make failed: TypeError: make\(\) takes 0"):
        build_student(f"{code}:make", (1, 4, 4), 3)
    with pytest.raises(ModelFileError, match="there is no file"):
        build_student("gone.py:make", (1, 4, 4), 3)


def test_timm_builds_for_the_input() -> None:
    pytest.importorskip("timm")
    assert measure_student("timm:resnet10t", (1, 32, 32), 4).parameters > 4_000_000
    vit = build_student("timm:vit_tiny_patch16_224", (2, 32, 48), 4)
    assert vit(torch.zeros(1, 2, 32, 48)).shape == (1, 4), "its fixed size is the input's"
    with pytest.raises(UsageError, match="timm has no architecture 'resnet10x', did you mean 'resnet10t'"):
        build_student("timm:resnet10x", (1, 32, 32), 4)
    with pytest.raises(UsageError, match="timm:vit_tiny_patch16_224 is for images"):
        build_student("timm:vit_tiny_patch16_224", (12,), 4)


def test_our_own_need_no_torchvision() -> None:
    """Its import takes a second: only who asks for one of its networks waits for it."""
    code = (
        "import json, sys; from cake_cli.models.architectures import measure_student as m; m('cnn', (1, 8, 8), 3); "
        "m('vit', (1, 8, 8), 3); m('wrn-16-1', (1, 8, 8), 3); m('mlp', (8,), 3); "
        "print(json.dumps('torchvision' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False
