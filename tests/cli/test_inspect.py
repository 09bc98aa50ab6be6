"""`cake inspect`: what a file or folder is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cake_cli.locks import held
from cake_cli.storage import sha256
from tests.cli.conftest import SYNTHESIS, TINY, TRAINING, refusal, snapshot
from tests.conftest import DIGITS, Outcome
from tests.models.blackbox.serving import serving

Cake = Callable[..., Outcome]


def test_a_teacher(cake: Cake, mlp_file: Path):
    outcome = cake("inspect", mlp_file)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines()[0] == f"{mlp_file}: a teacher"
    for part in ("1x4x4", "323", "logits", "gradient non-zero", f"cake distill {mlp_file} --student"):
        assert part in outcome.out


def test_a_teacher_as_json(cake: Cake, mlp_file: Path):
    found = json.loads(cake("inspect", mlp_file, "--json").out)
    assert (found["kind"], found["classes"], found["parameters"]) == ("teacher", 3, 323)
    assert (found["input"]["shape"], found["output_kind"], found["sha256"]) == ([1, 4, 4], "logits", sha256(mlp_file))
    assert found["checks"]


def test_the_opset_and_the_time_of_the_check_are_told(cake: Cake, mlp_file: Path):
    assert json.loads(cake("inspect", mlp_file, "--json").out)["check_seconds"] > 0
    said = {line.split()[0]: line.split()[1:] for line in cake("inspect", mlp_file).out.splitlines()[1:]}
    assert said["opset"][0].isdigit()
    assert said["check"][0] == "took"


def test_an_onnx_file_is_inspected_without_the_slow_imports(mlp_file: Path):
    code = (
        "import sys; from pathlib import Path; from cake_cli.config import TeacherConfig;"
        "from cake_cli.inspection import inspect_path; inspect_path(Path(sys.argv[1]), TeacherConfig());"
        "print({'torchvision', 'torch._dynamo', 'torch.onnx', 'sympy', 'timm', 'onnx2torch'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(mlp_file)], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_the_shipped_teacher_states_its_own_input(cake: Cake):
    found = json.loads(cake("inspect", DIGITS / "teacher.onnx", "--json").out)
    assert (found["classes"], found["input"]["shape"]) == (10, [1, 8, 8])
    assert found["input"]["source"] == "the file's metadata"


def test_no_verify_checks_less_and_says_so(cake: Cake, mlp_file: Path):
    assert "not checked (--no-verify)" in cake("inspect", mlp_file, "--no-verify").out


def test_flags_say_what_the_file_does_not(cake: Cake, mlp_file: Path):
    found = json.loads(cake("inspect", mlp_file, "--mean", "0.5", "--std", "0.25", "--json").out)
    assert (found["input"]["mean"], found["input"]["std"]) == ([0.5], [0.25])
    assert found["input"]["source"] == "--mean and --std"


def test_a_student(cake: Cake, distilled: Path):
    file = distilled / "student.safetensors"
    found = json.loads(cake("inspect", file, "--json").out)
    assert (found["kind"], found["architecture"], found["classes"]) == ("student", "mlp:8", 3)
    shown = cake("inspect", file).out
    assert "cake evaluate" in shown
    assert "mlp:8" in shown


def test_a_bank(cake: Cake, bank: Path, mlp_file: Path):
    found = json.loads(cake("inspect", bank, "--json").out)
    assert (found["kind"], found["complete"], found["samples"], found["shards"]) == ("bank", True, 60, 2)
    assert found["teacher"]["sha256"] == sha256(mlp_file)
    assert (found["time_budget"], found["arithmetic"]["rows_per_pass"]) == (None, 30)
    assert ", 1 set at once, 30 rows a pass; otherwise up to rounding" in cake("inspect", bank).out
    assert found["plan"] == {"sets": 2, "rows": 10, "groups": 3, "at_once": 1, "spread": False, "rounds": 1}
    shown = cake("inspect", bank).out
    assert "60 in 2 shards" in shown
    assert "complete" in shown


def test_a_bank_that_stopped_says_how_much_is_there(cake: Cake, bank: Path, distilled: Path):
    for folder in (bank, distilled / "bank"):
        file = folder / "manifest.json"
        manifest = json.loads(file.read_text()) | {"status": "partial"}
        manifest["shards"].pop()
        manifest["arithmetic"]["threads"] = 1
        file.write_text(json.dumps(manifest))
    shown = cake("inspect", bank).out
    assert "30 of 60 in 1 shard\n" in shown
    assert ", 1 thread, 1 set at once, 30 rows a pass" in shown
    assert "30 samples of 60\n" in cake("inspect", distilled).out


def test_a_run(cake: Cake, distilled: Path):
    found = json.loads(cake("inspect", distilled, "--json").out)
    assert (found["kind"], found["status"], found["resumable"]) == ("run", "complete", False)
    assert found["bank"] == {"samples": 60, "complete": True}
    shown = cake("inspect", distilled).out
    assert "complete" in shown
    assert "cake resume" not in shown


def rows_of(outcome: Outcome) -> dict[str, str]:
    """The lines below the first by their names."""
    pairs = (line[2:].partition("  ") for line in outcome.out.splitlines()[1:])
    return {name: value.strip() for name, _, value in pairs}


def test_a_run_says_of_what_it_is_a_copy_and_how_long_it_took(cake: Cake, distilled: Path):
    shown = rows_of(cake("inspect", distilled))
    assert shown["input"].startswith("1x4x4   assumed: ")
    assert (shown["classes"], shown["ends in"]) == ("3", "logits")
    assert ": load " in shown["took"]
    assert ", training " in shown["took"]


def test_a_failed_run_repeats_what_to_try(cake: Cake, mlp_file: Path):
    assert cake("distill", mlp_file, *TINY, "--lr", "1e30", "-o", "run").code == 6
    shown = cake("inspect", "run").out
    assert "to go on  the bank is whole: cake train run/bank --student mlp:8 --lr 2e+29" in shown
    assert "cake resume" not in shown, "it would only fail again"


@pytest.mark.parametrize("broken", [{"shape": [-1]}, {"mean": "a"}, 3])
def test_a_run_whose_input_is_damaged_is_refused(cake: Cake, distilled: Path, broken: object):
    record = json.loads((distilled / "run.json").read_text())
    whole = record["teacher"]["input"]
    record["teacher"]["input"] = whole | broken if isinstance(broken, dict) else broken
    (distilled / "run.json").write_text(json.dumps(record))
    assert "run.json is damaged" in refusal(cake("inspect", distilled), 4)


def test_a_student_of_own_code_says_where_it_comes_from(cake: Cake, mlp_file: Path):
    Path("own.py").write_text(
        "from torch import nn\n\n"
        "def make(channels, size, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes))\n"
    )
    own = [*SYNTHESIS, *TRAINING, "--no-report", "--student", "own.py:make"]
    assert cake("distill", mlp_file, *own, "-o", "run").code == 0
    file, names = Path("run/student.safetensors"), ("origin", "teacher")
    unopened, opened = cake("inspect", file), cake("inspect", file, "--arch", "own.py:make")
    assert "to open it" in unopened.out
    found, whole = rows_of(unopened), rows_of(opened)
    assert [found[name] for name in names] == [whole[name] for name in names]
    assert found["input"].startswith("1x4x4   ")


def test_what_is_assumed_of_an_endpoint_speaks_of_no_file(cake: Cake):
    with serving() as server:
        shown = cake("inspect", server.address, "--input-shape", "1,4,4").out
    assert "assumed: it takes values of about N(0, 1) as they are" in shown


def test_a_run_that_stopped_says_how_to_go_on(cake: Cake, distilled: Path):
    record = json.loads((distilled / "run.json").read_text())
    (distilled / "run.json").write_text(json.dumps(record | {"status": "failed", "error": "odd"}))
    shown = cake("inspect", distilled).out
    assert "failed: odd" in shown
    assert "cake resume run" in shown


def test_a_run_that_was_killed_is_told_from_one_that_runs(cake: Cake, distilled: Path):
    told = json.loads((distilled / "run.json").read_text()) | {"status": "running", "student": None}
    (distilled / "run.json").write_text(json.dumps(told))
    with held(distilled):
        shown = cake("inspect", distilled).out
        assert "state    running" in shown
        assert "cake resume" not in shown
        left = (distilled / ".lock").read_bytes()
    (distilled / ".lock").write_bytes(left)
    shown = cake("inspect", distilled).out
    assert "stopped without a word (killed?)" in shown
    assert "cake resume run" in shown
    assert "None" not in shown, "what was to learn is known from the settings"


def test_a_run_with_figures(cake: Cake, made: Path):
    shown = cake("inspect", made / "measured").out
    assert "noise baseline" in shown
    assert "agreement" in shown


def test_a_run_that_stopped_before_its_first_stage(cake: Cake, distilled: Path):
    """As a kill leaves it right after the directory was made."""
    record = json.loads((distilled / "run.json").read_text())
    for key in ("teacher", "student", "plan", "device", "error", "synthesis", "bank"):
        record.pop(key, None)
    (distilled / "run.json").write_text(json.dumps(record | {"status": "running"}))
    assert cake("inspect", distilled).code == 0
    assert json.loads(cake("inspect", distilled, "--json").out)["resumable"] is True


def test_looking_changes_nothing(cake: Cake, distilled: Path, bank: Path):
    before = snapshot(Path())
    for path in (distilled, bank, distilled / "student.safetensors"):
        assert cake("inspect", path).code == 0
    assert snapshot(Path()) == before


def test_a_folder_of_neither_kind(cake: Cake, tmp_path: Path):
    outcome = cake("inspect", tmp_path)
    assert outcome.code == 3
    assert "is a folder" in outcome.err
