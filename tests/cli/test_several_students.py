"""`--student a --student b`: several students of one bank, each in a run directory of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cake_cli.runs import RunDirectory
from tests.cli.conftest import SYNTHESIS, TRAINING, record, refusal, snapshot, weights
from tests.conftest import Outcome

Cake = Callable[..., Outcome]
BOTH = [*TRAINING, "--no-report", "--student", "mlp:8", "--student", "linear"]


def test_each_is_what_it_would_be_alone(cake: Cake, mlp_file: Path, distilled: Path, heldout: Path):
    outcome = cake("distill", mlp_file, *SYNTHESIS, *BOTH, "--data", heldout, "-o", "both", "--json")
    found = json.loads(outcome.out)
    assert (found["student"], found["status"]) == (None, "complete")
    assert list(found["students"]) == ["mlp:8", "linear"]
    assert found["students"]["mlp:8"]["student"] == "both/students/mlp-8/student.safetensors"
    assert all(one["evaluation"]["accuracy"]["noise_baseline"] is not None for one in found["students"].values())
    assert weights(Path("both/students/mlp-8")) == weights(distilled)
    assert record(Path("both/students/linear"))["command"] == "train"
    assert sorted(snapshot(Path("both/bank"))) == sorted(snapshot(distilled / "bank"))
    assert not Path("both/students/linear/bank").exists(), "there is one bank"


def test_from_a_bank_and_what_is_shown(cake: Cake, bank: Path, heldout: Path, mlp_file: Path):
    outcome = cake("train", bank, *BOTH, "--data", heldout, "--teacher", mlp_file)
    run = Path("runs/teacher-to-2-students-001")
    paths = [str(run / "students" / name / "student.safetensors") for name in ("mlp-8", "linear")]
    assert outcome.out.splitlines() == paths
    rows = [line.split("  ")[0] for line in outcome.err.splitlines() if "%" in line and " to " in line]
    assert rows == ["teacher", "mlp:8", "mlp:8 of noise", "linear", "linear of noise"]
    described = cake("inspect", run).out
    assert f"linear  {run}/students/linear  complete, accuracy" in described
    assert cake("train", bank, *BOTH, "-q").out.splitlines() == [path.replace("teacher", "bank") for path in paths]


def test_a_run_of_several_is_no_model_but_its_students_are(cake: Cake, bank: Path, heldout: Path):
    assert cake("train", bank, *BOTH, "-o", "both").code == 0
    said = refusal(cake("evaluate", "both", "--data", heldout), 2)
    assert "both is a run of 2 students" in said
    assert "both/students/linear" in said
    assert cake("evaluate", "both/students/linear", "--data", heldout).code == 0
    assert cake("report", "both").out.splitlines() == [
        "both/students/mlp-8/report.html",
        "both/students/linear/report.html",
        "both/report.html",
    ]


def test_a_page_lists_them(cake: Cake, bank: Path, heldout: Path, mlp_file: Path):
    command = [flag for flag in BOTH if flag != "--no-report"]
    outcome = cake("train", bank, *command, "--data", heldout, "--teacher", mlp_file, "-o", "both", "--json")
    assert json.loads(outcome.out)["report"] == "both/report.html"
    page = Path("both/report.html").read_text(encoding="utf-8")
    assert "→ 2 students</h1>" in page
    for name, folder in (("mlp:8", "mlp-8"), ("linear", "linear")):
        assert f'<a href="students/{folder}/report.html">{name}</a>' in page
        assert Path(f"both/students/{folder}/report.html").is_file()
    accuracy = record(Path("both/students/linear"))["evaluation"]["accuracy"]
    assert f"<td>{accuracy['student']:.1%}".replace("%", " %") in page.replace("\u00a0", " ").replace("\u202f", " ")
    assert "Not measured" not in page
    assert "No held-out data" not in page


@pytest.mark.parametrize("stopped", ["mlp:8", "linear"])
def test_it_goes_on_where_it_stopped(cake: Cake, mlp_file: Path, monkeypatch: pytest.MonkeyPatch, stopped: str):
    append, whose = RunDirectory.append_metrics, stopped.replace(":", "-")

    def struck(run: RunDirectory, name: str, **figures: float) -> None:
        append(run, name, **figures)
        if run.path.name == whose and figures.get("epoch") == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "append_metrics", struck)
        assert cake("distill", mlp_file, *SYNTHESIS, *BOTH, "-o", "broken").code == 130
    assert record(Path("broken"))["status"] == record(Path("broken/students") / whose)["status"] == "interrupted"
    assert cake("resume", "broken").code == 0
    assert cake("distill", mlp_file, *SYNTHESIS, *BOTH, "-o", "whole").code == 0
    for name in ("mlp-8", "linear"):
        students = [Path(run) / "students" / name for run in ("broken", "whole")]
        assert weights(students[0]) == weights(students[1])
        assert [sorted(line["epoch"] for line in RunDirectory.open(one).metrics("training")) for one in students] == [
            [1, 2],
            [1, 2],
        ]
    assert sorted(snapshot(Path("broken"))) == sorted(snapshot(Path("whole")))


def test_the_gate_is_for_each(cake: Cake, mlp_file: Path, heldout: Path):
    strict = ["--data", heldout, "--min-agreement", "1", "--no-baseline"]
    outcome = cake("distill", mlp_file, *SYNTHESIS, *BOTH, *strict, "-o", "both", "--json")
    assert outcome.code == 7
    assert "mlp:8 and teacher agree on" in outcome.err
    assert "linear and teacher agree on" in outcome.err
    assert record(Path("both"))["status"] == "complete"


@pytest.mark.parametrize(
    ("names", "code", "said"),
    [
        (["mlp:8", "mlp:8"], 2, "names a student twice"),
        (["mlp:8", "lenet5"], 2, "lenet5 takes images of 28 to 36 pixels"),
        (["mlp:8", "mpl"], 2, "did you mean 'mlp'"),
    ],
)
def test_all_are_looked_at_before_anything_is_made(cake: Cake, mlp_file: Path, names: list[str], code: int, said: str):
    students = [part for name in names for part in ("--student", name)]
    assert said in refusal(cake("distill", mlp_file, *SYNTHESIS, *students, "-o", "run"), code)
    assert not Path("run").exists()


def stopped_at(cake: Cake, mlp_file: Path, monkeypatch: pytest.MonkeyPatch, whose: str, *arguments: object) -> Path:
    """A run of `mlp:8` and `linear` that was interrupted when a student had learned: `config.toml` can be edited."""
    finish = RunDirectory.finish

    def struck(run: RunDirectory, status: str, **given: object) -> None:
        finish(run, status, **given)  # type: ignore[arg-type]
        if run.path.name == whose and status == "complete":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "finish", struck)
        assert cake("distill", mlp_file, *SYNTHESIS, *BOTH, *arguments, "-o", "both").code == 130
    return Path("both/config.toml")


def edit(config: Path, before: str, after: str) -> None:
    text = config.read_text(encoding="utf-8")
    assert text.count(before) == 1
    config.write_text(text.replace(before, after), encoding="utf-8")


def test_a_student_that_is_named_later_learns_too(cake: Cake, mlp_file: Path, monkeypatch: pytest.MonkeyPatch):
    config = stopped_at(cake, mlp_file, monkeypatch, "mlp-8")
    edit(config, '["linear"]', '["linear", "mlp:4"]')
    assert cake("resume", "both").code == 0
    assert record(Path("both"))["students"] == {
        "mlp:8": "students/mlp-8",
        "linear": "students/linear",
        "mlp:4": "students/mlp-4",
    }
    assert Path("both/students/mlp-4/student.safetensors").is_file()
    edit(config, '"mlp:4"]', '"mlp:4", "mlp:6"]')
    said = refusal(cake("resume", "both"), 2)
    assert "both is complete, and what mlp:6 would learn" in said
    assert "cake train both --student mlp:6" in said


def test_a_student_that_is_named_no_longer_is_missed(cake: Cake, mlp_file: Path, monkeypatch: pytest.MonkeyPatch):
    edit(stopped_at(cake, mlp_file, monkeypatch, "mlp-8"), '["linear"]', '["mlp:4"]')
    assert "both has a student linear that its config.toml no longer names" in refusal(cake("resume", "both"), 2)


def test_what_is_asked_later_is_asked_of_finished_students_too(
    cake: Cake, mlp_file: Path, heldout: Path, monkeypatch: pytest.MonkeyPatch
):
    config = stopped_at(cake, mlp_file, monkeypatch, "mlp-8", "--no-baseline")
    edit(config, "# data =", f'data = "{heldout}"')
    edit(config, "# min_agreement =", "min_agreement = 1.0")
    edit(config, "export = []", 'export = ["torchscript"]')
    assert cake("resume", "both").code == 7
    for name in ("mlp-8", "linear"):
        found = record(Path("both/students") / name)
        assert found["evaluation"]["agreement"] < 1
        assert [file["format"] for file in found["exports"]] == ["torchscript"]


def test_one_of_several_is_gone_on_with_by_its_run(cake: Cake, mlp_file: Path, monkeypatch: pytest.MonkeyPatch):
    append = RunDirectory.append_metrics

    def struck(run: RunDirectory, name: str, **figures: float) -> None:
        append(run, name, **figures)
        if run.path.name == "linear":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "append_metrics", struck)
        assert cake("distill", mlp_file, *SYNTHESIS, *BOTH, "-o", "both").code == 130
    assert "cake resume both\n" in cake("inspect", "both/students/linear").out
    said = refusal(cake("resume", "both/students/linear"), 4)
    assert "is of one student of a run" in said
    assert "cake resume both\n" in said
    assert cake("resume", "both").code == 0
    assert cake("resume", "both/students/linear").code == 0, "it is complete"
    again = cake("distill", "--config", "both/students/linear/config.toml", "-o", "again")
    assert again.code == 0, again.err
