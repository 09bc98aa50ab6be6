from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cake_cli.benchmark import matrix_rate
from cake_cli.hardware import Hardware
from tests.cli.conftest import refusal
from tests.conftest import Outcome

SMALL = ("--seconds", "1", "--set", "synthesis.sets_at_once=1")


def test_the_figures_that_are_promised(cake: Callable[..., Outcome], mlp_file: Path) -> None:
    outcome = cake("bench", mlp_file, *SMALL, "--student", "mlp:8", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert {"engine", "bare", "engine_over_bare", "device", "plan"} <= set(found)
    assert {"training", "training_bare", "training_over_bare"} <= set(found)
    assert found["engine_over_bare"] == pytest.approx(found["engine"] / found["bare"], rel=0.5)
    assert found["plan"]["sets_at_once"] == 1
    low, high = found["engine_quartiles"]["engine_over_bare"]
    assert low <= found["engine_over_bare"] <= high
    assert found["trials"][0]["verdict"] == "plain"
    assert "matrix_share" not in found, "only on CUDA"


def test_what_a_person_reads(cake: Callable[..., Outcome], mlp_file: Path) -> None:
    outcome = cake("bench", mlp_file, *SMALL, "--plan", "plain")
    assert outcome.code == 0, outcome.err
    names = [line.split("  ")[0].strip() for line in outcome.out.splitlines()]
    assert names == ["device", "teacher", "plan", "engine", "bare", "engine/bare"]
    assert "goal 0.952" in outcome.out


def test_an_unknown_student_is_refused_before_anything_is_measured(
    cake: Callable[..., Outcome], mlp_file: Path
) -> None:
    assert "rsnet18" in refusal(cake("bench", mlp_file, "--student", "rsnet18"), 2)


def test_the_rate_of_matrix_products(cpu: Hardware) -> None:
    assert matrix_rate(cpu, size=64) > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_the_share_of_the_matrix_rate_is_told(cake: Callable[..., Outcome], mlp_file: Path) -> None:
    found = json.loads(cake("bench", mlp_file, *SMALL, "--device", "cuda", "--json").out)
    assert 0 < found["matrix_share"] < 1
