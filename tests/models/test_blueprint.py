"""What --student and --init mean for a teacher: same, a file, weights, one's own code; and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import get_model

from cake_cli.config import TeacherConfig
from cake_cli.errors import ModelFileError, UsageError
from cake_cli.models.architectures import build_student
from cake_cli.models.blueprint import check_named, plan_student
from cake_cli.models.classifier import Classifier
from cake_cli.models.loading import load_classifier
from cake_cli.models.students import save_student
from cake_cli.spec import InputSpec
from cake_cli.storage import sha256

SPEC = InputSpec((1, 8, 8))


def student(path: Path, name: str, shape: tuple[int, ...] = SPEC.shape, classes: int = 3) -> Path:
    torch.manual_seed(5)
    network = build_student(name, shape, classes)
    save_student(path, network, name, spec=InputSpec(shape), classes=classes, class_names=None, teacher_sha256="f" * 64)
    return path


def test_a_name(tmp_path: Path) -> None:
    blueprint = plan_student("mlp:4", (6,), 2)
    assert (blueprint.architecture, blueprint.note, blueprint.weights) == ("mlp:4", "random init", None)
    assert blueprint.size.parameters == sum(p.numel() for p in blueprint.build().parameters()) == 6 * 4 + 4 + 4 * 2 + 2
    assert blueprint.to_json()["parameters"] == blueprint.size.parameters


def test_a_name_that_does_not_fit_is_refused_with_what_does() -> None:
    with pytest.raises(UsageError) as caught:
        plan_student("vgg11", (1, 8, 8), 10)
    assert caught.value.what == "vgg11 cannot take inputs of 1x8x8: it takes 32x32 and larger"
    assert "--student with one of cnn, resnet4" in str(caught.value.fix)


@pytest.mark.parametrize("name", ["cnn", "vit:patch=2,dim=8,depth=1,heads=2", "resnet18:form=published"])
def test_same_as_a_student_of_ours(tmp_path: Path, name: str) -> None:
    teacher = load_classifier(student(tmp_path / "s.safetensors", name))
    blueprint = plan_student("same", teacher.spec.shape, teacher.classes, teacher=teacher)
    assert blueprint.architecture.startswith(name)
    assert blueprint.note == f"the teacher's {blueprint.architecture}, random init"
    assert shapes(blueprint.build()) == shapes(teacher.module)


def shapes(module: torch.nn.Module) -> list[tuple[int, ...]]:
    return sorted(tuple(tensor.shape) for tensor in module.state_dict().values())


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 64, 64)])
def test_same_as_weights_of_torchvision_is_the_published_form(tmp_path: Path, shape: tuple[int, ...]) -> None:
    torch.save(get_model("resnet18", weights=None, num_classes=4).state_dict(), tmp_path / "w.pth")
    settings = TeacherConfig(arch="resnet18", input_shape=shape, verify=False)
    teacher = load_classifier(tmp_path / "w.pth", settings)
    blueprint = plan_student("same", shape, 4, teacher=teacher)
    assert blueprint.architecture == "resnet18:form=published"
    assert shapes(blueprint.build()) == shapes(teacher.module)


def test_same_as_our_weights_and_timms(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    save_file(build_student("mlp:9", (12,), 4).state_dict(), tmp_path / "w.safetensors")
    ours = load_classifier(tmp_path / "w.safetensors", TeacherConfig(arch="mlp:9", verify=False))
    assert plan_student("same", (12,), 4, teacher=ours).architecture == "mlp:9"
    torch.save(timm.create_model("resnet10t", num_classes=4).state_dict(), tmp_path / "t.pth")
    settings = TeacherConfig(arch="timm:resnet10t", input_shape=(3, 32, 32), verify=False)
    theirs = load_classifier(tmp_path / "t.pth", settings)
    assert plan_student("same", (3, 32, 32), 4, teacher=theirs).architecture == "timm:resnet10t"


def test_same_as_what_nobody_knows(mlp_file: Path, toy_teacher: Classifier) -> None:
    with pytest.raises(UsageError, match=r"teacher\.onnx does not say its architecture") as caught:
        plan_student("same", (1, 4, 4), 3, teacher=load_classifier(mlp_file, TeacherConfig(verify=False)))
    assert "cake students" in str(caught.value.fix)
    with pytest.raises(UsageError, match="the bank does not say"):
        plan_student("same", (1, 4, 4), 3)


def test_same_that_is_built_otherwise_is_refused(toy_teacher: Classifier) -> None:
    from dataclasses import replace

    claimed = replace(toy_teacher, same_as="cnn")
    with pytest.raises(UsageError, match=r"toy\.onnx is a cnn, but not as cake builds it for 1x4x4"):
        plan_student("same", (1, 4, 4), 4, teacher=claimed)


def test_a_students_file_is_its_architecture_and_its_weights(tmp_path: Path) -> None:
    path = student(tmp_path / "student.safetensors", "vit:dim=8,depth=1")
    for given in (path, tmp_path):
        blueprint = plan_student(str(given), (1, 8, 8), 3)
        assert blueprint.architecture == "vit:patch=2,dim=8,depth=1,heads=4"
        assert blueprint.note == f"{blueprint.architecture}, starts from {path}"
        assert blueprint.weights_sha256 == sha256(path)
    torch.manual_seed(99)
    rows = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(blueprint.build().eval()(rows), load_classifier(path)(rows))
    assert all(parameter.requires_grad for parameter in blueprint.build().parameters())


def test_weights_to_start_from(tmp_path: Path) -> None:
    torch.manual_seed(5)
    network = build_student("cnn", (1, 8, 8), 3)
    half = {f"module.{key}": value.half() if value.is_floating_point() else value for key, value in
            network.state_dict().items() if "num_batches" not in key}  # fmt: skip
    save_file(half, tmp_path / "w.safetensors")
    built = plan_student("cnn", (1, 8, 8), 3, weights=str(tmp_path / "w.safetensors")).build()
    torch.testing.assert_close(built.state_dict(), network.state_dict(), rtol=1e-3, atol=1e-3)
    assert plan_student("cnn", (1, 8, 8), 3, weights=str(student(tmp_path / "s.safetensors", "cnn"))).weights


@pytest.mark.parametrize(("name", "shape", "classes", "said"), [
    ("cnn", (1, 8, 8), 4, "not those of cnn for this teacher, but of cnn with 3 classes: 2 mismatched: "),
    ("linear", (1, 8, 8), 3, "not those of linear for this teacher, but of cnn with 3 classes: 18 unexpected: "),
    ("cnn", (3, 8, 8), 3, r"1 mismatched: 0\.weight \(file \(32, 1, 3, 3\), cnn \(32, 3, 3, 3\)\)"),
])  # fmt: skip
def test_weights_that_do_not_fit(tmp_path: Path, name: str, shape: tuple[int, ...], classes: int, said: str) -> None:
    path = student(tmp_path / "s.safetensors", "cnn")
    with pytest.raises(ModelFileError, match=said) as caught:
        plan_student(name, shape, classes, weights=str(path))
    assert "--student cnn" in str(caught.value.fix)


def test_a_start_from_weights_stored_as_whole_numbers_is_refused(tmp_path: Path) -> None:
    stored = build_student("linear", (4,), 3).state_dict()
    save_file(stored | {"1.weight": stored["1.weight"].char()}, tmp_path / "w.safetensors")
    with pytest.raises(ModelFileError, match=r"holds 1\.weight as int8, with which linear does not compute"):
        plan_student("linear", (4,), 3, weights=str(tmp_path / "w.safetensors"))


def test_files_that_are_no_start(tmp_path: Path, mlp_file: Path) -> None:
    save_file({"w": torch.zeros(3)}, tmp_path / "w.safetensors")
    path = student(tmp_path / "s.safetensors", "cnn")
    for name, weights, message in (
        (str(tmp_path / "w.safetensors"), None, "does not say of which architecture"),
        ("cnn", str(mlp_file), "is onnx, not weights"),
        (str(mlp_file), None, "is onnx, which no student starts from"),
        ("cnn", str(tmp_path / "gone.safetensors"), "there is no file"),
        (str(tmp_path / "gone.safetensors"), None, "there is no file"),
        (str(tmp_path), None, "is a folder"),
    ):
        with pytest.raises(ModelFileError, match=message) as caught:
            plan_student(name, (1, 8, 8), 3, weights=weights)
        assert caught.value.fix
    with pytest.raises(UsageError, match="--init names another"):
        plan_student(str(path), (1, 8, 8), 3, weights=str(path))


def test_own_code_starts_from_its_students_only_if_it_is_named(tmp_path: Path) -> None:
    code = tmp_path / "own.py"
    code.write_text(
        "from torch import nn\n\ndef make(channels, size, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes))\n"
    )
    path = student(tmp_path / "s.safetensors", f"{code}:make")
    with pytest.raises(ModelFileError, match=r"was made by own\.py:make") as caught:
        plan_student(str(path), (1, 8, 8), 3)
    assert f"--student PATH/own.py:make --init {path}" in str(caught.value.fix)
    blueprint = plan_student(f"{code}:make", (1, 8, 8), 3, weights=str(path))
    assert blueprint.code_sha256 == sha256(code)
    rows = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(blueprint.build()(rows), load_classifier(path, TeacherConfig(arch=f"{code}:make"))(rows))


def test_what_is_known_before_the_teacher_opens(tmp_path: Path) -> None:
    check_named("cnn", None)
    check_named(str(student(tmp_path / "s.safetensors", "cnn")), None)
    for name, weights in (("resnet8", None), ("vit:patch=x", None), ("gone.py:make", None)):
        with pytest.raises(UsageError):
            check_named(name, weights)
    for name, weights in (("gone.safetensors", None), ("cnn", "gone.safetensors")):
        with pytest.raises(ModelFileError):
            check_named(name, weights)
