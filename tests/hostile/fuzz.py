"""The fuzzer: damaged files of every kind, each met by a command in a bounded child, and how that ended.

``python -m tests.hostile.fuzz --inputs 5000 --seed 0 --out FILE.jsonl`` is the long form; input number I of a seed is
always the same, so ``--first I --inputs 1 --keep DIR`` brings one back. What is a fault `judge` says.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from tests.hostile.forking import Bounds, Ended, fork, run_cake, warm_up
from tests.hostile.kinds import KINDS, Kind

ALLOWED = {0, 2, 3, 4, 5, 6, 7}
"""Exit codes of the list in the README; 1 is a bug, and nobody pressed Ctrl-C."""
RAW = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xaa-\xae]|\xe2\x81[\xa6-\xa9]")
"""Control characters and what turns the direction of text, in UTF-8."""
SECRET = "canary-5c1f"
"""What stands in a file outside of everything that a command was given."""
BOUNDS = Bounds()


@dataclass(frozen=True)
class Verdict:
    """One input, and how it ended."""

    number: int
    kind: str
    file: str
    """Which file was damaged."""
    command: str
    code: int | None
    seconds: float
    peak: int
    fault: str | None
    """What must not be; None where all is well."""
    said: str


def judge(ended: Ended, changed: str | None, traceback: str) -> str | None:
    """What is wrong with an end, if anything."""
    said = ended.out + ended.err
    if ended.hung:
        return f"hangs: killed after {BOUNDS.seconds:.0f} s"
    if ended.signal is not None:
        return f"crash: signal {ended.signal}"
    if ended.code not in ALLOWED:
        return f"exit code {ended.code}: {traceback or ended.err[-300:].decode(errors='replace')}"
    if ended.network:
        return f"reached for the network: {ended.network}"
    if b"Traceback" in said:
        return "traceback on the terminal"
    if b"memory ran out" in said or b"can't allocate" in said or b"bad_alloc" in said:
        return f"wants more memory than {BOUNDS.memory >> 20} MiB"
    if raw := RAW.search(said):
        return f"raw control characters: {said[max(0, raw.start() - 30) : raw.end() + 10]!r}"
    if SECRET.encode() in said:
        return "read a file that nobody named"
    if ended.code and not re.search(rb"^error: ", ended.err, re.MULTILINE):
        return "a failure without a sentence"
    return changed


def one(number: int, seed: int, names: list[str], seeds: Path, home: Path) -> Verdict:
    """Makes input `number` of a seed, runs its command, and judges."""
    source = Random(f"{seed}-{number}")
    name = names[number % len(names)]
    kind = KINDS[name]
    case = home / f"case-{number:06d}"
    shutil.rmtree(case, ignore_errors=True)
    case.mkdir(parents=True)
    it = case / "in" / (kind.seed or "maps")
    damaged = _damage(kind, seeds, it, source)
    command = source.choice(kind.commands)
    words = {"{it}": it, "{seeds}": seeds, "{out}": case / "out", "{damaged}": damaged}
    arguments = [_filled(word, words) for word in command]
    before = _state(case / "in")
    ended = run_cake(arguments, case, BOUNDS)
    after = _state(case / "in")
    changed = "the input was changed" if before != after and not kind.written else _strays(case, home)
    logs = sorted((case / "tmp").glob("cake-*.log"))
    traceback = "".join(log.read_text(errors="replace")[-1500:] for log in logs)
    return Verdict(
        number=number,
        kind=name,
        file=str(damaged.relative_to(case)),
        command=" ".join(command),
        code=ended.code,
        seconds=round(ended.seconds, 3),
        peak=ended.peak,
        fault=judge(ended, changed, traceback),
        said=ended.err[-400:].decode(errors="backslashreplace"),
    )


def _damage(kind: Kind, seeds: Path, it: Path, source: Random) -> Path:
    """Copies a seed and damages one file of it; returns which."""
    it.parent.mkdir()
    origin = seeds / kind.seed
    if origin.is_dir() and kind.seed:
        shutil.copytree(origin, it)
    elif kind.seed:
        shutil.copy(origin, it)
    pattern, mutator = source.choice(kind.damaged)
    if not kind.seed:
        it.mkdir()
        shutil.copy(seeds / pattern, it / pattern)
    found = sorted(it.glob(pattern)) if pattern else [it]
    if not found:  # this seed has no such file
        pattern, mutator = kind.damaged[0]
        found = sorted(it.glob(pattern))
    file = source.choice(found)
    content = file.read_bytes()
    file.write_bytes(mutator(content, source))
    return file


def _filled(word: str, words: dict[str, Path]) -> str:
    for name, path in words.items():
        word = word.replace(name, str(path))
    return word


def _state(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()}  # fmt: skip


def _strays(case: Path, home: Path) -> str | None:
    """What lies where nothing was to be written."""
    allowed = {"in", "out", "out.onnx", "tmp", "cwd", "stdout", "stderr", "network"}
    strays = [path.name for path in case.iterdir() if path.name not in allowed and not path.name.startswith("out.old")]
    strays += [str(path.relative_to(case)) for path in (case / "cwd").iterdir()]
    if (home / "outside" / "secret.txt").read_text() != SECRET or len(list((home / "outside").iterdir())) != 1:
        strays.append("outside")
    return f"wrote outside of what was named: {', '.join(strays)}" if strays else None


def prepare(home: Path) -> Path:
    """A folder of whole files, and one that no command has any business with; the child that makes them computes."""
    (home / "outside").mkdir(parents=True, exist_ok=True)
    (home / "outside" / "secret.txt").write_text(SECRET)
    seeds = home / "seeds"
    if not (seeds / "map.json").is_file():
        from tests.hostile.seeds import make

        making = home / "making"
        making.mkdir(exist_ok=True)
        ended = fork(lambda: make(seeds), making, Bounds(memory=8 * 2**30, seconds=120))
        if ended.code != 0:
            raise RuntimeError(f"the seeds could not be made: {ended.err.decode(errors='replace')}")
    return seeds


def main() -> int:
    """The command line; the exit code is 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--kind", action="append", choices=sorted(KINDS), help="only these kinds")
    parser.add_argument("--out", type=Path, help="a line of JSON for every input")
    parser.add_argument("--keep", type=Path, help="work here and keep every input; else only what is at fault is kept")
    given = parser.parse_args()
    home = (given.keep or Path(tempfile.mkdtemp(prefix="cake-fuzz-"))).absolute()
    os.nice(5)
    warm_up()
    seeds = prepare(home)
    names = [name for name in given.kind or KINDS if not KINDS[name].seed or (seeds / KINDS[name].seed).exists()]
    verdicts = []
    for number in range(given.first, given.first + given.inputs):
        verdict = one(number, given.seed, names, seeds, home)
        verdicts.append(verdict)
        if given.out is not None:
            with given.out.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(verdict)) + "\n")
        if verdict.fault is not None:
            print(f"{number} {verdict.kind} {verdict.file}\n  cake {verdict.command}\n  {verdict.fault}", flush=True)
        elif given.keep is None:
            shutil.rmtree(home / f"case-{number:06d}")
    print(summary(verdicts))
    faults = any(verdict.fault for verdict in verdicts)
    if given.keep is None and not faults:
        shutil.rmtree(home)
    elif faults:
        print(f"the inputs at fault lie in {home}")
    return int(faults)


def summary(verdicts: list[Verdict]) -> str:
    """A line for each kind: inputs, how many were opened, refused and at fault, the longest, the largest."""
    lines = [f"{'kind':20}{'inputs':>8}{'opened':>8}{'refused':>9}{'faults':>8}{'longest':>10}{'largest':>10}"]
    for name, count in sorted(Counter(verdict.kind for verdict in verdicts).items()):
        own = [verdict for verdict in verdicts if verdict.kind == name]
        opened = sum(verdict.code == 0 for verdict in own)
        faults = sum(verdict.fault is not None for verdict in own)
        longest, largest = max(verdict.seconds for verdict in own), max(verdict.peak for verdict in own) >> 20
        lines.append(
            f"{name:20}{count:8}{opened:8}{count - opened - faults:9}{faults:8}{longest:8.1f} s{largest:6} MiB"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
