from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from cake_cli.config import TeacherConfig
from cake_cli.errors import EnvironmentFault, ModelFileError
from cake_cli.models.architectures import build_student
from cake_cli.models.counting import size_of
from cake_cli.models.loading import load_classifier
from cake_cli.models.students import full_name, load_student, save_student, student_metadata
from cake_cli.spec import InputSpec
from cake_cli.storage import sha256

SPEC = InputSpec((1, 8, 8), (0.3,), (0.4,))
NAMES = ("a", "b", "c")


def saved(path: Path, name: str, spec: InputSpec = SPEC, **more: str) -> nn.Module:
    torch.manual_seed(0)
    network = build_student(name, spec.shape, 3)
    save_student(path, network, name, spec=spec, classes=3, class_names=NAMES, teacher_sha256="f" * 64, **more)
    return network.eval()


@pytest.fixture
def student_file(tmp_path: Path) -> Path:
    saved(tmp_path / "student.safetensors", "cnn")
    return tmp_path / "student.safetensors"


@pytest.mark.parametrize(("name", "options"), [
    ("cnn", None), ("mlp", "256,256"), ("mlp:9", "9"), ("linear", None), ("resnet4", None), ("wrn-10-1", None),
    ("vit", "patch=2,dim=64,depth=6,heads=4"), ("vit:depth=1,dim=8", "patch=2,dim=8,depth=1,heads=4"),
    ("resnet18", "form=small"), ("resnet18:form=published", "form=published"), ("squeezenet1_1", "form=small"),
    ("swin_t", "form=small"), ("mnasnet0_5", "form=small"), ("mobilenet_v3_small", "form=small"),
])  # fmt: skip
def test_a_student_needs_nothing_but_its_file(tmp_path: Path, name: str, options: str | None) -> None:
    network = saved(tmp_path / "s.safetensors", name)
    student = load_classifier(tmp_path / "s.safetensors")
    rows = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(student(rows), network(rows))
    assert (student.classes, student.class_names, student.architecture) == (3, NAMES, name)
    assert (student.spec.mean, student.spec.std) == ((0.3,), (0.4,))
    assert student.facts.get("cake.options") == options
    assert size_of(student, tmp_path / "s.safetensors").bytes == (tmp_path / "s.safetensors").stat().st_size


def test_options_are_kept_where_a_default_changes(tmp_path: Path) -> None:
    """A later cake may choose another form or patch: the header says which one the weights are of."""
    network = saved(tmp_path / "s.safetensors", "resnet18:form=published")
    metadata = student_metadata(tmp_path / "s.safetensors") | {"cake.architecture": "resnet18"}
    save_file(load_file(tmp_path / "s.safetensors"), tmp_path / "t.safetensors", metadata=metadata)
    rows = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(load_student(tmp_path / "t.safetensors")(rows), network(rows))
    assert full_name(metadata) == "resnet18:form=published"


def test_a_file_of_before_the_options_opens(student_file: Path, tmp_path: Path) -> None:
    network = saved(student_file, "mlp:7")
    metadata = {key: value for key, value in student_metadata(student_file).items() if key != "cake.options"}
    save_file(network.state_dict(), tmp_path / "old.safetensors", metadata=metadata)
    assert load_student(tmp_path / "old.safetensors").parameters == 64 * 7 + 7 + 7 * 3 + 3


def test_a_student_says_that_it_is_synthetic_and_whose(tmp_path: Path) -> None:
    saved(tmp_path / "s.safetensors", "resnet18", start_sha256="e" * 64)
    metadata = student_metadata(tmp_path / "s.safetensors")
    assert "without real data; started from the weights of a file with the SHA-256 eeee" in metadata["cake.origin"]
    assert (metadata["cake.teacher_sha256"], metadata["cake.start_sha256"]) == ("f" * 64, "e" * 64)
    assert json.loads(metadata["cake.input"])["shape"] == [1, 8, 8]
    assert metadata["cake.built_with"].startswith("torchvision 0.")


def test_equal_students_are_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        saved(tmp_path / name, "vit")
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")


def test_a_run_directory_stands_for_its_student(student_file: Path) -> None:
    assert load_classifier(student_file.parent).name == "student.safetensors"


def test_weights_without_a_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"w": torch.zeros(3)}, path)
    with pytest.raises(ModelFileError, match="does not say of which architecture"):
        load_classifier(path)


@pytest.mark.parametrize("change", [
    {"cake.architecture": "resnet99"},
    {"cake.architecture": "mlp:60000,60000,60000"},
    {"cake.architecture": "mlp"},
    {"cake.architecture": "same"},
    {"cake.architecture": "/etc/passwd"},
    {"cake.architecture": "timm:nothing_like_it"},
    {"cake.options": "3"},
    {"cake.classes": "4"},
    {"cake.classes": "-1"},
    {"cake.classes": "many"},
    {"cake.input": "{}"},
    {"cake.input": "not json"},
    {"cake.class_names": '["a"]'},
])  # fmt: skip
def test_a_header_that_lies_is_refused(student_file: Path, tmp_path: Path, change: dict[str, str]) -> None:
    metadata = student_metadata(student_file) | change
    state = build_student("cnn", (1, 8, 8), 3).state_dict()
    path = tmp_path / "lying.safetensors"
    save_file(state, path, metadata=metadata)
    with pytest.raises(ModelFileError, match="not a whole student"):
        load_student(path)


def test_a_truncated_student_is_refused(student_file: Path) -> None:
    student_file.write_bytes(student_file.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="not a whole safetensors file"):
        load_student(student_file)


CODE = """
from pathlib import Path
from torch import nn
Path(__file__).with_name("ran").touch()

class Tied(nn.Module):
    def __init__(self, values, classes):
        super().__init__()
        self.first = nn.Linear(values, values)
        self.second = nn.Linear(values, values)
        self.second.weight = self.first.weight
        self.head = nn.Linear(values, classes)

    def forward(self, rows):
        return self.head(self.second(self.first(rows.flatten(1)).tanh()))

def make(channels, size, classes):
    return Tied(channels * size[0] * size[1], classes)

def other(channels, size, classes):
    return make(channels, size, classes)
"""


@pytest.fixture
def own(tmp_path: Path) -> tuple[Path, Path, nn.Module]:
    """A student of one's own code, and that code."""
    code = tmp_path / "own.py"
    code.write_text(CODE)
    network = saved(tmp_path / "s.safetensors", f"{code}:make")
    (tmp_path / "ran").unlink()
    return tmp_path / "s.safetensors", code, network


def test_a_header_never_runs_code(own: tuple[Path, Path, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    path, code, _ = own
    monkeypatch.chdir(path.parent)
    metadata = student_metadata(path)
    assert metadata["cake.architecture"] == "own.py:make", "no folder of the machine that trained it"
    with pytest.raises(ModelFileError) as caught:
        load_classifier(path)
    assert f"was made by own.py:make (SHA-256 of the file {sha256(code)[:16]}...)" in caught.value.what
    assert str(caught.value.fix).startswith("--arch PATH/own.py:make")
    assert not (path.parent / "ran").exists()


def test_code_that_the_user_names_makes_the_student(own: tuple[Path, Path, nn.Module]) -> None:
    path, code, network = own
    student = load_classifier(path, TeacherConfig(arch=f"{code}:make"))
    rows = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(student(rows), network(rows))
    assert (student.architecture, student.same_as, student.mends) == ("own.py:make", f"{code}:make", ())
    with safe_open(path, framework="pt") as file:
        assert {"first.weight", "second.weight"} <= set(file.keys())


def test_other_code_is_told(own: tuple[Path, Path, nn.Module]) -> None:
    path, code, _ = own
    with pytest.raises(ModelFileError, match="made by the function make, not other"):
        load_student(path, f"{code}:other")
    with pytest.raises(ModelFileError, match="there is no file"):
        load_student(path, "gone.py:make")
    with pytest.raises(ModelFileError, match="was made by"):
        load_student(path, "resnet18")
    code.write_text(CODE + "\n# a remark\n")
    (mend,) = load_student(path, f"{code}:make").mends
    assert "own.py has changed since the student was trained" in mend
    code.write_text(CODE.replace("self.head", "self.top"))
    with pytest.raises(ModelFileError, match="not a whole student"):
        load_student(path, f"{code}:make")


def test_a_student_of_timm_needs_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    network = saved(tmp_path / "s.safetensors", "timm:test_vit", InputSpec((2, 32, 48)))
    student = load_student(tmp_path / "s.safetensors")
    rows = torch.randn(2, 2, 32, 48)
    torch.testing.assert_close(student(rows), network(rows))
    assert student.facts["cake.built_with"].startswith("timm 1.")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(EnvironmentFault, match="timm is not installed"):
        load_student(tmp_path / "s.safetensors")
