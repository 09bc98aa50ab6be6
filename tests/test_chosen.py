"""Starting points that students choose: which, in which round, what they cost, and where there are none to choose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cake_cli import estimating
from cake_cli.config import Config, TrainingConfig
from cake_cli.errors import UsageError
from cake_cli.events import SILENT
from cake_cli.hardware import Hardware
from cake_cli.labelled import starts_of_round
from cake_cli.models.students import load_student
from cake_cli.planning import prepare
from cake_cli.runs import RunDirectory
from cake_cli.synthesis.bank import SampleBank
from tests.test_beside import run_of, three_rounds, with_synthesis, with_training


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return three_rounds(tmp_path_factory.mktemp("chosen"))


def test_from_the_third_round_on_a_share_is_chosen_by_the_students_so_far(config: Config, tmp_path: Path) -> None:
    """Those of which they are least of one mind; what the run is judged by beforehand is drawn blindly as ever."""
    prepared = prepare(with_training(config, noise_samples=1800, epochs=4, chosen=0.5), student=True)
    assert [tuple(map(len, prepared.sets_beside(number))) for number in (1, 2, 3)] == [(20, 0), (20, 0), (10, 10)]
    assert prepared.chosen_samples == 10 * 30
    run = run_of(prepared.config, tmp_path / "run")
    bank = SampleBank.open(run.bank_path)
    plain, chosen = (
        torch.cat([part.inputs for part in starts_of_round(prepared, run, bank, 3, SILENT, chosen=which)])
        for which in (False, True)
    )
    students = [load_student(bank.student_path(number)) for number in (2, 3)]

    def differ(rows: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            one, other = (student(rows).softmax(dim=1) for student in students)
        return (one - other).abs().sum(dim=1)

    assert len(plain) == len(chosen) == 300
    assert differ(chosen).mean() > 1.3 * differ(plain).mean()
    assert run.record["plan"]["chosen_samples"] == 300
    assert run.record["training_passes"] == {"forward": 1800, "backward": 0}, "candidates cost no label"
    blind = prepare(with_training(prepared.config, chosen=0.0), student=True)
    without = RunDirectory.create(tmp_path / "without", blind.config, command="distill", force=False)
    same = torch.cat([part.inputs for part in starts_of_round(blind, without, None, 3, SILENT)])
    assert (same[:300] == plain).all()
    assert starts_of_round(blind, without, None, 3, SILENT, chosen=True) == []


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({"rounds": 2}, {}),
        ({"rounds": 1}, {"noise_samples": 600}),
        ({}, {"noise_samples": 0}),
        ({"gradients": "estimated"}, {}),
    ],
)
def test_where_nothing_can_be_chosen_that_is_said(
    config: Config, changes: dict[str, object], given: dict[str, object]
) -> None:
    asked = with_training(with_synthesis(config, **changes), chosen=0.5, **given)
    with pytest.raises(UsageError, match=r"training\.chosen is of starting points beside the third round"):
        prepare(asked, student=True)


def test_what_is_chosen_takes_time_that_the_plan_says(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a row that is drawn, with its candidates, takes a millisecond; where none are chosen, 0."""

    def by_the_clock(draw: Callable[[int], None], few: int, many: int, hardware: Hardware) -> tuple[float, int]:
        draw(many)
        return 1e-3 * many, many

    monkeypatch.setattr(estimating, "_quick_step", by_the_clock)
    assert estimating._choice_seconds(prepare(config, student=True)) == 0
    choosing = prepare(with_training(config, noise_samples=18_000, chosen=0.5), student=True)
    assert choosing.chosen_samples == 3_000, "half of the last of three rounds"
    assert estimating._choice_seconds(choosing) == pytest.approx(3.0)


def test_nobody_chooses_all() -> None:
    with pytest.raises(UsageError, match=r"chosen lies in \[0, 1\)"):
        TrainingConfig(chosen=1.0)
