"""The run directory: begun empty, opened safely, its logs append-only and forgiving."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cake_cli.config import Config, StudentConfig, TrainingConfig
from cake_cli.errors import DataError, EnvironmentFault, RunError, UsageError
from cake_cli.runs import SCHEMA_VERSION, RunDirectory, default_run_path

CONFIG = Config(seed=3, student=StudentConfig("mlp"), training=TrainingConfig(epochs=2))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", CONFIG, command="distill", force=False)


def on_disk(run: RunDirectory) -> dict:
    return json.loads((run.path / "run.json").read_text(encoding="utf-8"))


def test_a_new_run_says_how_it_was_started(run: RunDirectory):
    record = on_disk(run)
    assert record == run.record
    assert (record["status"], record["command"], record["seed"], record["schema_version"]) == (
        "running",
        "distill",
        3,
        SCHEMA_VERSION,
    )
    assert record["data_free"] is True
    assert record["working_directory"] == str(Path.cwd())
    assert {"cake", "torch", "onnx", "python"} <= set(record["versions"])


def test_a_run_keeps_its_configuration(run: RunDirectory):
    assert RunDirectory.open(run.path).config() == CONFIG


def test_a_configuration_broken_by_hand_is_named(run: RunDirectory):
    file = run.path / "config.toml"
    file.write_text(file.read_text() + "\n[trainign]\nepochs = 3\n")
    with pytest.raises(UsageError) as caught:
        run.config()
    assert str(file) in caught.value.what
    assert "did you mean 'training.epochs'" in caught.value.what


def test_a_taken_folder_is_refused_and_untouched(run: RunDirectory):
    before = on_disk(run)
    with pytest.raises(UsageError, match="not empty"):
        RunDirectory.create(run.path, Config(), command="train", force=False)
    assert on_disk(run) == before


def test_force_keeps_the_old_run_beside(run: RunDirectory):
    fresh = RunDirectory.create(run.path, Config(), command="train", force=True)
    assert on_disk(fresh)["command"] == "train"
    assert json.loads((run.path.with_name("run.old-1") / "run.json").read_text())["command"] == "distill"


def test_default_names_count_up(tmp_path: Path):
    def name() -> Path:
        return default_run_path(Path("models/my teacher[1].onnx"), "mlp:64,64", tmp_path)

    first = name()
    assert first.parent == tmp_path
    assert first.name == "my-teacher-1--to-mlp-64-64-001"
    first.mkdir()
    assert name().name.endswith("-002")


@pytest.mark.parametrize("teacher", ["..", ".onnx", "", "-rf.onnx", "\x1b[31m.onnx"])
def test_default_names_are_plain(tmp_path: Path, teacher: str):
    path = default_run_path(Path(teacher), "cnn", tmp_path)
    assert path.parent == tmp_path
    assert path.name[0].isalnum() or path.name[0] == "_"
    assert path.name.isprintable()


# --- opening ------------------------------------------------------------------------------------------------------


def test_what_is_not_a_run_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="not a run directory"):
        RunDirectory.open(tmp_path)


def test_a_folder_that_is_not_there_is_no_run_and_the_nearest_is_named(run: RunDirectory):
    with pytest.raises(DataError, match="there is no folder") as caught:
        RunDirectory.open(run.path.with_name("runs"))
    assert caught.value.fix == f"did you mean {run.path}?"
    with pytest.raises(DataError) as caught:
        RunDirectory.open(run.path / "students" / "mlp")
    assert str(caught.value.fix).startswith("check the path")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "3", "{}", '{"schema_version": 1}', '{"schema_version": 1, "status": "x"}', "\xff"],
)
def test_a_damaged_record_is_refused(run: RunDirectory, content: str):
    (run.path / "run.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match="is damaged"):
        RunDirectory.open(run.path)


def test_a_newer_run_is_refused_with_both_versions(run: RunDirectory):
    run.update(schema_version=SCHEMA_VERSION + 1)
    with pytest.raises(DataError) as caught:
        RunDirectory.open(run.path)
    assert f"version {SCHEMA_VERSION + 1}" in caught.value.what
    assert f"reads {SCHEMA_VERSION}" in caught.value.what


def test_only_who_holds_a_run_clears_what_a_killed_writer_left(run: RunDirectory):
    left = run.path / ".partial-0000-run.json"
    left.touch()
    opened = RunDirectory.open(run.path)
    assert left.exists(), "`cake inspect` of a run that is at work takes nothing from under its hands"
    opened.clear_leftovers()
    assert not left.exists()


# --- course -------------------------------------------------------------------------------------------------------


def test_the_end_is_recorded_with_its_reason(run: RunDirectory):
    run.finish("failed", fault=RunError("the loss is not finite", "a smaller --lr"))
    assert (on_disk(run)["status"], on_disk(run)["error"]) == ("failed", "the loss is not finite")
    assert on_disk(run)["fix"] == "a smaller --lr"
    run.finish("failed", fault=ValueError("odd"))
    assert (on_disk(run)["error"], on_disk(run)["fix"]) == ("ValueError('odd')", None)
    run.finish("complete")
    assert (on_disk(run)["status"], on_disk(run)["error"]) == ("complete", None)
    assert on_disk(run)["finished"]


def test_seconds_add_up_over_attempts(run: RunDirectory):
    run.add_seconds("training", 1.5)
    RunDirectory.open(run.path).add_seconds("training", 2.0)
    assert on_disk(run)["seconds"] == {"training": 3.5}


def test_a_warning_is_kept_once(run: RunDirectory):
    for text in ("one", "two", "one"):
        run.warn(text)
    assert on_disk(run)["warnings"] == ["one", "two"]


def test_metrics_by_stage(run: RunDirectory):
    run.append_metrics("training", epoch=1, loss=0.5)
    run.append_metrics("baseline", epoch=1, loss=0.7)
    assert run.metrics("training") == [{"stage": "training", "epoch": 1, "loss": 0.5}]
    assert run.metrics("synthesis") == []


def test_a_line_that_a_kill_cut_short_is_passed_over(run: RunDirectory):
    run.append_metrics("training", epoch=1, loss=0.5)
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write('{"stage": "training", "epo')
    assert [line["epoch"] for line in run.metrics("training")] == [1]
    run.keep_metrics("training", key="epoch", below=2)
    run.append_metrics("training", epoch=2, loss=0.4)
    assert [line["epoch"] for line in run.metrics("training")] == [1, 2]


@pytest.mark.parametrize("cut", ["3", "null", '"text"', "{}", '{"stage": "training"}'])
def test_a_line_that_is_json_and_no_metric_is_passed_over(run: RunDirectory, cut: str):
    run.append_metrics("training", epoch=1, loss=0.5)
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write(cut + "\n")
    run.keep_metrics("training", key="epoch", below=2)
    assert [line["epoch"] for line in run.metrics("training") if "epoch" in line] == [1]


def test_a_resumed_stage_drops_only_its_own_later_lines(run: RunDirectory):
    for epoch in (1, 2, 3):
        run.append_metrics("training", epoch=epoch, loss=1.0)
        run.append_metrics("baseline", epoch=epoch, loss=1.0)
    run.keep_metrics("training", key="epoch", below=2)
    assert [line["epoch"] for line in run.metrics("training")] == [1]
    assert [line["epoch"] for line in run.metrics("baseline")] == [1, 2, 3]


def test_a_figure_that_is_not_finite_is_never_written(run: RunDirectory):
    with pytest.raises(ValueError, match="JSON"):
        run.append_metrics("training", epoch=1, loss=float("nan"))
    assert run.metrics("training") == []


def test_the_log_has_times(run: RunDirectory):
    run.log(["one", "two"])
    lines = (run.path / "log.txt").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["one", "two"]
    assert all(line[4] == "-" and line[10] == "T" for line in lines)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_also_by_the_logs(run: RunDirectory):
    for name in ("log.txt", "metrics.jsonl"):
        (run.path / name).symlink_to("/dev/full")
    with pytest.raises(EnvironmentFault, match="no space left"):
        run.log(["one"])
    with pytest.raises(EnvironmentFault, match="no space left"):
        run.append_metrics("training", epoch=1)
