"""Several processes share every batch, and a process that is killed loses no more than its epoch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cake_cli import training
from cake_cli.errors import RunError
from cake_cli.ranks import Ranks
from cake_cli.runs import OtherRanksRun
from tests.cli.conftest import TINY, TRAINING, digest, record, weights
from tests.cli.killing import killed, on_ranks
from tests.conftest import Outcome

Cake = Callable[..., Outcome]
BOTH = [*TRAINING, "--no-report", "--student", "mlp:8", "--student", "linear"]
ROUNDS = ["--samples", "180", "--steps", "2", "--set", "set_size=30", "--rounds", "3", *BOTH]
"""Three rounds of two sets each, of which two processes make one each."""


def nearly(one: Path, other: Path, *, by: float = 1e-5, file: str = "student.safetensors") -> bool:
    """Whether two students are the same but for the order in which gradients were added up."""
    found, wanted = (load_file(run / file) for run in (one, other))
    return all(torch.allclose(found[name], wanted[name], atol=by) for name in wanted)


@pytest.mark.slow
def test_two_processes_train_what_one_does(cake: Cake, bank: Path, mlp_file: Path, heldout: Path, tmp_path: Path):
    common = ["train", bank, *BOTH, "--teacher", mlp_file, "--data", heldout, "--ema", "0.9"]
    assert on_ranks(2, tmp_path, [*common, "-o", "shared"]) == [0, 0], Path("said-0").read_text()
    said = [Path(f"said-{rank}").read_text() for rank in range(2)]
    assert said[0].count("ok linear training") == 1
    assert said[1] == "", "the first speaks for both"
    assert cake(*common, "-o", "alone").code == 0
    for name in ("mlp-8", "linear"):
        shared, alone = (Path(run) / "students" / name for run in ("shared", "alone"))
        assert nearly(shared, alone)
        lines = [json.loads(line) for line in (shared / "metrics.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines if line["stage"] == "training"] == [1, 2], "written once"
        expected = [json.loads(line) for line in (alone / "metrics.jsonl").read_text().splitlines()]
        assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in expected], abs=1e-4)
        assert record(shared)["evaluation"] is not None


@pytest.mark.slow
def test_two_processes_learn_the_same_beside_their_samples(cake: Cake, mlp_file: Path, tmp_path: Path):
    assert on_ranks(2, tmp_path, ["distill", mlp_file, *TINY, "-o", "shared"]) == [0, 0], Path("said-0").read_text()
    beside = ["--rounds", "1", "--set", "training.noise_samples=420", "--set", "training.waypoints=1"]
    assert cake("distill", mlp_file, *TINY, *beside, "-o", "alone").code == 0
    shared, alone = record(Path("shared")), record(Path("alone"))
    assert shared["training_passes"] == alone["training_passes"] == {"forward": 420, "backward": 0}
    assert (shared["plan"]["noise_samples"], shared["plan"]["waypoints"]) == (420, 1)
    assert nearly(Path("shared"), Path("alone"))
    assert "its part of 420" in Path("said-0").read_text()


@pytest.mark.slow
def test_two_processes_make_the_rounds_of_one(cake: Cake, mlp_file: Path, heldout: Path, tmp_path: Path):
    common = ["distill", mlp_file, *ROUNDS, "--data", heldout, "--ema", "0.9"]
    assert on_ranks(2, tmp_path, [*common, "-o", "shared"]) == [0, 0], Path("said-0").read_text()
    said = [Path(f"said-{rank}").read_text() for rank in range(2)]
    assert said[0].count("expected agreement") == 3, "after the second and the third round, and in the end"
    assert said[1] == "", "the first speaks for both"
    assert cake(*common, "--set", "sets_at_once=1", "-o", "alone").code == 0
    shared, alone = Path("shared"), Path("alone")
    for shard in ("shard-00000.safetensors", "shard-00001.safetensors"):
        assert digest(shared / "bank" / shard) == digest(alone / "bank" / shard), "before the first training"
    assert nearly(shared / "bank", alone / "bank", file="student-2.safetensors")
    for name in ("mlp-8", "linear"):
        assert nearly(shared / "students" / name, alone / "students" / name, by=1e-3)
    told = [record(run)["rounds"] for run in (shared, alone)]
    for key in ("round", "samples", "teacher_passes", "training_passes", "epochs", "learned"):
        assert [entry.get(key) for entry in told[0]] == [entry.get(key) for entry in told[1]]
    assert record(shared)["student_passes"] == record(alone)["student_passes"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("target", ["shard-00002", "round-2.pt"])
def test_rounds_that_one_process_began_are_gone_on_with_by_two(cake: Cake, mlp_file: Path, tmp_path: Path, target: str):
    common = ["distill", mlp_file, *ROUNDS, "--set", "sets_at_once=1"]
    assert killed(tmp_path, [*common, "-o", "struck"], target, 1) == -9
    assert on_ranks(2, tmp_path, ["resume", "struck"]) == [0, 0], Path("said-0").read_text()
    assert cake(*common, "-o", "whole").code == 0
    for name in ("mlp-8", "linear"):
        assert nearly(Path("struck/students") / name, Path("whole/students") / name, by=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_killed_while_a_checkpoint_is_written(cake: Cake, bank: Path, tmp_path: Path):
    common = ["train", bank, *TRAINING, "--epochs", "4", "--student", "mlp:8", "--no-report"]
    assert killed(tmp_path, [*common, "-o", "struck"], "training.pt", 2) == -9
    assert record(Path("struck"))["status"] == "running"
    assert cake(*common, "-o", "whole").code == 0
    assert cake("resume", "struck").code == 0
    assert weights(Path("struck")) == weights(Path("whole"))
    assert killed(tmp_path, [*common, "-o", "again"], "training.pt", 2) == -9
    assert on_ranks(2, tmp_path, ["resume", "again"]) == [0, 0]
    assert nearly(Path("again"), Path("whole")), "gone on with by two"


@pytest.mark.parametrize("said", ["[gloo/transport/tcp/pair.cc:545] Connection reset by peer", "NCCL error"])
def test_another_rank_that_is_gone_is_no_bug(tmp_path: Path, said: str):
    with pytest.raises(RunError, match="another of 2 ranks died") as caught:  # noqa: SIM117
        with training._heard(Ranks(0, 2), OtherRanksRun(tmp_path / "run")):
            raise RuntimeError(said)
    assert "cake resume" in str(caught.value.fix)
    for ranks, text in ((Ranks(), said), (Ranks(0, 2), "shapes do not match")):
        with pytest.raises(RuntimeError), training._heard(ranks, OtherRanksRun(tmp_path)):
            raise RuntimeError(text)
