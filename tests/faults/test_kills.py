"""A sample of the kills of `tests.faults.kills`; the long form is ``python -m tests.faults.kills --kills 200``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.kills import Harness, Kill, drawn
from tests.faults.scenarios import SCENARIOS, Scenario

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc"),
    pytest.mark.filterwarnings("ignore:resource_tracker"),
]
SAMPLE = ("synthesize", "synthesize --method generative", "distill --force", "export --to torchscript")


def named(*names: str) -> list[Scenario]:
    """Scenarios by name."""
    return [scenario for scenario in SCENARIOS if scenario.name in names]


def lost(kills: list[Kill]) -> list[Kill]:
    """Those that did not survive."""
    return [kill for kill in kills if kill.outcome != "survived"]


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return Harness(tmp_path_factory.mktemp("kills"))


def test_twenty_kills_lose_nothing(harness: Harness):
    kills = list(drawn(harness, 20, named(*SAMPLE)))
    assert lost(kills) == []
    assert {kill.signal for kill in kills} == {"SIGKILL", "SIGTERM", "SIGINT"}
    assert sum(kill.process != "fork" for kill in kills) == 1
    assert sum(kill.code != 0 for kill in kills) >= 15, "most were struck before their end"


@pytest.mark.parametrize("moment", ["half of training.pt", "whole, not renamed run.json", "appended to metrics.jsonl"])
def test_chosen_moments_of_a_run(harness: Harness, moment: str):
    run = named("distill --force")[0]
    number = harness.target(run).moments.index(moment) + 1
    assert lost([harness.strike(run, "SIGKILL", number)]) == []


def test_a_kill_that_is_not_survived_is_told(harness: Harness):
    bank = named("synthesize")[0]
    target = harness.target(bank)
    target.wanted["out/shard-00001.safetensors"] = "another hash"
    try:
        kill = harness.strike(bank, "SIGKILL", 5)
    finally:
        harness.forget(bank)
    assert kill.outcome == "out/shard-00001.safetensors differs"


def test_an_interrupt_in_code_of_a_string_ends_with_130(tmp_path: Path) -> None:
    """The interpreter remembers such an interrupt even where it was caught: its own exit would be SIGINT's."""
    code = (
        "import os, signal\n"
        "import cake_cli.cli.app as app\n"
        "from cake_cli.__main__ import main\n"
        "def run(arguments):\n"
        "    print('said')\n"
        "    exec('os.kill(os.getpid(), signal.SIGTERM); [None for _ in range(1000)]', {'os': os, 'signal': signal})\n"
        "app.run = run\n"
        "main()\n"
    )
    (tmp_path / "struck.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "struck"]  # with -m alone
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (ended.returncode, ended.stdout) == (130, "said\n"), ended.stderr
