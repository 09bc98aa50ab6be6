"""How often few samples should be learned: students held against what none of them has seen."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import save_mlp

TINY = ["--samples", "60", "--seeds", "0", "--", "--steps", "2", "--set", "set_size=30"]


@pytest.fixture
def epochs(example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = example("benchmarks/epochs.py")
    monkeypatch.setattr(module, "MOVED", 60)
    monkeypatch.setattr(module, "STARTS", 90)
    return module


@pytest.mark.parametrize(("shape", "starts"), [((1, 4, 4), "smooth-noise"), ((6,), "noise")])
def test_students_meet_what_they_have_not_seen(
    epochs: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: tuple[int, ...], starts: str
) -> None:
    teacher, out = save_mlp(tmp_path / "teacher.onnx", shape=shape), tmp_path / "out"
    given = [str(teacher), "--student", "mlp:8", "--out", str(out), "--epochs", "1", "30", *TINY]
    assert epochs.main(given) == 0
    said = capsys.readouterr().out
    assert "| samples | epochs | starts | moved |" in said
    assert said.count("| 60 |") == 2
    with (out / "epochs.csv").open(encoding="utf-8") as stream:
        few, many = csv.DictReader(stream)
    assert (few["epochs"], many["epochs"], few["real"]) == ("1", "30", "")
    assert float(few["starts"]) < float(many["starts"]) <= 1, "thirty passes teach more than one"
    assert int(few["counted"]) == int(many["counted"]) == 60 * (2 * 2 + 1) + 7 * 60
    made = json.loads((out / "heldout-starts" / "manifest.json").read_text(encoding="utf-8"))
    assert (made["synthesis"]["method"], made["seed"]) == (starts, epochs.HELDOUT_SEED)


def test_a_cell_is_made_once(epochs: ModuleType, tmp_path: Path) -> None:
    given = [str(save_mlp(tmp_path / "t.onnx")), "--student", "linear", "--out", str(tmp_path), "--epochs", "2", *TINY]
    assert epochs.main(given) == 0
    student = tmp_path / "60-2-0" / "student.safetensors"
    written = student.stat().st_mtime_ns
    assert epochs.main(given) == 0
    assert student.stat().st_mtime_ns == written


def test_what_cake_refuses_is_said(epochs: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="refused"):
        epochs.main([str(tmp_path / "none.onnx"), "--student", "mlp", "--out", str(tmp_path / "out")])
    teacher = save_mlp(tmp_path / "t.onnx")
    assert epochs.main([str(teacher), "--student", "nothing", "--out", str(tmp_path), "--epochs", "1", *TINY]) == 1
