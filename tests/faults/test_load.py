"""A small sample of `tests.faults.load`: what the long form measures at a million samples."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cake_cli.cli.app import run
from tests.cli.conftest import SYNTHESIS
from tests.conftest import ROOT, save_mlp
from tests.faults import load
from tests.faults.load import Measured


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_memory_does_not_grow_with_the_bank(tmp_path: Path):
    found: list[Measured] = []
    for samples in (2_000, 40_000):
        folder = tmp_path / str(samples)
        folder.mkdir()
        found += load.at(folder, samples)
    for command in dict.fromkeys(one.command for one in found):
        assert load.spread([one for one in found if one.command == command]) <= load.GOAL, load.table(found)


def test_growth_is_told():
    small, large = (Measured(1000 * 10**power, "train", 1.0, 10**power * 2**20, 0) for power in (1, 2))
    assert load.spread([small, large]) == 10
    assert "largest rest over smallest: 10.000" in load.table([small, large])


def test_a_bank_is_inspected_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert run(["synthesize", str(save_mlp(tmp_path / "teacher.onnx")), *SYNTHESIS, "-o", "bank", "-q"]) == 0
    program = (
        "import sys; from cake_cli.cli.app import run; assert run(['inspect', 'bank']) == 0;"
        "print(sorted({'torch', 'onnx', 'numpy'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, check=False)
    assert done.stdout.splitlines()[0] == "bank: a bank"
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
