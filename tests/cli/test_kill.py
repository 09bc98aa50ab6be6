"""Killed for good at any point, and gone on with: the bank, its copies and the run are those of an undisturbed one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cake_cli.synthesis.bank import SampleBank
from tests.cli.conftest import SYNTHESIS, TINY, record, snapshot, weights
from tests.cli.killing import killed
from tests.conftest import Outcome, save_mlp

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
Cake = Callable[..., Outcome]
BANK = [*SYNTHESIS, "--samples", "90", "--format", "npz", "--format", "png"]
"""Three shards and two copies."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher, for all tests: its path is part of what they compare."""
    folder = tmp_path_factory.mktemp("killed")
    save_mlp(folder / "teacher.onnx")
    return folder


@pytest.fixture
def undisturbed(cake: Cake, place: Path) -> dict[str, str]:
    if not (place / "undisturbed").exists():
        assert cake("synthesize", place / "teacher.onnx", *BANK, "-o", place / "undisturbed").code == 0
    return snapshot(place / "undisturbed")


@pytest.mark.parametrize(
    ("target", "time", "shards"),
    [
        ("config.toml", 1, None),
        ("manifest.json", 1, None),
        ("shard-00000", 1, 0),
        ("journal-00000", 1, 1),
        ("shard-00001", 1, 1),
        ("shard-00002", 1, 2),
        ("journal-00000", 3, 3),
        ("manifest.json", 2, 3),
        ("samples.npz", 1, 3),
        ("images", 1, 3),
        ("samples.png", 1, 3),
    ],
)
def test_a_bank(
    cake: Cake, place: Path, tmp_path: Path, undisturbed: dict[str, str], target: str, time: int, shards: int | None
):
    bank = tmp_path / "bank"
    assert killed(tmp_path, ["synthesize", place / "teacher.onnx", *BANK, "-o", bank], target, time) == -9
    if target == "config.toml":
        assert cake("resume", bank).code == 4, "nothing was there yet"
        assert cake("synthesize", place / "teacher.onnx", *BANK, "-o", bank, "--force").code == 0
    else:
        assert list(bank.glob(".partial-*")) or target.startswith("journal"), "it was killed where it was meant to be"
        if shards is not None:
            assert SampleBank.open(bank).finished_waves == shards
        resumed = cake("resume", bank, "-q")
        assert (resumed.code, resumed.out) == (0, f"{bank}\n"), resumed.err
    assert snapshot(bank) == undisturbed


def test_a_bank_over_and_over(place: Path, tmp_path: Path, cake: Cake, undisturbed: dict[str, str]):
    bank = tmp_path / "bank"
    assert killed(tmp_path, ["synthesize", place / "teacher.onnx", *BANK, "-o", bank], "shard-00001", 1) == -9
    for target in ("journal-00000", "manifest.json", "samples.npz", "images"):
        assert killed(tmp_path, ["resume", bank], target, 1) == -9
    assert cake("resume", bank).code == 0
    assert snapshot(bank) == undisturbed


def test_a_run(cake: Cake, mlp_file: Path, made: Path, own_folder: Path):
    run = Path("run")
    assert killed(own_folder, ["distill", mlp_file, *TINY, "-o", run], "shard-00001", 1) == -9
    assert list(run.glob("bank/.partial-*"))
    assert record(run)["status"] == "running"
    resumed = cake("resume", run)
    assert resumed.code == 0, resumed.err
    assert weights(run) == weights(made / "run")
    assert sorted(snapshot(run)) == sorted(snapshot(made / "run"))


def test_a_run_before_it_began(cake: Cake, mlp_file: Path, made: Path, own_folder: Path):
    arguments = ["distill", mlp_file, *TINY, "-o", "run"]
    assert killed(own_folder, arguments, "config.toml", 1) == -9
    assert killed(own_folder, arguments, "run.json", 1) == -9, "nothing was there that --force would have to move"
    assert "stopped before anything was done" in cake("inspect", "run").out
    (own_folder / "run" / "notes.txt").touch()
    assert cake("resume", "run").code == 4, "a folder with a configuration and other things is somebody's own"
    (own_folder / "run" / "notes.txt").unlink()
    assert cake("resume", "run").code == 0
    assert weights(Path("run")) == weights(made / "run")
    assert sorted(snapshot(Path("run"))) == sorted(snapshot(made / "run"))
