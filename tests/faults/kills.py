"""Kills `cake` at chosen and at random moments, and looks at what is left: ``python -m tests.faults.kills``.

After each kill `cake inspect` must find a valid run or bank, `cake resume` (or the same command, where it had not
begun, or cannot be resumed) must end, all files must be those of an undisturbed run, and nothing temporary may be left.
Each line of ``--out`` is one kill.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cake_cli.cli.app import run as cake
from tests.cli.killing import FORKS
from tests.faults import children
from tests.faults.scenarios import (
    FILES,
    LEFT_BEHIND,
    SCENARIOS,
    Scenario,
    copied,
    differences,
    last_error,
    left_behind,
    prepare,
    result,
)  # fmt: skip
from tests.faults.strikes import FullDisk, Gone, Signal, Strike

SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
KILL = Signal(signal.SIGKILL)
TWICE = 0.2
"""Share of what was gone on with that is gone on with once more, when it is complete."""
PROCESS_SHARE = 20
"""One kill of so many goes to a `python -m cake_cli` that was started from nothing."""


@dataclass(frozen=True)
class Kill:
    """One kill and what came of it."""

    command: str
    signal: str
    moment: str
    process: str
    """``fork`` or ``python -m cake_cli``."""
    code: int | None
    """How the struck process ended."""
    state: str
    """What `cake inspect` found."""
    outcome: str
    """``survived``, or what was wrong."""
    seconds: float


@dataclass(frozen=True)
class Target:
    """A scenario with what it needs and what it comes to."""

    scenario: Scenario
    begun: Path
    """Folder from which each kill starts."""
    wanted: dict[str, Any]
    """Of an undisturbed run, beside what `begun` holds."""
    moments: list[str]
    seconds: float


class Harness:
    """A folder in which things are killed.

    Args:
        folder: empty; all that is kept lies below it.
        seed: of what is drawn.
        disk: empty; where commands run, for a full disk one of its own. By default below `folder`.
    """

    def __init__(self, folder: Path, seed: int = 0, disk: Path | None = None) -> None:
        self.folder = folder
        self.place = (disk or folder) / "work"
        """The one folder in which commands run: its path is part of what they write."""
        self.draw = random.Random(seed)
        self.strikes: dict[str, Strike] = {name: Signal(number) for name, number in SIGNALS.items()}
        self.strikes |= {"folder gone": Gone(str(self.place / "out"))}
        self.strikes |= {"full disk": FullDisk(str(self.place.parent))}
        self._targets: dict[str, Target] = {}
        prepare(folder / "empty")

    def target(self, scenario: Scenario) -> Target:
        """A scenario, run once without a disturbance, and its moments counted."""
        if scenario.name not in self._targets:
            self._targets[scenario.name] = self._undisturbed(scenario)
        return self._targets[scenario.name]

    def forget(self, scenario: Scenario) -> None:
        """The scenario will be run without a disturbance once more."""
        self._targets.pop(scenario.name, None)

    def _undisturbed(self, scenario: Scenario) -> Target:
        begun = self.folder / f"begun-{len(self._targets)}"
        copied(self.folder / "empty", self.place)
        for words in scenario.before:
            self._must(self._placed(words))
        copied(self.place, begun)
        ended, moments = self._watched(self._placed(scenario.words))
        seconds = ended.seconds
        if scenario.struck_before:
            copied(begun, self.place)
            middle = len(moments) // 3
            self._watched(self._placed(scenario.words), middle)
            copied(self.place, begun)
            ended, moments = self._watched(["resume", "out"])
            seconds = ended.seconds
        if ended.code != 0:
            raise RuntimeError(f"{scenario.name} without a disturbance: {ended.said}")
        wanted = result(self.place)
        if left := left_behind(self.place):
            raise RuntimeError(f"{scenario.name} without a disturbance leaves {left}")
        return Target(scenario, begun, wanted, moments, seconds)

    def _must(self, words: Sequence[object]) -> None:
        ended = children.run(self.place, words, self.folder / "said")
        if ended.code != 0:
            raise RuntimeError(f"{words}: {ended.said}")

    def _watched(
        self, words: Sequence[object], strike_at: int = 0, strike: Strike = KILL
    ) -> tuple[children.Ended, list[str]]:
        note = self.folder / "moments"
        note.unlink(missing_ok=True)
        watched = children.Watched(str(note), strike_at, strike)
        ended = children.run(self.place, words, self.folder / "said", watched)
        return ended, note.read_text().splitlines() if note.exists() else []

    def words(self, target: Target) -> Sequence[object]:
        """What is struck."""
        return ["resume", "out"] if target.scenario.struck_before else self._placed(target.scenario.words)

    def _placed(self, words: Sequence[object]) -> list[object]:
        """Words with files as full paths, as `resume` knows them."""
        return [str(self.place / FILES[word]) if word in FILES else word for word in words]

    def strike(self, scenario: Scenario, name: str, moment: int | float, *, fork: bool = True) -> Kill:
        """Kills once.

        Args:
            scenario: what is killed.
            name: of what happens: a signal, or one of `strikes`.
            moment: which of the scenario's moments, from 1; or, as a float, seconds after the start.
            fork: or a process that starts from nothing.
        """
        began = time.monotonic()
        target = self.target(scenario)
        copied(target.begun, self.place)
        words, strike = self.words(target), self.strikes[name]
        if isinstance(moment, int):
            ended, passed = self._watched(words, moment, strike)
            told = f"{passed[moment - 1]} ({moment})" if moment <= len(passed) else "after its end"
            strike.undo()
        elif fork:
            number = SIGNALS[name]
            prepare = children.save_at_each_update
            ended = children.run(self.place, words, self.folder / "said", prepare, number=number, after=moment)
            told = f"after {moment:.3f} s"
        else:
            ended = _from_nothing(self.place, words, SIGNALS[name], moment)
            told = f"after {moment:.3f} s"
        faults, state = self._judge(target, name, ended)
        return Kill(
            scenario.name, name, told, "fork" if fork else "python -m cake_cli", ended.code, state,
            "; ".join(faults) or "survived", round(time.monotonic() - began, 2),
        )  # fmt: skip

    def _judge(self, target: Target, name: str, ended: children.Ended) -> tuple[list[str], str]:
        """What is wrong after a kill, and what state it left; goes on with it."""
        faults: list[str] = []
        if ended.code not in self.strikes[name].codes | {0}:
            faults.append(f"ended with {ended.code}: {last_error(ended.said)}")
        if "Traceback" in ended.said:
            faults.append(f"showed a traceback: {ended.said.strip().splitlines()[-1]}")
        out = self.place / "out"
        inspected = _inspected(out)
        begun = out.is_dir() and any(not path.name.startswith(LEFT_BEHIND) for path in out.iterdir())
        if inspected.code == 0:
            described = json.loads(inspected.said)
            state = described.get("status") or ("complete" if described.get("complete") else "partial")
            if "--force" in target.scenario.words and not (self.place / "out.old-1").exists():
                state = "not begun, the earlier run whole"
        elif begun:
            state = "not valid"
            faults.append(f"inspect: {last_error(inspected.said)}")
        else:
            state = "not begun"
        gone_on = target.scenario.resumes and (state == "not begun" or not state.startswith("not begun,"))
        gone_on = gone_on and (inspected.code == 0 or begun)
        again = ["resume", "out"] if gone_on else self._placed(target.scenario.words)
        if not target.scenario.resumes and self._is_there(target):
            again = ["inspect", "out"]
        twice = again[0] == "resume" and self.draw.random() < TWICE
        for words in (again, again) if twice else (again,):
            finished = children.run(self.place, words, self.folder / "said")
            if finished.code != 0:
                faults.append(f"{words[0]} ended with {finished.code}: {last_error(finished.said)}")
                return faults, state
        found = result(self.place)
        faults += differences(found, target.wanted)
        faults += [f"{left} is left over" for left in left_behind(self.place) if f"{left} is left over" not in faults]
        return faults, state

    def _is_there(self, target: Target) -> bool:
        """Whether the file of an export is in place."""
        return not (target.wanted.keys() - result(self.place).keys())


def _inspected(path: Path) -> children.Ended:
    """``cake inspect PATH --json`` in this process: it only reads."""
    began, said = time.monotonic(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = cake(["inspect", str(path), "--json"])
    return children.Ended(code, said.getvalue(), time.monotonic() - began)


def _from_nothing(folder: Path, words: Sequence[object], number: int, after: float) -> children.Ended:
    """The same for a process of ``python -m cake_cli``."""
    root = Path(__file__).resolve().parent.parent.parent
    process = subprocess.Popen(
        [sys.executable, "-m", "cake_cli", *map(str, words)],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    began = time.monotonic()
    try:
        said, _ = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        said, _ = process.communicate(timeout=children.LONGEST)
    return children.Ended(process.returncode, said, time.monotonic() - began)


def drawn(
    harness: Harness, count: int, scenarios: Sequence[Scenario], names: Sequence[str] = tuple(SIGNALS)
) -> Iterator[Kill]:
    """Kills in turn: scenarios one after the other, two thirds at chosen moments, one third at random times.

    What is no signal happens at chosen moments only.
    """
    spread: dict[str, list[int]] = {}
    slow: dict[str, float] = {}
    for index in range(count):
        scenario = scenarios[index % len(scenarios)]
        target = harness.target(scenario)
        turn = index // len(scenarios)
        name = names[(scenarios.index(scenario) + turn) % len(names)]
        if name in SIGNALS and index % PROCESS_SHARE == PROCESS_SHARE - 1:
            if scenario.name not in slow:
                copied(target.begun, harness.place)
                slow[scenario.name] = _from_nothing(harness.place, harness.words(target), 0, children.LONGEST).seconds
            yield harness.strike(scenario, name, harness.draw.uniform(0, slow[scenario.name]), fork=False)
        elif name in SIGNALS and turn % 3 == 2:
            yield harness.strike(scenario, name, harness.draw.uniform(0, 1.05 * target.seconds))
        else:
            left = spread.setdefault(scenario.name, [])
            if not left:
                left += _of_each_kind(target.moments, harness.draw)
            yield harness.strike(scenario, name, left.pop())


def _of_each_kind(moments: Sequence[str], draw: random.Random) -> list[int]:
    """One moment of each kind, in random order: a kind that is passed a hundred times is no more telling for that."""
    kinds: dict[str, list[int]] = {}
    for number, name in enumerate(moments, start=1):
        kinds.setdefault(re.sub(r"\d+", "#", name), []).append(number)
    chosen = [draw.choice(numbers) for numbers in kinds.values()]
    draw.shuffle(chosen)
    return chosen


def summary(kills: Sequence[Kill]) -> str:
    """Two tables, survived of done: by command and by moment, for each signal; and what did not survive."""
    lines = []
    for title, key in (("command", lambda kill: kill.command), ("moment", _kind)):
        lines += _table(title, kills, key)
    lines += [f"NOT SURVIVED  {json.dumps(asdict(kill))}" for kill in kills if kill.outcome != "survived"]
    lines.append(f"{sum(kill.outcome == 'survived' for kill in kills)} of {len(kills)} survived")
    return "\n".join(lines)


def _kind(kill: Kill) -> str:
    """A moment without its number; times are one kind for each way to start the process."""
    if kill.moment.startswith("after"):
        return f"at random, {kill.process}"
    return re.sub(r"-\d+(?=\.)", "-N", kill.moment.rpartition(" (")[0])


def _table(title: str, kills: Sequence[Kill], key: Callable[[Kill], str]) -> list[str]:
    names = list(dict.fromkeys(kill.signal for kill in kills))
    lines = [f"| {title} | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    for row in sorted({key(kill) for kill in kills}):
        cells = []
        for name in names:
            own = [kill for kill in kills if key(kill) == row and kill.signal == name]
            survived = sum(kill.outcome == "survived" for kill in own)
            cells.append(f"{survived}/{len(own)}" if own else "")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return [*lines, ""]


def main() -> int:
    """The long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strikes", default=",".join(SIGNALS), help="also: folder gone, full disk")
    parser.add_argument(
        "--disk",
        type=Path,
        help="where commands run; for a full disk a small one of its own, such as a tmpfs of 32 MiB",
    )
    parser.add_argument("--only", default="", help="scenarios whose name this regular expression finds")
    parser.add_argument("--out", type=Path, help="results, a line a kill; added to what is there, and counted with it")
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    began, kills = time.monotonic(), []
    scenarios = [scenario for scenario in SCENARIOS if re.search(asked.only, scenario.name)]
    with tempfile.TemporaryDirectory(prefix="cake-kills-") as folder:
        FORKS.set_forkserver_preload(["tests.faults.warmed"])
        harness = Harness(Path(folder), asked.seed, asked.disk)
        for kill in drawn(harness, asked.kills, scenarios, asked.strikes.split(",")):
            kills.append(kill)
            line = json.dumps(asdict(kill))
            print(line, file=sys.stderr, flush=True)
            if asked.out is not None:
                with asked.out.open("a", encoding="utf-8") as stream:
                    stream.write(line + "\n")
            if time.monotonic() - began > asked.seconds:
                break
    if asked.out is not None:
        kills = [Kill(**json.loads(line)) for line in asked.out.read_text(encoding="utf-8").splitlines()]
    print(summary(kills))
    return 0 if all(kill.outcome == "survived" for kill in kills) else 1


if __name__ == "__main__":
    sys.exit(main())
