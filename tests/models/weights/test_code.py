"""Weights with the code that builds their network: ``--arch FILE.py:FUNCTION``; and with names of forks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from cake_cli.config import TeacherConfig
from cake_cli.errors import ModelFileError
from cake_cli.models.architectures import build_student
from cake_cli.models.formats import sniff
from cake_cli.models.loading import load_classifier
from cake_cli.models.weights import fitting, read_weights

CODE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x):
        return self.model(x)

def needs(depth):
    return Net()
"""
NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))
SHAPE = (3, 2, 2)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    file = tmp_path / "net.py"
    file.write_text(CODE)
    return file


@pytest.mark.parametrize("prefix", ["", "model.", "module.model.", "_orig_mod.model."])
def test_weights_are_put_into_what_the_code_builds(code: Path, prefix: str) -> None:
    file = code.with_name("w.pth")
    torch.save({"net": {f"{prefix}{name}": value for name, value in NETWORK.state_dict().items()}}, file)
    if not prefix:
        code.write_text(CODE.replace("Net(nn.Module)", "Other(nn.Module)") + "\ndef Net():\n    return Other().model\n")
    found = load_classifier(file, TeacherConfig(arch=f"{code}:Net", input_shape=SHAPE))
    rows = torch.randn(4, *SHAPE)
    with torch.no_grad():
        assert found(rows).allclose(NETWORK(rows), atol=1e-6)
    assert found.classes == 3
    assert any("whose code was run" in mend for mend in found.mends)


def test_the_shape_is_asked_for_and_keys_must_fit(code: Path) -> None:
    file = code.with_name("w.pth")
    torch.save(nn.Linear(12, 3).state_dict(), file)
    with pytest.raises(ModelFileError, match=r"not those of net.py:Net: 4 missing: model.1.weight"):
        load_classifier(file, TeacherConfig(arch=f"{code}:Net", input_shape=SHAPE))
    torch.save({f"model.{name}": value for name, value in NETWORK.state_dict().items()}, file)
    with pytest.raises(ModelFileError, match="does not state the shape") as caught:
        load_classifier(file, TeacherConfig(arch=f"{code}:Net"))
    assert str(caught.value.fix).startswith("--input-shape")


def test_a_function_that_takes_arguments_is_told(code: Path) -> None:
    file = code.with_name("w.pth")
    torch.save(NETWORK.state_dict(), file)
    with pytest.raises(ModelFileError, match="needs failed") as caught:
        load_classifier(file, TeacherConfig(arch=f"{code}:needs", input_shape=SHAPE))
    assert "without arguments" in str(caught.value.fix)


def test_names_of_kuangliu_open_as_our_small_resnet(tmp_path: Path) -> None:
    network = build_student("resnet18", (3, 32, 32), 10).eval()
    names = {name: name.replace("downsample", "shortcut") for name in network.state_dict()}
    names = {
        name: f"module.linear.{name[3:]}" if name.startswith("fc.") else f"module.{new}" for name, new in names.items()
    }
    file = tmp_path / "ckpt.pth"
    torch.save({"net": {names[name]: value for name, value in network.state_dict().items()}, "acc": 95.1}, file)
    fits = fitting(read_weights(sniff(file)))
    assert [(fit.architecture, fit.origin) for fit in fits] == [("resnet18", "cake")]
    assert "kuangliu" in fits[0].spelling
    found = load_classifier(file, TeacherConfig(arch="resnet18", input_shape=(3, 32, 32)))
    rows = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert found(rows).allclose(network(rows), atol=1e-4)
    assert fits[0].spelling in found.mends


def test_a_part_of_a_larger_module_is_found_below_its_name(tmp_path: Path) -> None:
    network = build_student("resnet18", (3, 32, 32), 10).eval()
    file = tmp_path / "w.pth"
    torch.save({f"backbone.{name}": value for name, value in network.state_dict().items()}, file)
    fits = fitting(read_weights(sniff(file)))
    assert fits[0].spelling == "prefix backbone. stripped from the names"
    assert load_classifier(file, TeacherConfig(arch="resnet18", input_shape=(3, 32, 32))).classes == 10
