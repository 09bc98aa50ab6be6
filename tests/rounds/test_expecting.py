"""What is expected of a student without real data, and when rounds stop for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cake_cli import pipeline, rounds
from cake_cli.config import Config
from cake_cli.distillation.fidelity import Agreement
from cake_cli.distillation.pool import Part
from cake_cli.events import Reporter
from cake_cli.models.classifier import Classifier
from cake_cli.models.students import load_student
from cake_cli.planning import Prepared
from cake_cli.ranks import Ranks
from cake_cli.rounds import still_rises
from cake_cli.runs import RunDirectory
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.course import Course
from cake_cli.synthesis.engine import Engine, Passes
from cake_cli.synthesis.samples import Samples
from tests.rounds.conftest import go_on, run_of, with_synthesis
from tests.synthesizing.conftest import Heard


def agreed(student: Classifier, parts: Iterable[Part | Samples]) -> float:
    right = [student(one.inputs).argmax(1) == one.logits.argmax(1) for one in parts]
    return float(torch.cat(right).float().mean())


def test_the_expected_agreement_is_that_on_starting_points_not_learned_yet(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    starts: dict[int, list[Part]] = {}
    asked = rounds.starts_of_round

    def kept(
        prepared: Prepared,
        run: RunDirectory,
        bank: SampleBank,
        number: int,
        reporter: Reporter,
        ranks: Ranks,
        *,
        chosen: bool = False,
    ) -> list[Part]:
        parts = asked(prepared, run, bank, number, reporter, ranks, chosen=chosen)
        if not chosen:
            starts[number] = parts
        return parts

    monkeypatch.setattr(rounds, "starts_of_round", kept)
    run = run_of(config, tmp_path / "run")
    bank, record = SampleBank.open(run.bank_path), pipeline.result(run)
    for entry in record["rounds"][1:]:
        student = load_student(bank.student_path(entry["round"]))
        found, moved = entry["expected_agreement"], entry["agreement_on_samples"]
        assert sum(len(part.inputs) for part in starts[entry["round"]]) == found["samples"] == 30
        inputs = torch.cat([part.inputs for part in starts[entry["round"]]])
        classes = torch.cat([part.logits.argmax(1) for part in starts[entry["round"]]])
        chosen = student(inputs).argmax(1)
        each = [float((chosen == index)[classes == index].float().mean()) for index in classes.unique()]
        assert found["value"] == pytest.approx(sum(each) / len(each))
        assert found["low"] <= found["value"] <= found["high"]
        assert moved["value"] == pytest.approx(agreed(student, bank.shards(number=entry["round"])))
        assert moved["samples"] == 60
    latest = record["rounds"][2]["expected_agreement"]
    assert record["expected_agreement"] == {"round": 3, "on": "starting points", "starts": "scenes", **latest}
    assert "expected_agreement" not in record["rounds"][0]


@pytest.mark.parametrize("noise", [0, 30])
def test_without_starting_points_in_each_round_it_is_that_on_samples(config: Config, tmp_path: Path, noise: int):
    training = replace(config.training, noise_samples=noise)
    run = run_of(replace(config, training=training), tmp_path / "run")
    for entry in run.record["rounds"][1:]:
        assert entry["expected_agreement"] == entry["agreement_on_samples"]
        assert entry["expected_agreement"]["samples"] == 60
    assert pipeline.result(run)["expected_agreement"]["on"] == "samples"


def test_its_time_is_of_the_training(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Starting points that are labelled for it are learned afterwards: their time must not be lost."""
    timed: list[str] = []
    whole = RunDirectory.add_seconds

    def told(run: RunDirectory, stage: str, seconds: float) -> None:
        timed.append(stage)
        whole(run, stage, seconds)

    monkeypatch.setattr(RunDirectory, "add_seconds", told)
    run_of(config, tmp_path / "run")
    stages = [stage for stage in timed if stage in ("synthesis", "training")]
    first, later = ["synthesis", "training"], ["synthesis", "training", "training"]  # what is expected, and learning
    assert stages[:8] == [*first, *later, *later]


def agreements(*values: float) -> list[Agreement]:
    return [Agreement(value, value - 0.01, value + 0.01, 100) for value in values]


def test_rounds_go_on_while_the_expected_agreement_rises():
    assert still_rises([])
    assert still_rises(agreements(0.5, 0.4)), "of two nothing can be said"
    assert still_rises(agreements(0.5, 0.4, 0.6))
    assert still_rises(agreements(0.5, 0.6, 0.55)), "one that is lower is no end"
    assert not still_rises(agreements(0.5, 0.6, 0.55, 0.58))
    assert not still_rises(agreements(0.6, 0.6, 0.6))


def test_a_time_budget_makes_no_further_round_when_it_rises_no_more(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rounds, "still_rises", lambda found: len(found) < 1)
    heard = Heard()
    run = run_of(with_synthesis(config, time_budget="1h"), tmp_path / "run", heard)
    bank = SampleBank.open(run.bank_path)
    assert bank.is_complete
    assert (len(bank), bank.manifest["ended"]) == (120, "the expected agreement rose no more")
    assert not bank.manifest["time_budget"]["reached"]
    assert "no further round: the expected agreement rose no more" in heard.notes
    assert run.record["status"] == "complete"


def test_without_a_budget_all_rounds_are_made(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rounds, "still_rises", lambda found: False)
    assert len(SampleBank.open(run_of(config, tmp_path / "run").bank_path)) == 180


def test_time_that_is_up_ends_the_rounds(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wave = Engine.wave
    made: list[int] = []

    def slow(engine: Engine, sets: range, stage: object) -> object:
        made.append(sets.start)
        if len(made) == 5:
            monkeypatch.setattr("cake_cli.synthesis.course.time.monotonic", lambda: 1e9)
        return wave(engine, sets, stage)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "wave", slow)
    run = run_of(with_synthesis(config, time_budget="1h"), tmp_path / "run")
    bank = SampleBank.open(run.bank_path)
    assert bank.manifest["time_budget"]["reached"]
    assert [shard["round"] for shard in bank.manifest["shards"]] == [1, 1, 2]
    assert run.record["rounds"][1]["agreement_on_samples"]["samples"] == 30
    assert bank.passes == Passes(90 * 5, 90 * 4)


def test_time_that_is_up_before_a_round_begins_leaves_those_before_it(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    learn, teach = rounds._learn, pipeline.train_student
    learned: list[int] = []
    begun_from: list[str | None] = []

    def learned_late(*given: Any) -> None:
        learn(*given)
        learned.append(given[3])

    def taught(*given: Any) -> None:
        begun_from.append(given[-1].start)
        teach(*given)

    monkeypatch.setattr(rounds, "_learn", learned_late)
    monkeypatch.setattr(pipeline, "train_student", taught)
    monkeypatch.setattr(Course, "is_over_time", property(lambda _: learned == [1, 2]))
    run = run_of(with_synthesis(config, time_budget="1h"), tmp_path / "run")
    bank = SampleBank.open(run.bank_path)
    assert bank.is_complete
    assert (len(bank), bank.latest_round, bank.manifest["time_budget"]["reached"]) == (120, 2, True)
    assert [entry["round"] for entry in run.record["rounds"]] == [1, 2]
    assert begun_from == ["round-2"], "what was learned between rounds is not lost"
    assert run.record["status"] == "complete"


def test_what_is_told_after_the_last_training_is_told_when_that_was_disturbed(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    looked: list[int] = []

    def look(*_: object) -> None:
        looked.append(len(looked))
        if len(looked) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "look_back", look)
    with pytest.raises(KeyboardInterrupt):
        run_of(config, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    assert run.student_path.exists()
    go_on(run, config)
    assert looked == [0, 1]


def test_a_round_has_its_line_of_figures_once_whenever_it_is_disturbed(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Struck when the line of round 2 is about to be written, by whichever way."""
    struck: list[str] = []

    def about_to(write: Callable[..., None]) -> Callable[..., None]:
        def written(run: RunDirectory, stage: str, **figures: Any) -> None:
            if stage == "rounds" and not struck:
                struck.append(stage)
                raise KeyboardInterrupt
            write(run, stage, **figures)

        return written

    for name in ("append_metrics", "keep_metrics"):
        monkeypatch.setattr(RunDirectory, name, about_to(getattr(RunDirectory, name)))
    with pytest.raises(KeyboardInterrupt):
        run_of(config, tmp_path / "run")
    run = go_on(RunDirectory.open(tmp_path / "run"), config)
    assert [line["round"] for line in run.metrics("rounds")] == [2, 3]
