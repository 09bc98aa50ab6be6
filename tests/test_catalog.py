"""How a text of --student is read: names, options, files; each fault is one sentence, without torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torchvision

from cake_cli.catalog import (
    FAMILIES,
    OWN,
    STUDENTS,
    TORCHVISION_NAMES,
    is_named,
    read_student,
    relatives,
    short_name,
)
from cake_cli.errors import UsageError


def test_every_classifier_of_torchvision_is_there_once() -> None:
    assert sorted(TORCHVISION_NAMES) == sorted(torchvision.models.list_models(module=torchvision.models))
    assert len(STUDENTS) == sum(map(len, FAMILIES)) == len(TORCHVISION_NAMES) + sum(map(len, OWN))


@pytest.mark.parametrize("name", STUDENTS)
def test_a_name_is_read_as_itself(name: str) -> None:
    assert read_student(name).base == name
    assert is_named(name)
    assert name not in relatives(name)
    assert set(relatives(name)) <= set(STUDENTS)


def test_options() -> None:
    assert read_student("mlp:64,32").hidden == (64, 32)
    assert read_student("mlp").hidden == ()
    assert read_student("vit:dim=32, heads=2").numbers == {"dim": 32, "heads": 2}
    assert read_student("resnet18:form=small").form == "small"
    assert read_student("resnet18").form is None
    assert read_student("wrn-22-4").numbers == {"depth": 22, "width": 4}
    assert read_student("vit:patch=2").base == "vit"


def test_other_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (read_student("timm:resnet10t").kind, read_student("timm:resnet10t.c3_in1k").base) == (
        "timm",
        "resnet10t.c3_in1k",
    )
    assert read_student("a/b.py:make").kind == "source"
    assert read_student("runs/a").kind == read_student("student.safetensors").kind == "file"
    assert read_student("same").kind == "same"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "cnn").mkdir()
    assert read_student("here").kind == "file"
    assert read_student("cnn").kind == "name", "a folder of that name does not hide an architecture"


@pytest.mark.parametrize(("text", "message"), [
    ("vit:patc=4", "vit has no option 'patc', did you mean 'patch'?"),
    ("vit:colour=4", "vit has no option 'colour'; it has patch, dim, depth, heads"),
    ("vit:4", "an option of vit is written KEY=VALUE, not '4'"),
    ("vit:patch=", "an option of vit is written KEY=VALUE, not 'patch='"),
    ("vit:patch=0", "patch of vit is a whole number from 1 to 4096, not '0'"),
    ("vit:depth=two", "depth of vit is a whole number from 1 to 256, not 'two'"),
    ("vit:patch=4,patch=2", "vit was given patch twice"),
    ("vit:dim=30", "vit cannot cut dim=30 into heads=4 equal parts"),
    ("resnet18:form=tiny", "form of resnet18 is published or small, not 'tiny'"),
    ("resnet18:stem=3", "resnet18 has no option 'stem'; it has form"),
    ("cnn:3", "cnn takes no options, not '3'"),
    ("wrn-16-2:form=small", "wrn-16-2 takes no options, not 'form=small'"),
    ("cnn:", "'cnn:' ends in a colon, but names no option"),
    ("mlp:0", "mlp takes sizes of hidden layers, up to 64 of up to 65536, not '0'"),
    ("mlp:a,b", "mlp takes sizes of hidden layers"),
    ("mlp:99999999", "mlp takes sizes of hidden layers"),
    ("mlp:" + ",".join(["8"] * 65), "mlp takes sizes of hidden layers"),
    ("wrn-17-2", "wrn-17-2 is no Wide ResNet"),
    ("wrn-16-0", "wrn-16-0 is no Wide ResNet"),
    ("timm:", "timm:NAME takes a name of timm, not ''"),
    ("timm:local-dir:/etc", "timm:NAME takes a name of timm"),
    ("timm:../x", "timm:NAME takes a name of timm"),
    ("model.py", "model.py is code, but no function of it is named"),
    ("", "there is no student ''"),
    ("x" * 5000, "there is no student"),
])  # fmt: skip
def test_each_fault_has_its_sentence(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_student(text)
    assert caught.value.what.startswith(message)
    assert caught.value.fix


@pytest.mark.parametrize("text", ["vit:dim=30", "vit:dim=30,depth=2", "wrn-17-2", "wrn-9999-99", "resnet18:stem=3"])
def test_what_is_advised_can_be_typed(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_student(text)
    read_student(str(caught.value.fix).removeprefix("--student "))


@pytest.mark.parametrize(
    ("name", "hint"), [("resnet8", "'resnet18'"), ("wide_resnet50", "'wide_resnet50_2'"), ("lenet", "'lenet5'")]
)
def test_an_unknown_name_suggests_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_student(name)
    assert f"there is no student {name!r}, did you mean {hint}?" == caught.value.what
    assert "cake students" in (caught.value.fix or "")


def test_a_name_like_no_other_has_no_suggestion() -> None:
    with pytest.raises(UsageError) as caught:
        read_student("qqqq")
    assert caught.value.what == "there is no student 'qqqq'"


@pytest.mark.parametrize(("text", "short"), [
    ("mlp:64,64", "mlp:64,64"), ("same", "same"), ("timm:resnet10t", "timm:resnet10t"),
    ("/home/me/nets.py:make", "nets.py:make"), ("runs/a/student.safetensors", "a"), ("w/mine.safetensors", "mine"),
    ("student.safetensors", "student"),
])  # fmt: skip
def test_what_a_student_is_called_without_folders(text: str, short: str) -> None:
    assert short_name(text) == short
