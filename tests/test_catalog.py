"""The names that complete and suggest are the names that build."""

from __future__ import annotations

import pytest
import torch
from torchvision import models as torchvision_models

from cake_cli.catalog import STUDENTS, base_name
from cake_cli.errors import UsageError
from cake_cli.models.architectures import build_student

OWN = {"cnn", "lenet5", "lenet5-half", "linear", "mlp", "resnet4"}


@pytest.mark.parametrize("name", STUDENTS)
def test_every_name_builds(name: str):
    with torch.device("meta"):
        network = build_student(name, (3, 32, 32), 10)
        assert network(torch.empty(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", sorted(set(STUDENTS) - OWN))
def test_the_others_are_torchvisions(name: str):
    with torch.device("meta"):
        theirs = torchvision_models.get_model(name, num_classes=10)
        ours = build_student(name, (3, 224, 224), 10)
    assert {key: value.shape for key, value in theirs.state_dict().items()} == {
        key: value.shape for key, value in ours.state_dict().items()
    }


def test_options_belong_to_a_name():
    assert base_name("mlp:64,64") == "mlp"
    assert base_name("resnet18") == "resnet18"


@pytest.mark.parametrize(
    ("name", "hint"), [("resnet8", "'resnet18'"), ("wide_resnet50", "'wide_resnet50_2'"), ("lenet", "'lenet5'")]
)
def test_an_unknown_name_suggests_the_nearest(name: str, hint: str):
    with pytest.raises(UsageError) as caught:
        base_name(name)
    assert f"there is no student {name!r}, did you mean {hint}?" == caught.value.what
    assert "cake students" in (caught.value.fix or "")


def test_a_name_like_no_other_has_no_suggestion():
    with pytest.raises(UsageError) as caught:
        base_name("qqqq")
    assert caught.value.what == "there is no student 'qqqq'"
