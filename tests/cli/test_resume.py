"""Interrupted, killed, failed: `cake resume` ends where an undisturbed run ends."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cake_cli import pipeline, training
from cake_cli.locks import held
from cake_cli.planning import Prepared
from cake_cli.runs import RunDirectory
from cake_cli.storage import write_fault
from cake_cli.synthesis.bank import SampleBank
from tests.cli.conftest import FAR, SYNTHESIS, TINY, record, refusal, snapshot, weights
from tests.conftest import Outcome, save_mlp

Cake = Callable[..., Outcome]
Strike = Callable[[], None]


def interrupt() -> None:
    raise KeyboardInterrupt


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def at_shard(index: int) -> Callable[[pytest.MonkeyPatch, Strike], None]:
    """Strikes when a shard is about to be stored."""

    def arm(patch: pytest.MonkeyPatch, strike: Strike) -> None:
        add = SampleBank.add

        def struck(bank: SampleBank, wave, **keywords):
            if bank.finished_waves == index:
                strike()
            return add(bank, wave, **keywords)

        patch.setattr(SampleBank, "add", struck)

    return arm


def at_epoch(stage: str, epoch: int) -> Callable[[pytest.MonkeyPatch, Strike], None]:
    """Strikes at the end of an epoch, after its figures are written and before its checkpoint is."""

    def arm(patch: pytest.MonkeyPatch, strike: Strike) -> None:
        append = RunDirectory.append_metrics

        def struck(run: RunDirectory, name: str, **figures: float) -> None:
            append(run, name, **figures)
            if (name, figures.get("epoch")) == (stage, epoch):
                strike()

        patch.setattr(RunDirectory, "append_metrics", struck)

    return arm


def at_call(name: str) -> Callable[[pytest.MonkeyPatch, Strike], None]:
    """Strikes when a function of the pipeline is called."""

    def arm(patch: pytest.MonkeyPatch, strike: Strike) -> None:
        patch.setattr(pipeline, name, lambda *arguments, **keywords: strike())

    return arm


POINTS = {
    "before the first shard": at_shard(0),
    "between two shards": at_shard(1),
    "in the first epoch": at_epoch("training", 1),
    "in the last epoch": at_epoch("training", 2),
    "in the baseline's training": at_epoch("baseline", 2),
    "in the evaluation": at_call("evaluate"),
}


@pytest.mark.parametrize("point", POINTS)
def test_an_interrupted_run_resumes_to_the_same_end(
    cake: Cake, mlp_file: Path, heldout: Path, made: Path, monkeypatch: pytest.MonkeyPatch, point: str
):
    arguments = ["distill", mlp_file, *TINY, "--data", heldout]
    with monkeypatch.context() as patch:
        POINTS[point](patch, interrupt)
        stopped = cake(*arguments, "-o", "broken")
    assert (stopped.code, stopped.out) == (130, "")
    assert stopped.err.splitlines()[-2:] == ["error: interrupted; nothing is lost", "try:   cake resume broken"]
    assert record(Path("broken"))["status"] == "interrupted"
    resumed = cake("resume", "broken", "--json")
    assert resumed.code == 0, resumed.err
    assert weights(Path("broken")) == weights(made / "measured")
    whole, broken = record(made / "measured"), record(Path("broken"))
    for key in ("status", "teacher_passes", "synthesis", "synthetic_fidelity", "baseline_passes"):
        assert broken.get(key) == whole.get(key)
    assert broken["evaluation"] == whole["evaluation"] | {"data": str(heldout)}
    lines = [sorted((run / "metrics.jsonl").read_text().splitlines()) for run in (Path("broken"), made / "measured")]
    assert lines[0] == lines[1]
    assert sorted(snapshot(Path("broken"))) == sorted(snapshot(made / "measured")), "nothing is left over"
    assert json.loads(resumed.out)["run"] == "broken"


def test_sigterm_ends_like_ctrl_c(cake: Cake, mlp_file: Path, monkeypatch: pytest.MonkeyPatch):
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        at_shard(1)(patch, terminate)
        stopped = cake("distill", mlp_file, *TINY, "-o", "run")
    assert stopped.code == 130
    assert record(Path("run"))["status"] == "interrupted"
    assert signal.getsignal(signal.SIGTERM) is before
    assert cake("resume", "run").code == 0


def test_interrupted_twice(cake: Cake, mlp_file: Path, made: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        at_shard(1)(patch, interrupt)
        assert cake("distill", mlp_file, *TINY, "-o", "run").code == 130
    with monkeypatch.context() as patch:
        at_epoch("training", 2)(patch, interrupt)
        assert cake("resume", "run").code == 130
    assert cake("resume", "run").code == 0
    assert weights(Path("run")) == weights(made / "run")


def test_a_failed_run_says_why_and_resumes(cake: Cake, mlp_file: Path, made: Path, monkeypatch: pytest.MonkeyPatch):
    def fail() -> None:
        raise OSError("the cable")

    with monkeypatch.context() as patch:
        at_epoch("training", 1)(patch, fail)
        failed = cake("distill", mlp_file, *TINY, "-o", "run")
    assert failed.code == 1
    assert "this is a bug in cake: OSError: the cable" in failed.err
    assert "Traceback" not in failed.err
    assert (record(Path("run"))["status"], "the cable" in record(Path("run"))["error"]) == ("failed", True)
    assert "Traceback" in Path("run/log.txt").read_text()
    assert "cake resume run, when what failed is mended" in cake("inspect", "run").out
    assert cake("resume", "run").code == 0
    assert weights(Path("run")) == weights(made / "run")
    assert record(Path("run"))["error"] is None


def test_a_complete_run_stays_as_it_is(cake: Cake, distilled: Path):
    before, known = weights(distilled), record(distilled)
    outcome = cake("resume", distilled)
    assert (outcome.code, outcome.out) == (0, "run/student.safetensors\n")
    assert weights(distilled) == before
    again = record(distilled)
    assert {name: again[name] for name in ("seconds", "evaluation")} == {
        name: known[name] for name in ("seconds", "evaluation")
    }


def test_an_interrupted_bank_resumes_to_the_same_samples(
    cake: Cake, mlp_file: Path, made: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        at_shard(1)(patch, interrupt)
        stopped = cake("synthesize", mlp_file, *SYNTHESIS, "-o", "bank")
    assert stopped.code == 130
    assert "cake resume bank" in stopped.err
    against = cake("resume", "bank", "--disagreement", "1")
    assert (against.code, against.out) == (2, "")
    assert "bank is a bank, and there is no student to differ from" in against.err
    shown = cake("inspect", "bank").out
    assert "partial: cake resume bank" in shown
    resumed = cake("resume", "bank", "-q")
    assert (resumed.code, resumed.out) == (0, "bank\n")
    whole, resumed_files = snapshot(made / "bank"), snapshot(Path("bank"))
    assert whole.pop("config.toml") != resumed_files.pop("config.toml"), "the teachers lie in different places"
    assert resumed_files == whole


# --- what cannot be resumed ---------------------------------------------------------------------------------------


@pytest.fixture
def stopped(cake: Cake, mlp_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was interrupted between two epochs."""
    with monkeypatch.context() as patch:
        at_epoch("training", 2)(patch, interrupt)
        assert cake("distill", mlp_file, *TINY, "-o", "run").code == 130
    return Path("run")


def test_another_teacher_under_the_same_name(cake: Cake, mlp_file: Path, stopped: Path):
    save_mlp(mlp_file, seed=1)
    before = snapshot(stopped)
    outcome = cake("resume", stopped)
    assert outcome.code == 4
    assert "the teacher's file has changed" in outcome.err
    assert snapshot(stopped) == before


def test_a_teacher_that_is_gone(cake: Cake, mlp_file: Path, stopped: Path):
    mlp_file.unlink()
    before = snapshot(stopped)
    outcome = cake("resume", stopped)
    assert outcome.code == 3
    assert str(mlp_file) in outcome.err
    assert snapshot(stopped) == before


def test_a_checkpoint_cut_short(cake: Cake, stopped: Path):
    checkpoint = stopped / "checkpoints" / "training.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    outcome = cake("resume", stopped)
    assert outcome.code == 4
    assert f"the checkpoint {checkpoint} is damaged" in outcome.err
    assert f"remove {checkpoint}" in outcome.err
    checkpoint.unlink()
    assert cake("resume", stopped).code == 0


def test_settings_changed_by_hand(cake: Cake, stopped: Path):
    config = stopped / "config.toml"
    config.write_text(config.read_text().replace("\nsteps = 2\n", "\nsteps = 3\n"))
    outcome = cake("resume", stopped)
    assert outcome.code == 4
    assert "begun with other settings" in outcome.err


@pytest.fixture
def half(cake: Cake, mlp_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bank of one shard, where there should be two."""
    with monkeypatch.context() as patch:
        at_shard(1)(patch, interrupt)
        assert cake("synthesize", mlp_file, *SYNTHESIS, "-o", "bank").code == 130
    return Path("bank")


def test_a_bank_of_another_teacher(cake: Cake, mlp_file: Path, half: Path):
    save_mlp(mlp_file, seed=1)
    before = snapshot(half)
    assert "made from another teacher (teacher.onnx)" in refusal(cake("resume", half), 4)
    assert snapshot(half) == before


def test_a_bank_of_another_version(cake: Cake, half: Path):
    manifest = half / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"schema_version": 1', '"schema_version": 7'))
    before = snapshot(half)
    said = refusal(cake("resume", half), 4)
    assert "bank was written in version 7 of the bank format, this cake reads 1" in said
    assert snapshot(half) == before


def test_a_bank_that_lost_a_shard(cake: Cake, half: Path):
    (half / "shard-00000.safetensors").unlink()
    assert "bank has lost its shard shard-00000.safetensors" in refusal(cake("resume", half), 4)


def test_a_disk_that_fills_up(cake: Cake, mlp_file: Path, made: Path, monkeypatch: pytest.MonkeyPatch):
    def full(bank: SampleBank, wave, **keywords):
        if bank.finished_waves == 1:
            raise write_fault(bank.path / "shard-00001.safetensors", OSError(errno.ENOSPC, "No space left on device"))
        return add(bank, wave, **keywords)

    add = SampleBank.add
    with monkeypatch.context() as patch:
        patch.setattr(SampleBank, "add", full)
        said = refusal(cake("synthesize", mlp_file, *SYNTHESIS, "-o", "bank"), 5)
    assert "no space left on the disk of bank/shard-00001.safetensors" in said
    assert SampleBank.open(Path("bank")).finished_waves == 1
    assert cake("resume", "bank").code == 0
    assert snapshot(Path("bank"))["manifest.json"] == snapshot(made / "bank")["manifest.json"]


def test_a_run_that_is_in_use(cake: Cake, distilled: Path):
    before = snapshot(distilled)
    with held(distilled):
        assert "run is in use by process" in refusal(cake("resume", distilled), 4)
    assert snapshot(distilled) == before


def test_the_bank_within_a_run(cake: Cake, distilled: Path):
    said = refusal(cake("resume", distilled / "bank"), 4)
    assert "run/bank is the bank of a run" in said
    assert "cake resume run" in said


def test_every_hint_for_a_bank_within_a_run_names_the_run(cake: Cake, mlp_file: Path, monkeypatch: pytest.MonkeyPatch):
    from cake_cli.synthesis.bank import SampleBank

    with monkeypatch.context() as patch:
        patch.setattr(SampleBank, "finish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cake("distill", mlp_file, *TINY, "-o", "my run").code == 130
    assert "partial: cake resume 'my run'\n" in cake("inspect", "my run/bank").out
    said = refusal(cake("train", "my run/bank", "--student", "linear"), 4)
    assert "is not finished" in said
    assert "cake resume 'my run'\n" in said
    assert cake("resume", "my run").code == 0


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux alone")
def test_a_path_that_is_not_utf_8_is_refused_before_any_work(cake: Cake, mlp_file: Path):
    odd = os.fsdecode(b"odd-\xff")
    assert "is not UTF-8" in refusal(cake("distill", mlp_file, *TINY, "-o", odd), 2)
    Path(odd).mkdir()
    mlp_file.rename(Path(odd) / "teacher.onnx")
    said = refusal(cake("distill", f"{odd}/teacher.onnx", *TINY, "-o", "run"), 2)
    assert "teacher.file must be UTF-8: rename the file or folder" in said
    assert not Path("run").exists()


@pytest.mark.parametrize("name", ["empty", "nowhere"])
def test_what_is_neither_run_nor_bank(cake: Cake, name: str):
    Path("empty").mkdir()
    outcome = cake("resume", name)
    assert outcome.code == 4
    assert "neither a run nor a bank" in outcome.err
    assert not Path("nowhere").exists()


def test_what_is_learned_beside_is_as_the_run_was_planned(cake: Cake, mlp_file: Path, monkeypatch: pytest.MonkeyPatch):
    """By an older cake, say, which kept nothing beside: who goes on with it must not look for that."""
    with monkeypatch.context() as patch:
        patch.setattr(Prepared, "labels_beside", False)
        assert cake("distill", mlp_file, *TINY, "-o", "whole").code == 0
        patch.setattr(training, "save_student", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cake("distill", mlp_file, *TINY, "-o", "stopped").code == 130
    outcome = cake("resume", "stopped")
    assert outcome.code == 0, outcome.err
    assert record(Path("stopped"))["training_passes"]["forward"] == 0
    assert weights(Path("stopped")) == weights(Path("whole"))


def test_code_of_the_teachers_architecture_is_found_from_any_folder(
    cake: Cake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    Path("net.py").write_text(
        "from torch import nn\n\n\ndef teach():\n    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))\n",
        encoding="utf-8",
    )
    save_file({"1.weight": torch.randn(3, 16), "1.bias": torch.zeros(3)}, "teacher.safetensors")
    weights_of = ["teacher.safetensors", "--arch", "net.py:teach", "--input-shape", "1,4,4", "--classes", "3"]
    assert cake("distill", *weights_of, *TINY, *FAR, "-o", "run").code == 0
    assert f'arch = "{tmp_path}/net.py:teach"' in Path("run/config.toml").read_text(encoding="utf-8")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert cake("resume", "../run").code == 0
    assert cake("distill", "--config", "../run/run.json", "-o", "again").code == 0
