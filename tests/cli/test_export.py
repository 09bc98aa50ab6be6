"""`cake export`, and `--export` of a run: files that cake and others open with nothing else said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from cake_cli.errors import RunError
from cake_cli.models.exporting import exporting
from tests.cli.conftest import FAR, SYNTHESIS, TINY, TRAINING, record, refusal, snapshot
from tests.conftest import Outcome, save_mlp

Cake = Callable[..., Outcome]
FORMATS = ["onnx", "torchscript", "pt2"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the small teacher whose student lies in every format."""
    from cake_cli.cli import app

    folder = tmp_path_factory.mktemp("exported")
    teacher = str(save_mlp(folder / "teacher.onnx"))
    command = ["distill", teacher, *TINY, "-o", str(folder / "run"), "-q", "--export", "onnx,pt2"]
    assert app.run([*command, "--export", "torchscript"]) == 0
    return folder / "run"


def test_a_run_records_its_exports(exported: Path):
    files = {file["format"]: file for file in record(exported)["exports"]}
    assert list(files) == FORMATS
    for file in files.values():
        assert Path(file["path"]).stat().st_size == file["bytes"]
        assert file["largest_difference"] == max(file["differences"].values()) < 1e-5
    assert set(files["onnx"]["differences"]) == {"onnxruntime", "cake"}


def test_resuming_keeps_and_replaces_exports(cake: Cake, exported: Path, tmp_path: Path):
    run = shutil.copytree(exported, tmp_path / "run")
    shutil.copy(exported.parent / "teacher.onnx", tmp_path)
    (run / "student.torchscript").unlink()
    kept = (run / "student.onnx").stat().st_mtime_ns
    outcome = cake("resume", "run", "--json")
    assert outcome.code == 0
    assert [file["format"] for file in json.loads(outcome.out)["exports"]] == ["onnx", "pt2", "torchscript"]
    assert (run / "student.torchscript").is_file()
    assert (run / "student.onnx").stat().st_mtime_ns == kept


def test_an_export_that_was_written_and_not_recorded_is_replaced(cake: Cake, exported: Path, tmp_path: Path):
    run = shutil.copytree(exported, tmp_path / "run")
    shutil.copy(exported.parent / "teacher.onnx", tmp_path)
    told = record(run)
    told |= {"status": "interrupted", "exports": [file for file in told["exports"] if file["format"] != "torchscript"]}
    (run / "run.json").write_text(json.dumps(told))
    before = sorted(path.name for path in run.iterdir())
    assert cake("resume", "run", "--json").code == 0
    assert sorted(path.name for path in run.iterdir()) == before
    assert {file["format"] for file in record(run)["exports"]} == {"onnx", "pt2", "torchscript"}


@pytest.mark.parametrize("format", FORMATS)
def test_every_command_opens_an_export_with_nothing_else_said(
    cake: Cake, exported: Path, heldout: Path, tmp_path: Path, format: str
):
    file = exported / f"student.{format}"
    trust = ["--trust"] if format == "pt2" else []
    described = json.loads(cake("inspect", file, *trust, "--json").out)
    assert described["input"]["shape"] == [1, 4, 4]
    assert "synthetic" in described["facts"]["cake.origin"]
    assert described["facts"]["cake.teacher"] == "teacher.onnx"
    assert "trained on synthetic samples" in cake("inspect", file, *trust).out
    accuracy = [json.loads(cake("evaluate", path, *trust, "--data", heldout, "--json").out)["accuracy"]
                for path in (file, exported)]  # fmt: skip
    assert accuracy[0] == accuracy[1]
    own = [*SYNTHESIS, *FAR, *TRAINING, "--student", "linear", "--no-report", "-o", "copy"]
    copied = cake("distill", file, *trust, *own)
    assert copied.code == 0, copied.err


def test_onnx_runs_elsewhere(exported: Path):
    session = ort.InferenceSession(exported / "student.onnx")
    for rows in (1, 7):
        (logits,) = session.run(None, {"input": np.zeros((rows, 1, 4, 4), np.float32)})
        assert logits.shape == (rows, 3)


def test_the_file_is_the_result(cake: Cake, distilled: Path):
    outcome = cake("export", distilled, "--to", "torchscript")
    assert (outcome.code, outcome.out) == (0, "run/student.torchscript\n")
    assert "in torch.jit" in outcome.err
    assert "cake evaluate run/student.torchscript --data DATA" in outcome.err
    quiet = cake("export", "run/student.safetensors", "--to", "torchscript", "-o", "x.pt", "-q")
    assert (quiet.code, quiet.out, quiet.err) == (0, "x.pt\n", "")


def test_several_formats_and_json(cake: Cake, distilled: Path):
    outcome = cake("export", distilled, "--to", "pt2,torchscript", "--to", "pt2", "--softmax", "--json")
    found = json.loads(outcome.out)
    assert [(file["format"], file["outputs"]) for file in found["files"]] == [
        ("torchscript", "probabilities"),
        ("pt2", "probabilities"),
    ]
    assert outcome.err == "" or "differs at most" in outcome.err


def test_a_teacher_becomes_torchscript(cake: Cake, mlp_file: Path):
    assert cake("export", mlp_file, "--to", "torchscript", "-o", "teacher.pt").code == 0
    described = json.loads(cake("inspect", "teacher.pt", "--json").out)
    assert "converted from teacher.onnx" in described["facts"]["cake.origin"]


def test_what_is_there_is_refused_or_moved_aside(cake: Cake, distilled: Path):
    taken = distilled / "student.torchscript"
    taken.write_text("mine")
    assert "exists" in refusal(cake("export", distilled, "--to", "torchscript"), 2)
    assert taken.read_text() == "mine"
    assert cake("export", distilled, "--to", "torchscript", "--force", "-q").code == 0
    assert (distilled / "student.torchscript.old-1").read_text() == "mine"


def test_of_several_formats_all_are_written_or_none(cake: Cake, distilled: Path):
    before = snapshot(distilled)
    for formats in ("onnx,torchscript,safetensors", "onnx,pt2"):
        if "pt2" in formats:
            (distilled / "student.pt2").write_bytes(b"")
            before = snapshot(distilled)
        refusal(cake("export", distilled, "--to", formats), 2)
        assert snapshot(distilled) == before


def test_the_student_itself_is_never_written_over(cake: Cake, distilled: Path):
    before = snapshot(distilled)
    for source in (distilled, distilled / "student.safetensors"):
        said = refusal(cake("export", source, "--to", "safetensors", "--force"), 2)
        assert "is the model itself" in said
    assert snapshot(distilled) == before


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--to", "onx"], 2, "did you mean 'onnx'?"),
        (["--to", ","], 2, "which format?"),
        (["--to", "onnx", "--opset", "13"], 2, "opset 18 and later"),
        (["--to", "torchscript", "--opset", "20"], 2, "--opset is for ONNX"),
        (["--to", "safetensors", "--softmax", "-o", "x"], 2, "have no outputs"),
        (["--to", "onnx,pt2", "-o", "x"], 2, "-o names one file"),
        (["--to", "torchscript", "-o", "none/x.pt"], 2, "there is no folder none"),
        (["--to", "torchscript", "-o", "run"], 2, "is a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_exported(cake: Cake, distilled: Path, flags: list[str], code: int, said: str):
    before = snapshot(Path())
    assert said in refusal(cake("export", distilled, *flags), code)
    assert snapshot(Path()) == before


def test_a_run_without_a_student(cake: Cake, distilled: Path):
    (distilled / "student.safetensors").unlink()
    for command in (["export", distilled, "--to", "onnx"], ["evaluate", distilled, "--data", "x"]):
        said = refusal(cake(*command), 3)
        assert "has no student yet" in said
        assert "cake resume run" in said


def test_an_export_that_differs_ends_with_six_and_keeps_the_student(
    cake: Cake, mlp_file: Path, monkeypatch: pytest.MonkeyPatch
):
    def differs(*arguments: object) -> dict[str, float]:
        raise RunError("the torchscript file was written, but it differs; it is not kept", "--to onnx")

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "compare", differs)
        run = ["distill", mlp_file, *TINY, "-o", "run", "--export", "torchscript"]
        assert "it is not kept" in refusal(cake(*run), 6)
    assert record(Path("run"))["status"] == "failed"
    assert Path("run/student.safetensors").is_file()
    assert not Path("run/student.torchscript").exists()
    assert cake("resume", "run", "-q").code == 0
    assert Path("run/student.torchscript").is_file()


def test_a_run_does_not_export_what_it_writes_anyway(cake: Cake, mlp_file: Path):
    assert "a safetensors file already" in refusal(cake("distill", mlp_file, *TINY, "--export", "safetensors"), 2)
    said = refusal(cake("distill", mlp_file, *TINY, "--export", "torchscipt"), 2)
    assert "did you mean 'torchscript'?" in said
    assert "safetensors" not in said


def test_exports_are_a_setting(cake: Cake, mlp_file: Path):
    printed = cake("distill", mlp_file, *TINY, "--set", "student.export=['onnx']", "--print-config").out
    assert 'export = ["onnx"]' in printed
