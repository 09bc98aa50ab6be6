"""`--optimizer`: the run says which it was, and goes on with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cake_cli.runs import RunDirectory
from tests.cli.conftest import TRAINING, record
from tests.conftest import Outcome

Cake = Callable[..., Outcome]


@pytest.mark.parametrize("chosen", ["sgd", "adamw"])
def test_the_run_says_which_and_goes_on_with_it(cake: Cake, bank: Path, monkeypatch: pytest.MonkeyPatch, chosen: str):
    append = RunDirectory.append_metrics

    def struck(run: RunDirectory, name: str, **figures: float) -> None:
        append(run, name, **figures)
        if run.path.name == "broken" and figures.get("epoch") == 2:
            raise KeyboardInterrupt

    command = ["train", bank, *TRAINING, "--no-report", "--student", "mlp:8", "--optimizer", chosen, "-q"]
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "append_metrics", struck)
        assert cake(*command, "-o", "broken").code == 130
    assert cake("resume", "broken").code == 0
    assert cake(*command, "-o", "whole").code == 0
    students = [Path(run, "student.safetensors").read_bytes() for run in ("broken", "whole")]
    assert students[0] == students[1]
    assert record(Path("whole"))["optimizer"]["name"] == chosen
