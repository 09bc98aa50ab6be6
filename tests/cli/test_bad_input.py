"""What cannot be done gets its sentence, what to try, and its exit code; what existed before is untouched."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from cake_cli import estimating, storage
from cake_cli.synthesis.engine import Engine
from tests.cli.conftest import SYNTHESIS, TINY, record, refusal, snapshot, weights
from tests.cli.test_bad_models import FLOAT, W, X, lfs_pointer, linear_to, save_graph
from tests.conftest import Outcome, save_mlp

Cake = Callable[..., Outcome]


# --- output -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["distill", "synthesize"])
def test_a_full_output_is_refused_before_anything_is_opened(cake: Cake, tmp_path: Path, command: str):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    before = snapshot(tmp_path)
    said = refusal(cake(command, "no-such-teacher.onnx", "-o", "out"), 2)
    assert "out exists and is not empty" in said
    assert "--force" in said
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("command", [["distill", *TINY], ["synthesize", *SYNTHESIS]], ids=lambda line: line[0])
def test_force_moves_aside_only_once_the_run_can_begin(cake: Cake, mlp_file: Path, tmp_path: Path, command: list):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    before = snapshot(tmp_path)
    verb, *flags = command
    refusal(cake(verb, "no-such-teacher.onnx", *flags, "-o", "out", "--force"), 3)
    assert snapshot(tmp_path) == before
    assert cake(verb, mlp_file, *flags, "-o", "out", "--force").code == 0
    assert Path("out.old-1/mine.txt").read_text() == "mine"
    assert not Path("out/mine.txt").exists()


@pytest.mark.parametrize("out", [".", "sub/.."])
def test_a_folder_without_a_name_is_not_moved_aside(cake: Cake, tmp_path: Path, out: str):
    Path("sub").mkdir()
    before = snapshot(tmp_path)
    said = refusal(cake("distill", "no-such-teacher.onnx", *TINY, "-o", out, "--force"), 2)
    assert "cannot be moved aside by that name" in said
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("command", ["distill", "synthesize"])
@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "force"])
def test_an_output_that_is_a_file(cake: Cake, command: str, force: list[str]):
    Path("out").write_text("mine")
    assert "not a folder" in refusal(cake(command, "no-such-teacher.onnx", "-o", "out", *force), 2)
    assert Path("out").read_text() == "mine"


@pytest.mark.parametrize("command", [["distill", *TINY], ["synthesize", *SYNTHESIS]], ids=lambda line: line[0])
@pytest.mark.parametrize("out", ["file/out", "file/deep/out", "n" * 300])
def test_an_output_that_cannot_be_made(cake: Cake, mlp_file: Path, command: list[str], out: str):
    Path("file").write_text("mine")
    assert f"{out} cannot be created" in refusal(cake(command[0], mlp_file, *command[1:], "-o", out), 2)
    assert Path("file").read_text() == "mine"


def test_an_output_that_cannot_be_written(cake: Cake, mlp_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage.os, "access", lambda path, mode: mode != os.W_OK)
    assert "not writable" in refusal(cake("distill", mlp_file, *TINY, "-o", "out"), 2)
    assert not Path("out").exists()


@pytest.mark.parametrize("command", ["distill", "inspect", "resume", "report", "evaluate"])
def test_a_name_that_no_disk_takes(cake: Cake, command: str):
    outcome = cake(command, "n" * 300, *(["--data", "x"] if command == "evaluate" else []))
    assert outcome.code in (2, 3, 4, 5)
    refusal(outcome, outcome.code)


# --- configuration ------------------------------------------------------------------------------------------------


def test_an_unknown_student(cake: Cake, mlp_file: Path, tmp_path: Path):
    before = snapshot(tmp_path)
    said = refusal(cake("distill", mlp_file, *SYNTHESIS, "--student", "resnet8"), 2)
    assert "there is no student 'resnet8', did you mean 'resnet18'?" in said
    assert "cake students" in said
    assert snapshot(tmp_path) == before


def test_no_student(cake: Cake, mlp_file: Path):
    assert "which student?" in refusal(cake("distill", mlp_file), 2)


@pytest.mark.parametrize(
    ("student", "said"),
    [("mlp:0", "hidden layers"), ("mlp:a,b", "hidden layers"), ("cnn:3", "takes no options"), ("lenet5", "1x4x4")],
)
def test_a_student_that_does_not_fit(cake: Cake, mlp_file: Path, student: str, said: str):
    assert said in refusal(cake("distill", mlp_file, *SYNTHESIS, "--student", student), 2)
    assert not Path("runs").exists()


def test_an_image_student_of_a_vector_teacher(cake: Cake, tmp_path: Path):
    vector = save_mlp(tmp_path / "vector.onnx", shape=(6,))
    assert "--student mlp" in refusal(cake("distill", vector, *SYNTHESIS, "--student", "resnet18"), 2)


def test_an_unknown_recipe(cake: Cake, mlp_file: Path):
    assert "did you mean 'paper-mnist'" in refusal(cake("distill", mlp_file, "--recipe", "paper-mnst"), 2)


def test_an_unknown_key(cake: Cake, mlp_file: Path):
    said = refusal(cake("distill", mlp_file, *TINY, "--set", "synthesis.stpes=3"), 2)
    assert "unknown key 'synthesis.stpes', did you mean 'synthesis.steps'?" in said


def test_all_faults_at_once(cake: Cake, mlp_file: Path):
    Path("own.toml").write_text('sed = 1\n[synthesis]\nstepz = 3\n[training]\nlr = "fast"\nepochs = 0\n')
    said = refusal(cake("distill", mlp_file, "--config", "own.toml", "--set", "samples=-1"), 2)
    assert "has 5 faults" in said
    for part in (
        "'sed'",
        "did you mean 'seed'",
        "'synthesis.stepz'",
        "training.lr must be a number",
        "--epochs",
        "--samples",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--config", "none.toml"], "no configuration file none.toml"),
        (["--config", "bad.toml"], "not readable as TOML"),
        (["--set", "steps"], "KEY=VALUE"),
        (["--input-shape", "3x32x32"], "--input-shape"),
        (["--mean", "0.5"], "--mean and --std belong together"),
        (["--mean", "0.1,0.2", "--std", "1,1"], "--mean has 2 values"),
        (["--std", "0", "--mean", "0"], "--std must be positive"),
        (["--input-range", "0"], "--input-range takes a low and a high number"),
        (["--epochs", "0"], "--epochs must be positive"),
        (["--min-agreement", "2"], "--min-agreement"),
        (["--seed", "-1"], "--seed"),
        (["--set", "groups=5"], "5 different classes cannot be drawn from 3"),
        (["--set", "set_size=31", "--set", "groups=3"], "cannot be cut into rows"),
        (["--set", "groups=1"], "no pairs to contrast"),
        (["--set", "synthesis.bounds=clamp"], "bounds needs the range of the inputs"),
        (["--set", "synthesis.batchnorm_weight=1"], "has no BatchNorm layers"),
        (["--contrastive", "snn", "--set", "set_size=3", "--set", "groups=3"], "no two of a class"),
        (["--method", "generative", "--noise", "langevin"], "takes no steps on samples"),
        (["--method", "noise", "--set", "init=uniform"], "labels normal starts, not uniform"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_setting_that_cannot_be(cake: Cake, mlp_file: Path, flags: list[str], said: str):
    Path("bad.toml").write_text("lr: 1e-5\n")
    assert said in refusal(cake("distill", mlp_file, *TINY, *flags), 2)
    assert not Path("runs").exists()


# --- held-out data ------------------------------------------------------------------------------------------------


def npz(**arrays: np.ndarray) -> Callable[[Path], None]:
    return lambda file: np.savez(file, **arrays)


BYTES = np.zeros((6, 4, 4), np.uint8)
DATA: dict[str, tuple[Callable[[Path], None], str]] = {
    "a label too high": (npz(x=BYTES, y=np.array([0, 1, 2, 0, 1, 3])), "3"),
    "a negative label": (npz(x=BYTES, y=np.array([0, 1, 2, 0, 1, -1])), "-1"),
    "too few labels": (npz(x=BYTES, y=np.array([0, 1, 2])), "6 rows but 3 labels"),
    "no labels": (npz(x=BYTES), "y"),
    "neither image nor vector": (npz(x=np.zeros((6, 2, 5, 6), np.uint8), y=np.arange(6) % 3), "6x2x5x6"),
    "rows of another length": (npz(x=np.zeros((6, 5), np.float32), y=np.arange(6) % 3), "values"),
    "empty": (lambda file: file.write_bytes(b""), "empty (0 bytes)"),
    "text": (lambda file: file.write_text("hello"), "heldout.npz"),
    "Git LFS pointer": (lfs_pointer, "Git LFS pointer"),
}


@pytest.mark.parametrize("kind", DATA)
def test_data_that_does_not_fit(cake: Cake, mlp_file: Path, tmp_path: Path, kind: str):
    make, word = DATA[kind]
    make(tmp_path / "heldout.npz")
    before = snapshot(tmp_path)
    for command in (["distill", mlp_file, *TINY, "-o", "out"], ["evaluate", mlp_file]):
        outcome = cake(*command, "--data", "heldout.npz")
        assert word in refusal(outcome, 4)
    assert snapshot(tmp_path) == before


def unpickled(file: Path) -> None:
    np.savez(file, x=BYTES, y=np.array([{"label": 0}] * 6, dtype=object), allow_pickle=True)


@pytest.mark.parametrize("command", ["distill", "evaluate"])
def test_pickles_in_data_are_not_loaded(cake: Cake, mlp_file: Path, tmp_path: Path, command: str):
    unpickled(tmp_path / "heldout.npz")
    flags = [*TINY, "-o", "out"] if command == "distill" else []
    said = refusal(cake(command, mlp_file, *flags, "--data", "heldout.npz"), 4)
    assert "heldout.npz[y] holds pickled Python objects, whose loading would run code; it is not loaded" in said


def test_text_in_a_numeric_column_is_named(cake: Cake, tmp_path: Path):
    vector = save_mlp(tmp_path / "vector.onnx", shape=(2,))
    Path("rows.csv").write_text("width,height,label\n1,2,0\n3,tall,1\n5,6,2\n")
    said = refusal(cake("evaluate", vector, "--data", "rows.csv"), 4)
    assert "rows.csv has 'tall' in line 3, column 'height', where a finite number should be" in said


def test_an_unreadable_image_is_counted_or_fatal_when_asked(cake: Cake, mlp_file: Path, tmp_path: Path):
    from PIL import Image

    for index in range(3):
        folder = tmp_path / "val" / f"class{index}"
        folder.mkdir(parents=True)
        for number in range(2):
            Image.new("L", (4, 4), index).save(folder / f"{number}.png")
    (tmp_path / "val" / "class1" / "1.png").write_bytes(b"broken")
    outcome = cake("evaluate", mlp_file, "--data", "val", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["samples"] == 5
    assert "warning: 1 image could not be read and left out: class1/1.png (not an image)" in outcome.err
    strict = cake("evaluate", mlp_file, "--data", "val", "--strict")
    assert "val holds images that cannot be read: class1/1.png (not an image)" in refusal(strict, 4)
    run = cake("distill", mlp_file, *TINY, "--data", "val", "--strict", "-o", "run")
    assert "cannot be read" in refusal(run, 4)


def test_data_that_is_missing_suggests_the_nearest(cake: Cake, mlp_file: Path, heldout: Path):
    said = refusal(cake("distill", mlp_file, *TINY, "--data", "heldot.npz"), 4)
    assert heldout.name in said
    assert not Path("runs").exists()


def test_an_image_folder_of_other_classes(cake: Cake, mlp_file: Path, tmp_path: Path):
    from PIL import Image

    for index in range(4):
        folder = tmp_path / "val" / f"class{index}"
        folder.mkdir(parents=True)
        Image.new("L", (4, 4), index).save(folder / "one.png")
    said = refusal(cake("distill", mlp_file, *TINY, "--data", "val"), 4)
    assert "4" in said
    assert "3" in said


# --- the machine --------------------------------------------------------------------------------------------------


def test_a_disk_too_small_is_seen_in_the_plan(cake: Cake, mlp_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(estimating, "free_disk", lambda path: 2**20)
    for command in (["distill", *TINY], ["synthesize", *SYNTHESIS]):
        said = refusal(cake(command[0], mlp_file, *command[1:], "-o", "out"), 5)
        assert "has 1 MiB free" in said
        assert "--samples" in said
        assert not Path("out").exists()


def test_memory_too_small_is_seen_in_the_plan(cake: Cake, mlp_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(estimating, "available_memory", lambda: 1000)
    assert "GiB are free" in refusal(cake("distill", mlp_file, *TINY, "-o", "out"), 5)
    assert not Path("out").exists()


def test_a_disk_that_fills_up_on_the_way(cake: Cake, mlp_file: Path, made: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        fsync = storage.os.fsync
        calls: list[int] = []

        def full(descriptor: int) -> None:
            calls.append(descriptor)
            if len(calls) == 20:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(descriptor)

        patch.setattr(storage.os, "fsync", full)
        said = refusal(cake("distill", mlp_file, *TINY, "-o", "run"), 5)
    assert "no space left on the disk" in said
    assert record(Path("run"))["status"] == "failed"
    assert cake("resume", "run").code == 0
    assert weights(Path("run")) == weights(made / "run")


def test_a_device_that_is_not_there(cake: Cake, mlp_file: Path):
    said = refusal(cake("distill", mlp_file, *TINY, "--device", "cuda:99"), 5)
    assert "this machine has cpu" in said


def test_fp16_on_the_cpu(cake: Cake, mlp_file: Path):
    assert "fp16" in refusal(cake("distill", mlp_file, *TINY, "--device", "cpu", "--precision", "fp16"), 5)


# --- the computation ----------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_the_step(cake: Cake, mlp_file: Path):
    said = refusal(cake("distill", mlp_file, *TINY, "--epochs", "9", "--lr", "1e30", "-o", "run"), 6)
    assert "training loss is not finite at step 2 of epoch 1" in said
    assert "cake train run/bank --student mlp:8 --lr" in said, "the bank need not be made again"
    assert record(Path("run"))["status"] == "failed"


def test_samples_that_are_not_finite_name_the_step(cake: Cake, mlp_file: Path):
    said = refusal(cake("distill", mlp_file, *TINY, "--set", "cls_weight=1e38", "--set", "step_size=1e38",
                        "--set", "max_update=0", "-o", "run"), 6)  # fmt: skip
    assert "step" in said
    assert not Path("run").exists(), "it is seen when a step is timed"


def test_samples_of_one_class_are_called_degenerate(cake: Cake, tmp_path: Path):
    values = {"w": W / 10, "b": np.array([50, 0, 0], np.float32)}
    nodes = [*linear_to("scores"), helper.make_node("Add", ["scores", "b"], ["logits"])]
    save_graph(tmp_path / "biased.onnx", nodes, X, {"logits": (FLOAT, ["batch", 3])}, values)
    said = refusal(cake("distill", "biased.onnx", *TINY, "-o", "run"), 6)
    assert "the teacher puts 100% of them in one of its 3 classes" in said


def test_total_variation_of_a_vector(cake: Cake, tmp_path: Path):
    vector = save_mlp(tmp_path / "vector.onnx", shape=(6,))
    said = refusal(cake("synthesize", vector, *SYNTHESIS, "--set", "tv_weight=3", "-o", "out"), 2)
    assert "total variation is for images; the input is a vector" in said
    assert cake("synthesize", vector, *SYNTHESIS, "-o", "out").code == 0


def test_a_bug_is_called_one_and_hides_its_traceback(cake: Cake, mlp_file: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(engine: Engine, sets: range, stage: object) -> None:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(Engine, "wave", broken)
    said = refusal(cake("distill", mlp_file, *TINY), 1)
    assert "this is a bug in cake: ZeroDivisionError: inside" in said
    log = Path(said.rsplit(" ", 1)[1].strip())
    assert "Traceback" in log.read_text()
    log.unlink()
