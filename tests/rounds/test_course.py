"""Rounds: what each leaves and counts, that a stop anywhere changes nothing, and what is refused or said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cake_cli import rounds, training
from cake_cli.config import Config, TrainingConfig
from cake_cli.errors import DataError, RunError, UsageError
from cake_cli.estimating import settle
from cake_cli.lesson import compose
from cake_cli.models.students import load_student
from cake_cli.planning import prepare
from cake_cli.ranks import Ranks
from cake_cli.runs import RunDirectory
from cake_cli.storage import sha256
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.disagreement import Disagreement
from cake_cli.synthesis.engine import Engine
from tests.rounds.conftest import go_on, hashes, run_of, with_synthesis
from tests.synthesizing.conftest import Heard

# --- what a run of rounds leaves ----------------------------------------------------------------------------------


def test_the_manifest_says_of_what_round_a_shard_is(undisturbed: RunDirectory):
    manifest = json.loads((undisturbed.bank_path / "manifest.json").read_text())
    assert [shard["round"] for shard in manifest["shards"]] == [1, 1, 2, 2, 3, 3]
    assert [shard.get("disagreement") for shard in manifest["shards"]] == [None, None, *[100.0] * 4]
    assert [entry["round"] for entry in manifest["rounds"]] == [2, 3]
    for entry in manifest["rounds"]:
        file = undisturbed.bank_path / entry["student"]
        assert sha256(file) == entry["sha256"]
        assert load_student(file).classes == 3
    sizes = [shard["step_sizes"][0] for shard in manifest["shards"]]
    assert sizes[:2] == sizes[2:4] == sizes[4:], "each round has all step sizes"


def test_passes_of_teacher_and_student_are_counted(undisturbed: RunDirectory):
    record = undisturbed.record
    assert record["teacher_passes"] == {"forward": 180 * 5, "backward": 180 * 4}
    assert record["student_passes"] == {"forward": 120 * 4, "backward": 120 * 4}
    assert [entry["samples"] for entry in record["rounds"]] == [60, 60, 60]
    assert [entry["teacher_passes"]["forward"] for entry in record["rounds"]] == [300, 300, 300]
    assert [entry["labelled"] for entry in record["rounds"]] == [30, 30, 30]
    assert [entry.get("epochs") for entry in record["rounds"]] == [3, 2, None]
    assert [entry.get("learned") for entry in record["rounds"]] == [258, 516, None], "three are held out of each sixty"
    assert record["training_passes"] == {"forward": 90, "backward": 0}
    assert undisturbed.metrics("round-2")[-1]["epoch"] == 2


def test_rounds_follow_the_student(config: Config, undisturbed: RunDirectory, tmp_path: Path):
    other = run_of(with_synthesis(config, disagreement=0.0), tmp_path / "other")
    ours, theirs = hashes(undisturbed), hashes(other)
    same = [name for name in ours if ours[name] == theirs[name]]
    assert same == ["shard-00000.safetensors", "shard-00001.safetensors", "student-2.safetensors"]
    assert other.record["student_passes"] == {"forward": 0, "backward": 0}
    assert other.record["rounds"][2]["agreement_on_samples"]["samples"] == 60


def test_a_curriculum_rises_to_the_whole_weight(config: Config, undisturbed: RunDirectory, tmp_path: Path):
    eased = run_of(with_synthesis(config, curriculum=True), tmp_path / "eased")
    shards = SampleBank.open(eased.bank_path).manifest["shards"]
    assert [shard.get("disagreement") for shard in shards] == [None, None, 50.0, 50.0, 100.0, 100.0]
    assert [entry["disagreement"] for entry in eased.record["rounds"]] == [0.0, 50.0, 100.0]
    ours, theirs = hashes(undisturbed), hashes(eased)
    assert ours["student-2.safetensors"] == theirs["student-2.safetensors"]
    assert ours["shard-00002.safetensors"] != theirs["shard-00002.safetensors"]


def test_classes_can_count_alike(config: Config, undisturbed: RunDirectory, tmp_path: Path):
    even = replace(config, training=replace(config.training, class_balance=1.0))
    other = run_of(even, tmp_path / "even")
    ours, theirs = hashes(undisturbed), hashes(other)
    assert ours["shard-00000.safetensors"] == theirs["shard-00000.safetensors"]
    assert ours["student-2.safetensors"] != theirs["student-2.safetensors"], "the first training weighs its samples"


def test_the_student_carries_on(config: Config, undisturbed: RunDirectory, tmp_path: Path):
    alone = with_synthesis(config, rounds=1, bank=str(undisturbed.bank_path))
    fresh = run_of(alone, tmp_path / "fresh")
    assert sha256(fresh.student_path) != sha256(undisturbed.student_path)
    assert fresh.record["synthesis"]["samples"] == 180, "a bank of rounds is a bank"


def test_views_are_counted_in_every_round(config: Config, tmp_path: Path):
    changed = replace(config, training=replace(config.training, views=("noise",)))
    run = run_of(changed, tmp_path / "run")
    between = [entry["training_passes"]["forward"] for entry in run.record["rounds"]]
    assert between == [3 * 256, 2 * 512, 0], "whole batches of 16"
    assert run.record["training_passes"]["forward"] == sum(between) + 4 * 768 + 90


def test_several_students_follow_the_first(config: Config, undisturbed: RunDirectory, tmp_path: Path):
    heard = Heard()
    two = replace(config, student=replace(config.student, others=("mlp:8",)))
    run = run_of(two, tmp_path / "two", heard)
    assert heard.notes[0] == "rounds follow linear; the other students learn from the whole bank"
    first, other = run.students().values()
    assert sha256(first.student_path) == sha256(undisturbed.student_path)
    assert other.record["student"]["architecture"] == "mlp:8"


# --- stopped and gone on with -------------------------------------------------------------------------------------


@pytest.fixture
def strikes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts waves and epochs, and interrupts the one whose number is set; 0 for none."""
    at, seen = [0], [0]

    def strike() -> None:
        seen[0] += 1
        if seen[0] == at[0]:
            raise KeyboardInterrupt

    wave, update = Engine.wave, training.Epoch

    def struck(engine: Engine, *given: object) -> object:
        strike()
        return wave(engine, *given)  # type: ignore[arg-type]

    def counted(*given: object) -> object:
        strike()
        return update(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "wave", struck)
    monkeypatch.setattr("cake_cli.distillation.trainer.Epoch", counted)
    yield at
    assert seen[0] >= at[0], "it was struck"


@pytest.mark.parametrize("at", [2, 3, 5, 7, 9, 10, 12, 15])
def test_a_stop_anywhere_changes_nothing(
    config: Config, undisturbed: RunDirectory, strikes: list[int], tmp_path: Path, at: int
):
    strikes[0] = at
    run = RunDirectory.create(tmp_path / "run", config, command="distill", force=False)
    with pytest.raises(KeyboardInterrupt):
        go_on(run, config)
    again = go_on(RunDirectory.open(run.path), config)
    assert hashes(again) == hashes(undisturbed)
    for name in ("rounds", "teacher_passes", "student_passes", "training_passes", "synthetic_fidelity"):
        assert again.record[name] == undisturbed.record[name], name


@pytest.mark.parametrize("step", ["_note_made", "_expect"])
def test_a_stop_before_the_last_round_is_measured_loses_nothing(
    config: Config, undisturbed: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
):
    run, work = RunDirectory.create(tmp_path / "run", config, command="distill", force=False), getattr(rounds, step)

    def struck(*given: object) -> None:
        if 3 in given:
            raise KeyboardInterrupt
        work(*given)

    monkeypatch.setattr(rounds, step, struck)
    with pytest.raises(KeyboardInterrupt):
        go_on(run, config)
    monkeypatch.setattr(rounds, step, work)
    assert SampleBank.open(run.bank_path).is_complete
    again = go_on(RunDirectory.open(run.path), config)
    assert hashes(again) == hashes(undisturbed)
    assert again.record["rounds"] == undisturbed.record["rounds"]


def test_a_student_that_was_changed_is_not_gone_on_with(config: Config, strikes: list[int], tmp_path: Path):
    strikes[0] = 7  # in the second round
    run = RunDirectory.create(tmp_path / "run", config, command="distill", force=False)
    with pytest.raises(KeyboardInterrupt):
        go_on(run, config)
    file = run.bank_path / "student-2.safetensors"
    held = file.read_bytes()
    file.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
    with pytest.raises(DataError, match="which round 2 was begun with, has been lost or changed"):
        go_on(RunDirectory.open(run.path), config)


# --- what goes wrong ----------------------------------------------------------------------------------------------


def test_a_disagreement_that_diverges_is_said_and_can_be_lowered(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    value = Disagreement.__call__
    monkeypatch.setattr(Disagreement, "__call__", lambda term, given: value(term, given) * float("inf"))
    run = RunDirectory.create(tmp_path / "run", config, command="distill", force=False)
    with pytest.raises(RunError) as caught:
        go_on(run, config)
    assert caught.value.what.startswith("round 2, against the student: the synthesis objective is not finite at step 0")
    assert "the rounds before are whole" in caught.value.what
    assert "--disagreement 1" in caught.value.fix
    before = {file.name: sha256(file) for file in run.bank_path.glob("shard-*")}
    assert sorted(before) == ["shard-00000.safetensors", "shard-00001.safetensors"]
    monkeypatch.undo()
    again = go_on(RunDirectory.open(run.path), with_synthesis(config, disagreement=1.0))
    shards = SampleBank.open(run.bank_path).manifest["shards"]
    assert [shard.get("disagreement") for shard in shards] == [None, None, *[20.0] * 4]
    assert before.items() <= hashes(again).items()


def test_degenerate_samples_of_a_later_round_are_said(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wave = Engine.wave

    def collapsed(engine: Engine, sets: range, stage: object) -> object:
        made = wave(engine, sets, stage)  # type: ignore[arg-type]
        if engine.objective.asks_student:
            made.samples.logits[:, 0] = 1e3
        return made

    monkeypatch.setattr(Engine, "wave", collapsed)
    with pytest.raises(RunError, match="round 2, against the student: the samples are degenerate"):
        run_of(config, tmp_path / "run")


def test_a_round_that_makes_the_student_worse_is_said(config: Config, undisturbed: RunDirectory):
    prepared, heard = prepare(config, student=True), Heard()
    bank = SampleBank.open(undisturbed.bank_path)
    lesson = compose(bank, [], TrainingConfig(heldout_fraction=0.5))
    assert prepared.teacher is not None

    class Contrary(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            return -prepared.teacher(rows)  # type: ignore[misc]

    rounds._tell_of_fall(prepared, lesson, bank, 3, prepared.teacher.module, Contrary(), heard)
    rounds._tell_of_fall(prepared, lesson, bank, 3, Contrary(), prepared.teacher.module, heard)
    assert len(heard.warnings) == 1, "a rise is no fault"
    assert heard.warnings[0].startswith("round 3 made the student worse: it agrees with the teacher on 100.0% fewer")


@pytest.mark.parametrize(
    ("most", "said"), [(59, "--replay 59 is less than one round, which has 60 samples"), (60, None), (179, None)]
)
def test_a_replay_below_one_round_is_refused(config: Config, most: int, said: str | None):
    capped = replace(config, training=replace(config.training, replay=most))
    if said is None:
        prepare(capped, student=True)
        return
    with pytest.raises(UsageError, match=said):
        prepare(capped, student=True)


def test_rounds_are_refused_where_no_student_is_between_them(config: Config):
    with pytest.raises(UsageError, match="rounds need a student"):
        prepare(config, student=False)
    with pytest.raises(UsageError, match="names one that is there"):
        with_synthesis(config, bank="somewhere")
    with pytest.raises(UsageError, match="--method noise draws no samples to where a student differs"):
        with_synthesis(config, method="noise")


def test_a_begun_run_keeps_its_rounds(config: Config, undisturbed: RunDirectory):
    unsaid = prepare(with_synthesis(config, rounds=None), student=True)
    assert unsaid.plan.rounds == 1, "too few sets for more, unless asked for"
    assert settle(unsaid, undisturbed.bank_path, Ranks())[0].plan.rounds == 3


@pytest.mark.parametrize(("rounds", "given", "at_once"), [(1, None, 6), (3, None, 1), (3, 2, 2)])
def test_every_process_gets_a_wave_of_a_round(
    config: Config, monkeypatch: pytest.MonkeyPatch, rounds: int, given: int | None, at_once: int
):
    for name in ("RANK", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("WORLD_SIZE", "2")
    plan = prepare(with_synthesis(config, rounds=rounds, sets_at_once=given), student=True).plan
    assert (plan.rounds, plan.at_once) == (rounds, at_once)


# --- replay -------------------------------------------------------------------------------------------------------


def test_replay_is_the_latest_round_and_an_even_choice_of_those_before(undisturbed: RunDirectory):
    bank = SampleBank.open(undisturbed.bank_path)
    whole = compose(bank, [], TrainingConfig(heldout_fraction=0.05)).learned
    lesson = compose(bank, [], TrainingConfig(heldout_fraction=0.05, replay=100))
    learned = lesson.learned
    assert len(learned) <= 100
    assert set(learned.rows.tolist()) <= set(whole.rows.tolist()), "nothing that is held out"
    latest = whole.rows[whole.rows >= 120]
    assert torch.equal(learned.rows[learned.rows >= 120], latest)
    earlier = learned.rows[learned.rows < 120]
    assert len(earlier) == (100 - len(latest)) // 3 * 3
    assert torch.equal(earlier.view(-1, 3)[:, 0] + 2, earlier.view(-1, 3)[:, 2]), "whole rows"
    assert abs(int((earlier < 60).sum()) - int((earlier >= 60).sum())) <= 3, "as many of each round"
    assert learned.paired == len(learned)
    assert len(compose(bank, [], TrainingConfig(replay=60)).learned) == 60, "three of the latest are held out"
