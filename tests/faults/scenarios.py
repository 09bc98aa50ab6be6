"""What is killed: command lines on a tiny teacher, and what each leaves when nobody disturbs it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cli.conftest import save_heldout
from tests.conftest import save_mlp

SYNTHESIS = ["--samples", "90", "--steps", "2", "--set", "set_size=30", "--set", "sets_at_once=1"]
"""Three shards of thirty samples."""
TRAINING = ["--epochs", "2", "--set", "training.batch_size=16"]
LEFT_BEHIND = (".partial-", ".lock", "journal-")
"""How files begin that must be gone after success."""
VARIES = {"started", "finished", "seconds", "argv", "working_directory"}
"""What run.json says of the time and the command line, not of the result."""
DRAWN = {"log.txt", "report.html"}
"""Files that state times."""

Words = list[object]


@dataclass(frozen=True)
class Scenario:
    """A command, in a folder that holds ``teacher.onnx`` and ``heldout.npz``.

    Attributes:
        name: of it, in the results.
        words: its command line; what it writes is called ``out``.
        before: command lines that are run undisturbed first.
        resumes: whether `cake resume` goes on with it; else the same command again.
        struck_before: it was killed once already, and it is `cake resume` that is struck.
    """

    name: str
    words: Words
    before: tuple[Words, ...] = ()
    resumes: bool = True
    struck_before: bool = False


FILES = {"TEACHER": "teacher.onnx", "HELDOUT": "heldout.npz", "BANK": "bank"}
"""What stands for a file in a command line; it is given in full."""
SYNTHESIZE: Words = ["synthesize", "TEACHER", *SYNTHESIS, "--format", "npz", "--format", "png", "-o", "out"]
GENERATIVE: Words = ["synthesize", "TEACHER", *SYNTHESIS, "--method", "generative", "-o", "out"]
DISTILL: Words = [
    "distill", "TEACHER", *SYNTHESIS, *TRAINING, "--student", "mlp:8", "--data", "HELDOUT",
    "--export", "torchscript", "-o", "out",
]  # fmt: skip
TRAIN: Words = ["train", "BANK", *TRAINING, "--student", "linear", "--student", "mlp:8", "--no-report", "-o", "out"]
WITHOUT_PICTURES: Words = [*DISTILL, "--no-report"]
QUICK: Words = ["distill", "TEACHER", *SYNTHESIS, *TRAINING, "--student", "mlp:8", "--no-report"]
EXPORTS = ("torchscript", "onnx", "pt2", "safetensors")

SCENARIOS = [
    Scenario("synthesize", SYNTHESIZE),
    Scenario("synthesize --method generative", GENERATIVE),
    Scenario("distill", DISTILL),
    Scenario("distill --force", [*QUICK, "-o", "out", "--force"], before=([*QUICK, "--seed", "1", "-o", "out"],)),
    Scenario("train", TRAIN, before=([*SYNTHESIZE[:-1], "bank"],)),
    Scenario("resume of a run", WITHOUT_PICTURES, struck_before=True),
    Scenario("resume of a bank", SYNTHESIZE, struck_before=True),
    *(
        Scenario(
            f"export --to {format}",
            ["export", "out", "--to", format, *(["-o", "copy.safetensors"] if format == "safetensors" else [])],
            before=([*QUICK, "-o", "out"],),
            resumes=False,
        )
        for format in EXPORTS
    ),
]


def prepare(folder: Path) -> None:
    """Makes the files that commands read."""
    folder.mkdir(parents=True)
    save_mlp(folder / "teacher.onnx")
    save_heldout(folder / "heldout.npz")


def copied(source: Path, target: Path) -> Path:
    """A fresh copy of a folder, in the place of what was there."""
    shutil.rmtree(target, ignore_errors=True)
    return shutil.copytree(source, target)


def result(folder: Path) -> dict[str, Any]:
    """All that commands have left in a folder, without what states a time: by file, what it holds."""
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if not file.is_file():
            continue
        if file.name in DRAWN:
            found[name] = "there"
        elif file.name == "run.json":
            found[name] = {key: value for key, value in json.loads(file.read_text()).items() if key not in VARIES}
        elif file.name == "metrics.jsonl":
            found[name] = sorted(file.read_text().splitlines())
        else:
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Where two results differ: files that are missing, too many, or not the same."""
    told = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    told += [f"{name} is left over" for name in sorted(found.keys() - wanted.keys())]
    for name in sorted(found.keys() & wanted.keys()):
        if found[name] == wanted[name]:
            continue
        keys = ""
        if isinstance(wanted[name], dict):
            every = found[name].keys() | wanted[name].keys()
            keys = f" in {', '.join(sorted(key for key in every if found[name].get(key) != wanted[name].get(key)))}"
        told.append(f"{name} differs{keys}")
    return told


def left_behind(folder: Path) -> list[str]:
    """Temporary files, locks and journals that are still there."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.name.startswith(LEFT_BEHIND))


def last_error(said: str) -> str:
    """The last ``error:`` of a text."""
    errors: list[str] = re.findall(r"^error: .*$", said, flags=re.MULTILINE)
    return errors[-1] if errors else said.strip().rpartition("\n")[2][-200:]
