"""Weights find their architecture by keys and shapes, and open as it with --arch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model

from cake_cli.catalog import TORCHVISION
from cake_cli.config import TeacherConfig
from cake_cli.errors import EnvironmentFault, ModelFileError, UsageError
from cake_cli.models.architectures import build_student
from cake_cli.models.formats import sniff
from cake_cli.models.loading import load_classifier
from cake_cli.models.students import save_student
from cake_cli.models.weights import Weights, command, fitting, naming, read_weights
from cake_cli.models.weights import torchvision as table
from cake_cli.spec import InputSpec
from tests.conftest import Outcome

QUICK = ("squeezenet1_1", "mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5", "alexnet", "resnet18", "vit_b_32")


def weights_of(module: nn.Module) -> Weights:
    return Weights(Path("w.pth"), dict(module.state_dict()), {}, ())


def weightless(name: str, classes: int) -> Weights:
    options = {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    with table.Weightless():
        return weights_of(get_model(name, weights=None, num_classes=classes, **options))


def test_the_list_is_torchvisions() -> None:
    assert sorted(table.NAMES) == sorted(torchvision.models.list_models(module=torchvision.models))


@pytest.mark.parametrize("name", QUICK)
def test_an_architecture_is_recognised_with_any_number_of_classes(name: str) -> None:
    (fit,) = fitting(weightless(name, 7))
    assert (fit.architecture, fit.origin, fit.classes) == (name, "torchvision", 7)


@pytest.mark.slow
def test_all_of_torchvision_are_told_apart() -> None:
    for name in table.NAMES:
        assert [fit.architecture for fit in fitting(weightless(name, 7))] == [name]


@pytest.mark.parametrize(("name", "side"), [
    *[(name, side) for name in ("cnn", "linear", "mlp:64,32", "resnet4", "resnet18") for side in (28, 64)],
    *[(name, side) for name in ("lenet5", "lenet5-half") for side in (28, 32)],
    ("wrn-16-2", 28), ("wrn-22-3", 64),
    *[pytest.param(next(iter(family)), 32, marks=pytest.mark.slow) for family in TORCHVISION],
])  # fmt: skip
def test_our_students_are_recognised(name: str, side: int) -> None:
    with table.Weightless():
        network = build_student(name, (1, side, side), 5)
    weights = weights_of(network)
    shuffled = Weights(weights.path, dict(sorted(weights.tensors.items())), {}, ())
    for found in (fitting(weights), fitting(shuffled)):
        assert (name, "cake", 5) in {(fit.architecture, fit.origin, fit.classes) for fit in found}


def test_a_vit_is_named_with_its_options(tmp_path: Path) -> None:
    """Its weights do not tell into how many heads it is cut."""
    torch.manual_seed(0)
    network = build_student("vit:dim=8,depth=1,heads=2", (1, 8, 8), 5).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    settings = TeacherConfig(arch="vit:dim=8,depth=1,heads=2", input_shape=(1, 8, 8), verify=False)
    rows = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(load_classifier(tmp_path / "w.safetensors", settings)(rows), network(rows))


def test_weights_open_as_their_architecture(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = get_model("squeezenet1_1", weights=None, num_classes=4).eval()
    path = tmp_path / "w.pth"
    torch.save({"state_dict": {f"module.{key}": value.half() for key, value in network.state_dict().items()}}, path)
    teacher = load_classifier(path, TeacherConfig(arch="squeezenet1_1", input_shape=(3, 32, 32)))
    rows = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(teacher(rows), network.half().float()(rows), rtol=1e-3, atol=1e-4)
    assert (teacher.classes, teacher.converter, len(teacher.mends)) == (4, "torchvision", 2)


def test_a_small_image_resnet_is_ours(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_student("resnet18", (3, 8, 8), 4).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    teacher = load_classifier(tmp_path / "w.safetensors", TeacherConfig(arch="resnet18", input_shape=(3, 8, 8)))
    rows = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(teacher(rows), network(rows))
    assert any("stride 1" in mend for mend in teacher.mends)


def test_an_mlp_needs_no_shape(tmp_path: Path) -> None:
    save_file(build_student("mlp:9", (12,), 4).state_dict(), tmp_path / "w.safetensors")
    assert load_classifier(tmp_path / "w.safetensors", TeacherConfig(arch="mlp:9")).spec.shape == (12,)
    weights = read_weights(sniff(tmp_path / "w.safetensors"))
    assert command(weights, fitting(weights)).endswith("--arch mlp:9 --input-shape 12 --student mlp")


@pytest.fixture
def squeezenet_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "w.pth"
    torch.save(get_model("squeezenet1_1", weights=None, num_classes=10).state_dict(), path)
    return path


def test_weights_without_a_name_are_listed_with_the_command(squeezenet_file: Path) -> None:
    with pytest.raises(ModelFileError, match=r"52 tensors.*squeezenet1_1 of torchvision with 10 classes") as caught:
        load_classifier(squeezenet_file)
    assert caught.value.fix == f"cake distill {squeezenet_file} --arch squeezenet1_1 --input-shape 3,H,W --student cnn"


def test_a_wrong_architecture_names_three_keys_of_each_kind(squeezenet_file: Path) -> None:
    with pytest.raises(ModelFileError, match=r"mismatched: features\.0\.weight \(file \(64, 3, 3, 3\), ") as caught:
        load_classifier(squeezenet_file, TeacherConfig(arch="squeezenet1_0"))
    assert caught.value.fix == "--arch squeezenet1_1"
    told = r"12 missing: .* and 9 more; 48 unexpected: .* and 45 more; 3 mismatched: "
    with pytest.raises(ModelFileError, match=told):
        load_classifier(squeezenet_file, TeacherConfig(arch="alexnet"))


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.uint16, torch.bool, torch.complex64])
def test_weights_that_are_no_floats_are_refused(tmp_path: Path, kind: torch.dtype) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"1.weight": torch.ones(3, 4, dtype=kind), "1.bias": torch.zeros(3)}, path)
    told = rf"holds 1\.weight as {str(kind).removeprefix('torch.')}, with which linear does not compute"
    with pytest.raises(ModelFileError, match=told):
        load_classifier(path, TeacherConfig(arch="linear", input_shape=(4,)))


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wants another library for it
        weight = torch.quantize_per_tensor(torch.ones(3, 4), 0.1, 0, torch.qint8)
        torch.save({"1.weight": weight, "1.bias": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(ModelFileError, match=r"holds 1\.weight as qint8"):
        load_classifier(tmp_path / "w.pth", TeacherConfig(arch="linear", input_shape=(4,)))


def test_the_image_size_is_asked_for_where_it_is_free(squeezenet_file: Path) -> None:
    with pytest.raises(ModelFileError, match="does not say the size") as caught:
        load_classifier(squeezenet_file, TeacherConfig(arch="squeezenet1_1"))
    assert "--input-shape 3,H,W" in str(caught.value.fix)


def test_a_file_that_torchvision_publishes_brings_its_preprocessing(
    squeezenet_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    monkeypatch.setattr("cake_cli.models.weights.opening.sha256", lambda path: "b8a52dc0" + "0" * 56)
    teacher = load_classifier(squeezenet_file, TeacherConfig(arch="squeezenet1_1", verify=False))
    assert (teacher.spec.shape, teacher.spec.mean) == ((3, 224, 224), (0.485, 0.456, 0.406))
    assert "torchvision's table" in teacher.spec.source
    assert teacher.class_names is None  # ten classes, and a thousand names
    assert table.published("squeezenet1_1", "b8a52dc0") is entry
    assert table.published("squeezenet1_1", "00000000") is None


def test_unknown_names_are_suggested(squeezenet_file: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'squeezenet1_1'"):
        load_classifier(squeezenet_file, TeacherConfig(arch="squeezenet11"))


def test_classes_are_checked(squeezenet_file: Path) -> None:
    with pytest.raises(ModelFileError, match="has 10 classes, not 11"):
        load_classifier(squeezenet_file, TeacherConfig(arch="squeezenet1_1", classes=11, input_shape=(3, 32, 32)))


@pytest.mark.parametrize(("shape", "fix"), [
    ((3, 64, 64), "--arch resnet18 --input-shape 3,H,W, below 64 pixels; for larger images --arch resnet18:form=small"),
    ((1, 8, 8), "--arch resnet18 --input-shape 3,H,W, below 64 pixels; for larger images --arch resnet18:form=small"),
])  # fmt: skip
def test_the_right_name_for_another_input_is_not_named_again(tmp_path: Path, shape: tuple[int, ...], fix: str) -> None:
    save_file(build_student("resnet18", (3, 8, 8), 3).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ModelFileError, match=r"mismatched: conv1\.weight") as caught:
        load_classifier(tmp_path / "w.safetensors", TeacherConfig(arch="resnet18", input_shape=shape))
    assert caught.value.fix == fix
    settings = TeacherConfig(arch="resnet18:form=small", input_shape=(3, 64, 64), verify=False)
    assert load_classifier(tmp_path / "w.safetensors", settings).spec.shape == (3, 64, 64)


def test_what_names_its_architecture_takes_no_other(tmp_path: Path, mlp_file: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/config.json").write_text("{}")
    about = {"class_names": None, "teacher_sha256": "0" * 64, "data_free": True}
    student, spec = build_student("linear", (4,), 2), InputSpec((4,))
    save_student(tmp_path / "s.safetensors", student, "linear", spec=spec, classes=2, **about)
    for name in ("folder", "s.safetensors"):
        with pytest.raises(UsageError, match="names its architecture"):
            load_classifier(tmp_path / name, TeacherConfig(arch="nonsense"))


def test_arch_is_for_weights_only(mlp_file: Path) -> None:
    with pytest.raises(UsageError, match="--arch is for weights"):
        load_classifier(mlp_file, TeacherConfig(arch="resnet18"))


def test_timm_is_an_extra(squeezenet_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(EnvironmentFault) as caught:
        load_classifier(squeezenet_file, TeacherConfig(arch="timm:resnet18"))
    assert caught.value.fix == "pip install 'cake-cli[timm]'"


def test_timm_architectures_open(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=4).eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    teacher = load_classifier(tmp_path / "w.pth", TeacherConfig(arch="timm:resnet10t", input_shape=(3, 32, 32)))
    rows = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(teacher(rows), network(rows))
    with pytest.raises(UsageError, match="timm has no architecture 'resnet10x'"):
        naming.build_named("timm:resnet10x", weights_of(network))


def test_inspect_describes_weights_and_distill_refuses(cake: Callable[..., Outcome], squeezenet_file: Path) -> None:
    looked = cake("inspect", squeezenet_file)
    assert looked.code == 0
    assert "fits        squeezenet1_1 of torchvision, 10 classes" in looked.out
    assert "--arch squeezenet1_1 --input-shape 3,H,W" in looked.out
    refused = cake("distill", squeezenet_file, "--student", "cnn")
    assert refused.code == 3
    assert "--arch squeezenet1_1" in refused.err


def test_inspect_repeats_the_flags_that_were_needed(cake: Callable[..., Outcome], squeezenet_file: Path) -> None:
    looked = cake("inspect", squeezenet_file, "--arch", "squeezenet1_1", "--input-shape", "3,32,32", "--no-verify")
    assert (
        f"cake distill {squeezenet_file} --arch squeezenet1_1 --input-shape 3,32,32 --no-verify --student cnn"
        in looked.out
    )
