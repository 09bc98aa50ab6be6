"""``file.py:function`` as a teacher."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from cake_cli.config import TeacherConfig
from cake_cli.errors import ModelFileError
from cake_cli.models.loading import load_classifier
from cake_cli.models.source import read_source

CODE = """
from beside import WIDTH
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, WIDTH), nn.Tanh(), nn.Dropout(), nn.Linear(WIDTH, 3)).double()

def number():
    return 3

def fails():
    raise KeyError("weights")
"""
SHAPE = TeacherConfig(input_shape=(1, 4, 4))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("WIDTH = 8\n")
    path = tmp_path / "model.py"
    path.write_text(CODE)
    return path


def test_a_function_makes_a_teacher(file: Path) -> None:
    before = list(sys.path)
    teacher = load_classifier(Path(f"{file}:make"), SHAPE)
    assert (teacher.name, teacher.classes, sys.path) == ("model.py:make", 3, before)
    assert "which was run" in teacher.facts["format"]
    assert any("training mode" in mend for mend in teacher.mends)
    rows = torch.randn(4, 1, 4, 4)
    assert teacher(rows).equal(teacher(rows))


@pytest.mark.parametrize(("function", "message"), [
    ("mak", "no function 'mak', did you mean 'make'"),
    ("number", "of type int"),
    ("fails", "failed: KeyError: 'weights'"),
])  # fmt: skip
def test_what_goes_wrong_is_told(file: Path, function: str, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        load_classifier(Path(f"{file}:{function}"), SHAPE)
    assert caught.value.fix


@pytest.mark.parametrize(("code", "told"), [
    ("import sys\nsys.exit()", "SystemExit$"),
    ("def make():\n    exit(0)", "SystemExit: 0"),
    ("raise SystemExit('usage: train.py DATA')", "SystemExit: usage: train.py DATA"),
])  # fmt: skip
def test_code_that_ends_the_program_is_told(tmp_path: Path, code: str, told: str) -> None:
    (tmp_path / "model.py").write_text(code)
    with pytest.raises(ModelFileError, match=f"model.py:make failed: {told}"):
        load_classifier(tmp_path / "model.py:make", SHAPE)


def test_code_does_not_run_before_the_shape_is_known(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "model.py").write_text(f"open({str(marker)!r}, 'w')\n")
    with pytest.raises(ModelFileError, match="does not state the shape") as caught:
        load_classifier(tmp_path / "model.py:make")
    assert "--input-shape" in str(caught.value.fix)
    assert not marker.exists()


def test_only_a_name_behind_a_python_file_is_code(tmp_path: Path) -> None:
    assert read_source(Path("a/b.py:make")) is not None
    assert read_source(Path("a/b.py")) is None
    assert read_source(Path("a/b.onnx:make")) is None
    with pytest.raises(ModelFileError, match="there is no file"):
        load_classifier(tmp_path / "gone.py:make")
