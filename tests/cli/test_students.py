"""`cake students`, and what --student and --init take on a whole way: distil, inspect, evaluate, resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cake_cli import offering
from cake_cli.catalog import OTHER_FORMS, STUDENTS
from cake_cli.storage import sha256
from tests.cli.conftest import FAR, SYNTHESIS, TRAINING, record, refusal
from tests.conftest import Outcome

Cake = Callable[..., Outcome]
FEW = {name: STUDENTS[name] for name in ("cnn", "linear", "lenet5", "vgg11", "resnet18")}
CODE = """
from pathlib import Path
from torch import nn

with (Path(__file__).parent / "runs.txt").open("a") as stream:
    stream.write("run ")

def make(channels, size, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes))
"""


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short catalogue: what all of it gives is tested below the command line."""
    monkeypatch.setattr(offering, "STUDENTS", FEW)


@pytest.fixture
def code(own_folder: Path) -> Path:
    path = own_folder / "own.py"
    path.write_text(CODE)
    return path.relative_to(own_folder)


def test_without_a_teacher_there_are_names(cake: Cake):
    outcome = cake("students")
    assert outcome.code == 0
    assert all(name in outcome.out for name in (*STUDENTS, *OTHER_FORMS))
    assert json.loads(cake("students", "--json").out) == STUDENTS


@pytest.mark.usefixtures("few")
def test_for_a_teacher_there_are_figures_and_reasons(cake: Cake, mlp_file: Path):
    outcome = cake("students", mlp_file)
    assert outcome.code == 0
    lines = {line.split()[0]: line for line in outcome.out.splitlines()}
    assert lines["(teacher.onnx)"].split()[1:3] == ["323", "304"]
    assert lines["linear"].split()[1:5] == ["51", "(0.16x)", "48", "(0.16x)"]
    assert "11.2 M" in lines["resnet18"]
    assert "lenet5 takes images of 28 to 36 pixels, not 1x4x4" in lines["lenet5"]
    assert "vgg11 cannot take inputs of 1x4x4: it takes 32x32 and larger" in lines["vgg11"]
    assert outcome.out.index("resnet18") < outcome.out.index("does not fit") < outcome.out.index("vgg11")


@pytest.mark.usefixtures("few")
def test_as_json(cake: Cake, mlp_file: Path):
    found = json.loads(cake("students", mlp_file, "--json").out)
    assert (found["teacher"], found["input_shape"], found["classes"]) == ("teacher.onnx", [1, 4, 4], 3)
    assert found["size"]["parameters"] == 323
    students = {student["name"]: student for student in found["students"]}
    assert students["linear"]["size"] == {"parameters": 51, "multiply_adds": 48, "bytes": 204}
    assert (students["vgg11"]["size"], students["linear"]["reason"]) == (None, None)
    assert "32x32" in students["vgg11"]["reason"]


@pytest.mark.usefixtures("few")
def test_for_a_shape_and_for_a_bank(cake: Cake, bank: Path):
    found = json.loads(cake("students", "--input-shape", "3,32,32", "--classes", "100", "--json").out)
    assert all(student["reason"] is None for student in found["students"])
    found = json.loads(cake("students", bank, "--json").out)
    assert (found["teacher"], found["input_shape"], found["size"]) == ("the bank bank", [1, 4, 4], None)
    vector = json.loads(cake("students", "--input-shape", "12", "--classes", "3", "--json").out)
    assert [student["name"] for student in vector["students"] if student["size"]] == ["linear"]
    said = cake("students", "--input-shape", "12", "--classes", "3")
    assert "the other 4 are for images" in said.err
    assert "vgg11" not in said.out


def test_half_a_shape_is_asked_for(cake: Cake):
    said = refusal(cake("students", "--input-shape", "3,32,32"), 2)
    assert "for which input?" in said
    assert "--classes K" in said


def test_the_plan_sets_student_beside_teacher(cake: Cake, mlp_file: Path):
    outcome = cake("distill", mlp_file, *SYNTHESIS, *TRAINING, "--student", "mlp:8", "--dry-run")
    lines = {line.split()[0]: " ".join(line.split()) for line in outcome.err.splitlines() if line.strip()}
    assert "323 params, 304 multiply-adds, " in lines["teacher"]
    assert "student mlp:8 163 params (0.5x), 152 multiply-adds (0.5x), " in lines["student"]
    assert lines["student"].endswith("random init")
    planned = json.loads(cake("distill", mlp_file, *SYNTHESIS, "--student", "mlp:8", "--dry-run", "--json").out)
    assert planned["sizes"]["student"] == {"parameters": 163, "multiply_adds": 152, "bytes": 652}
    assert planned["sizes"]["teacher"]["bytes"] == mlp_file.stat().st_size


def test_a_student_that_does_not_fit_is_refused_before_synthesis(cake: Cake, mlp_file: Path):
    said = refusal(cake("distill", mlp_file, *SYNTHESIS, "--student", "vgg11", "-o", "run"), 2)
    assert "vgg11 cannot take inputs of 1x4x4: it takes 32x32 and larger" in said
    assert "--student with one of cnn, resnet4" in said
    said = refusal(cake("distill", mlp_file, *SYNTHESIS, "--student", "vit:patch=3", "-o", "run"), 2)
    assert "a patch of 3 does not divide images of 1x4x4; 1, 2 and 4 do" in said
    assert "--student vit:patch=2" in said
    assert not Path("run").exists()


def test_own_code_from_distil_to_evaluate(cake: Cake, mlp_file: Path, heldout: Path, code: Path):
    student = f"{code}:make"
    common = ["distill", mlp_file, *SYNTHESIS, *TRAINING, "--no-report", "--export", "torchscript"]
    outcome = cake(*common, "--student", student, "-o", "run")
    assert outcome.code == 0, outcome.err
    assert f"cake evaluate run --arch {code.resolve()}:make --data DATA" in outcome.err
    assert Path("run/student.torchscript").is_file()
    assert record(Path("run"))["student"]["code_sha256"] == sha256(code)
    ran = Path("runs.txt").read_text()
    looked = cake("inspect", "run/student.safetensors")
    assert (looked.code, looked.out.splitlines()[0]) == (0, "run/student.safetensors: a student")
    assert sha256(code) in looked.out
    assert "--arch PATH/own.py:make" in looked.out
    assert "51" in looked.out
    refused = refusal(cake("evaluate", "run/student.safetensors", "--data", heldout), 3)
    assert "was made by own.py:make" in refused
    assert Path("runs.txt").read_text() == ran, "nothing ran the code"
    arguments = ["evaluate", "run/student.safetensors", "--data", heldout, "--arch", student, "--against", mlp_file]
    measured = cake(*arguments, "--json")
    assert measured.code == 0, measured.err
    assert json.loads(measured.out)["agreement"] is not None
    code.write_text(CODE + "# changed\n")
    assert "own.py has changed since the student was trained" in cake(*arguments).err


def test_resume_goes_on_only_with_the_same_code(cake: Cake, mlp_file: Path, code: Path):
    student = f"{code}:make"
    assert cake("distill", mlp_file, *SYNTHESIS, *TRAINING, "--student", student, "--no-report", "-o", "run").code == 0
    code.write_text(CODE + "# changed\n")
    said = refusal(cake("resume", "run"), 4)
    assert "the file of the student's code has changed since run was started" in said


def test_several_of_any_kind_from_one_bank(cake: Cake, bank: Path, mlp_file: Path, code: Path):
    """The folder of one's own code names no folder of this machine, and its change is noticed for each student."""
    several = ["--student", f"{code}:make", "--student", "vit:dim=8,depth=1,heads=2", "--student", "mlp:8"]
    outcome = cake("train", bank, *TRAINING, *several, "--teacher", mlp_file, "--no-report", "-o", "run", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)["students"]
    folders = ["own.py-make", "vit-dim-8-depth-1-heads-2", "mlp-8"]
    assert [one["student"] for one in found.values()] == [f"run/students/{x}/student.safetensors" for x in folders]
    assert next(iter(found)) == f"{code.resolve()}:make"
    lines = [" ".join(line.split()) for line in outcome.err.splitlines()]
    assert any(line.startswith("student own.py:make 51 params (0.16x), 48 multiply-adds (0.16x), ") for line in lines)
    assert any("vit:dim=8,depth=1,heads=2" in line and "multiply-adds" in line for line in lines)
    code.write_text(CODE + "# changed\n")
    assert "code has changed since run was started" in refusal(cake("resume", "run"), 4)


def test_two_names_of_one_architecture_are_two_students(cake: Cake, distilled: Path):
    both = ["--student", "same", "--student", "mlp:8"]
    own = [*SYNTHESIS, *FAR, *TRAINING, *both]
    outcome = cake("distill", distilled, *own, "--no-report", "-o", "both", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)["students"]
    assert [(name, one["architecture"]) for name, one in found.items()] == [("same", "mlp:8"), ("mlp:8", "mlp:8")]


def test_bench_refuses_a_student_before_it_measures(cake: Cake, mlp_file: Path):
    said = refusal(cake("bench", mlp_file, "--student", "vgg11", "--seconds", "600"), 2)
    assert "vgg11 cannot take inputs of 1x4x4" in said


def test_a_student_teaches_and_is_gone_on_with(cake: Cake, distilled: Path):
    teacher = distilled / "student.safetensors"
    common = [*SYNTHESIS, *FAR, *TRAINING, "--no-report"]
    outcome = cake("distill", teacher, *common, "--student", "same", "-o", "same")
    assert outcome.code == 0, outcome.err
    assert "student same 163 params (1x), 152 multiply-adds (1x), " in " ".join(outcome.err.split())
    assert "the teacher's mlp:8, random init" in outcome.err
    assert record(Path("same"))["student"]["architecture"] == "mlp:8"
    outcome = cake("distill", teacher, *common, "--student", distilled, "-o", "again")
    assert outcome.code == 0, outcome.err
    assert f"mlp:8, starts from {teacher}" in outcome.err
    assert record(Path("again"))["student"]["init_sha256"] == sha256(teacher)
    shown = cake("inspect", "again").out + cake("inspect", "again/student.safetensors").out
    assert f"started from {sha256(teacher)}" in " ".join(shown.split())
    assert cake("resume", "again").code == 0


def test_weights_to_start_from(cake: Cake, mlp_file: Path, distilled: Path):
    common = ["distill", mlp_file, *SYNTHESIS, *TRAINING, "--no-report"]
    outcome = cake(*common, "--student", "mlp:8", "--init", distilled / "student.safetensors", "-o", "new")
    assert outcome.code == 0, outcome.err
    assert "starts from run/student.safetensors" in outcome.err
    assert "what the first weights saw is your own claim" in outcome.err
    assert record(Path("new"))["student"]["init"].endswith("student.safetensors")
    said = refusal(cake(*common, "--student", "mlp:9", "--init", distilled, "-o", "other"), 3)
    assert "not those of mlp:9 for this teacher, but of mlp:8 with 3 classes" in said
    assert not Path("other").exists()


def test_same_where_nobody_knows_the_architecture(cake: Cake, mlp_file: Path, bank: Path):
    said = refusal(cake("distill", mlp_file, *SYNTHESIS, "--student", "same"), 2)
    assert "teacher.onnx does not say its architecture" in said
    assert "--teacher FILE" in refusal(cake("train", bank, *TRAINING, "--student", "same"), 2)
