from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cake_cli.errors import ModelFileError
from cake_cli.models.architectures import build_student
from cake_cli.models.loading import load_classifier
from cake_cli.models.students import load_student, save_student, student_metadata
from cake_cli.spec import InputSpec

SPEC = InputSpec((1, 8, 8), (0.3,), (0.4,))


@pytest.fixture
def student_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = build_student("cnn", (1, 8, 8), 3)
    path = tmp_path / "student.safetensors"
    save_student(path, network, "cnn", spec=SPEC, classes=3, class_names=("a", "b", "c"), teacher_sha256="f" * 64)
    return path


def test_a_student_needs_nothing_but_its_file(student_file: Path) -> None:
    torch.manual_seed(0)
    network = build_student("cnn", (1, 8, 8), 3).eval()
    student = load_student(student_file)
    rows = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(student(rows), network(rows))
    assert (student.classes, student.class_names, student.architecture) == (3, ("a", "b", "c"), "cnn")
    assert (student.spec.mean, student.spec.std) == ((0.3,), (0.4,))


def test_a_student_says_that_it_is_synthetic_and_whose(student_file: Path) -> None:
    metadata = student_metadata(student_file)
    assert "without real data" in metadata["cake.origin"]
    assert metadata["cake.teacher_sha256"] == "f" * 64
    assert json.loads(metadata["cake.input"])["shape"] == [1, 8, 8]


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
