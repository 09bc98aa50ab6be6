"""The run directory: where everything of one `distill` or `train` lies, and what state it is in.

::

    config.toml      resolved, re-runnable      run.json     status, argv, versions, hashes, timings, passes
    bank/            manifest.json, shards      checkpoints/ what resume needs
    metrics.jsonl    one figure a line          log.txt      what the terminal said
    student.safetensors, report.html, samples.png, curves.png, confusion.png
    students/NAME/   of several students: a run directory of each, with all but the bank
"""

from __future__ import annotations

import json
import platform
import re
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from cake_cli import __version__
from cake_cli.config import Config
from cake_cli.errors import CakeError, DataError, UsageError
from cake_cli.forms import parse_json, read_json, require_form
from cake_cli.settings import build, read_file, write_toml
from cake_cli.spec import InputSpec
from cake_cli.storage import append_line, claim_output, clear_leftovers, write_fault, write_json, write_text
from cake_cli.text import as_argument, printable

SCHEMA_VERSION = 1
_LONGEST_PART = 80
"""Letters of a model's name in that of a folder: names end at 255 bytes, and one may get ``.old-1`` at its end."""
Status = Literal["running", "complete", "interrupted", "failed"]
_NAMED = {"name?": str, "sha256?": str, "architecture?": (None, str)}
_SUBJECT = {"input?": dict, "classes?": int, "class_names?": (None, [str]), "output_kind?": (None, str)}
_FORM = {
    **{"command": str, "status": str, "started?": str, "finished?": (None, str)},
    **{"error?": (None, str), "fix?": (None, str)},
    **{"seed?": int, "data_free?": bool, "device?": (None, str), "bank?": str},
    "seconds": {str: float},
    "warnings": [str],
    "teacher_passes": {"forward": int, "backward": int},
    "teacher?": (None, _NAMED | _SUBJECT),
    "student?": (None, _NAMED),
    "config?": {"student?": {"architecture?": str, "others?": [str]}},
    "students?": {str: str},
    "plan?": {"samples?": int, "noise_samples?": int, "waypoints?": int},
    "exports?": [{"format": str, "file?": str, "largest_difference": float}],
    "evaluation": (None, {"accuracy": {str: (None, float)}, "agreement": (None, float)}),
}
"""What run.json must be like, as far as more than the report depends on it; the report passes over what is odd."""


def now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def default_run_path(teacher: Path, student: str, root: Path = Path("runs")) -> Path:
    """The first free ``runs/<teacher>-to-<student>-001``."""
    stem = folder_name(f"{(teacher.stem or 'bank')[:_LONGEST_PART]}-to-{Path(student).stem[:_LONGEST_PART]}")
    number = 1
    while (path := root / f"{stem}-{number:03d}").exists():
        number += 1
    return path


def folder_name(text: str) -> str:
    """A text as the name of a folder: ``mlp:64,64`` is ``mlp-64-64``."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "unnamed"


def versions() -> dict[str, str]:
    """The versions that decide a result."""
    names = ("torch", "torchvision", "onnx", "onnx2torch", "onnxruntime", "numpy")
    return {"cake": __version__, "python": platform.python_version()} | {name: metadata.version(name) for name in names}


class RunDirectory:
    """One run on disk. Everything but the two append-only logs is written atomically.

    `record` is the content of run.json: change it through `update`.
    """

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path = path
        self.record = record
        self.was_complete = record.get("status") == "complete"

    @classmethod
    def create(cls, path: Path, config: Config, *, command: str, force: bool) -> RunDirectory:
        """Begins a run in an empty folder.

        Raises:
            UsageError: if `path` exists and is not empty, and not `force`.
        """
        claim_output(path, force=force)
        return cls.begin(path, config, command=command)

    @classmethod
    def begin(cls, path: Path, config: Config, *, command: str) -> RunDirectory:
        """Begins a run in a folder that is this process's, or again where a kill came before run.json was there."""
        path.mkdir(parents=True, exist_ok=True)
        run = cls(
            path,
            {
                "schema_version": SCHEMA_VERSION,
                "command": command,
                "status": "running",
                "started": now(),
                "finished": None,
                "argv": sys.argv[1:],
                "working_directory": str(Path.cwd()),
                "seed": config.seed,
                "versions": versions(),
                "data_free": config.training.real_data is None,
                "seconds": {},
                "teacher_passes": {"forward": 0, "backward": 0},
                "evaluation": None,
                "warnings": [],
            },
        )
        run.configure(config)
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """A run that exists.

        Raises:
            DataError: if `path` holds no run, or a damaged or newer one.
        """
        file = path / "run.json"
        if not path.exists():
            raise DataError(f"there is no folder {path}", _nearest(path))
        if not file.is_file():
            raise DataError(f"{path} is not a run directory: it has no run.json", f"cake inspect {as_argument(path)}")
        try:
            record = read_json(file)
            require_form(record, {"schema_version": int})
            schema = record["schema_version"]
            if schema == SCHEMA_VERSION:
                require_form(record, _FORM)
                _require_own(path, record.get("students", {}).values())
                if "input" in (teacher := record.get("teacher") or {}):
                    InputSpec.from_json(teacher["input"])
        except (OSError, ValueError, UsageError) as fault:
            raise DataError(f"{file} is damaged: {fault}", "start the run again in another directory") from fault
        if schema != SCHEMA_VERSION:
            raise DataError(
                f"{path} was written in version {schema} of the run format, this cake reads {SCHEMA_VERSION}",
                "use the version of cake that wrote it: see its run.json",
            )
        return cls(path, record)

    def configure(self, config: Config) -> None:
        """Writes the configuration, as config.toml and in run.json."""
        text = write_toml(config)
        write_text(self.path / "config.toml", text)
        self.update(config=tomllib.loads(text))

    def config(self) -> Config:
        """The configuration that the run was started with.

        Raises:
            UsageError: if config.toml is missing or was broken by hand.
        """
        file = self.path / "config.toml"
        return build(read_file(file), origin=str(file))

    @property
    def bank_path(self) -> Path:
        """Where the run's own bank lies."""
        return self.path / "bank"

    @property
    def student_path(self) -> Path:
        """The trained student."""
        return self.path / "student.safetensors"

    def students(self) -> dict[str, RunDirectory]:
        """The runs of the students by their names, where there are several; only those that were begun."""
        folders = {name: self.path / folder for name, folder in self.record.get("students", {}).items()}
        return {name: RunDirectory.open(folder) for name, folder in folders.items() if (folder / "run.json").is_file()}

    @property
    def baseline_path(self) -> Path:
        """The student that was trained on noise."""
        return self.path / "noise_baseline.safetensors"

    @property
    def checkpoints(self) -> Path:
        """The folder of what `resume` needs."""
        folder = self.path / "checkpoints"
        folder.mkdir(exist_ok=True)
        return folder

    def clear_leftovers(self) -> None:
        """Removes what a killed run left half written; only who holds the folder does this."""
        clear_leftovers(self.path)

    def update(self, **fields: Any) -> None:
        """Replaces fields of run.json, atomically."""
        self.record |= fields
        write_json(self.path / "run.json", self.record)

    def finish(self, status: Status, *, fault: BaseException | None = None) -> None:
        """Records how the run ended, and what to try where it failed."""
        error, fix = None, None
        if fault is not None:
            error, fix = (fault.what, fault.fix) if isinstance(fault, CakeError) else (repr(fault), None)
        self.update(status=status, finished=now(), error=error, fix=fix)

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Adds to the time a stage took, over all attempts; what a finished run does again is no part of its cost."""
        if self.was_complete:
            return
        spent = self.record["seconds"]
        self.update(seconds=spent | {stage: round(spent.get(stage, 0.0) + seconds, 3)})

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the time that the body takes to that of a stage, also where it fails."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add_seconds(stage, time.perf_counter() - started)

    def append_metrics(self, stage: str, **figures: float) -> None:
        """Adds a line to metrics.jsonl."""
        append_line(self.path / "metrics.jsonl", _metric(stage, figures))

    def metrics(self, stage: str) -> list[Mapping[str, Any]]:
        """The lines of one stage; a line that a kill cut short is passed over."""
        file = self.path / "metrics.jsonl"
        return [line for line in _json_lines(file) if line.get("stage") == stage] if file.exists() else []

    def keep_metrics(
        self, stage: str, *, key: str, below: int, then: Iterable[Mapping[str, float]] | None = None
    ) -> None:
        """Drops the lines of a stage that a resumed run will write again, those with ``key >= below``.

        Args:
            stage: whose lines.
            key: of the figure that counts them.
            below: the first that is dropped.
            then: lines of the stage to add in the same moment.
        """
        file = self.path / "metrics.jsonl"
        added = [_metric(stage, figures) for figures in then or ()]
        if file.exists() or added:
            lines = _json_lines(file) if file.exists() else []
            kept = [line for line in lines if line.get("stage") != stage or _is_below(line.get(key), below)]
            write_text(file, "".join(f"{line}\n" for line in [*map(json.dumps, kept), *added]))

    def log(self, lines: Iterable[str]) -> None:
        """Adds lines to log.txt, each with the time."""
        _append(self.path / "log.txt", [f"{now()} {printable(line)}" for line in lines])

    def warn(self, text: str) -> None:
        """Keeps a warning for the report."""
        if text not in self.record["warnings"]:
            self.update(warnings=[*self.record["warnings"], text])


class OtherRanksRun(RunDirectory):
    """A run as the ranks after the first see it: they read its files, and what they would write the first writes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, {})

    @property
    def checkpoints(self) -> Path:
        """The folder of what `resume` needs; the first rank makes it."""
        return self.path / "checkpoints"

    def update(self, **fields: Any) -> None:
        """Is left to the first rank."""

    def append_metrics(self, stage: str, **figures: float) -> None:
        """Is left to the first rank."""

    def keep_metrics(
        self, stage: str, *, key: str, below: int, then: Iterable[Mapping[str, float]] | None = None
    ) -> None:
        """Is left to the first rank."""

    def log(self, lines: Iterable[str]) -> None:
        """Is left to the first rank."""


def _nearest(path: Path) -> str:
    """What to type in place of a folder that is not there."""
    folder = path.parent if path.parent.is_dir() else Path()
    close = get_close_matches(path.name, (entry.name for entry in folder.iterdir() if entry.is_dir()), n=1, cutoff=0.5)
    return f"did you mean {folder / close[0]}?" if close else f"check the path; {folder.resolve()} holds no such folder"


def _metric(stage: str, figures: Mapping[str, float]) -> str:
    return json.dumps({"stage": stage} | dict(figures), allow_nan=False)


def _append(file: Path, lines: Iterable[str]) -> None:
    try:
        with file.open("a", encoding="utf-8") as stream:
            stream.writelines(f"{line}\n" for line in lines)
    except OSError as fault:
        raise write_fault(file, fault) from fault


def _is_below(value: Any, bound: int) -> bool:
    return isinstance(value, (int, float)) and value < bound


def _json_lines(file: Path) -> Iterable[Mapping[str, Any]]:
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = parse_json(text)
        except ValueError:
            continue
        if isinstance(line, dict) and all(isinstance(value, (str, int, float)) for value in line.values()):
            yield line


def _require_own(path: Path, folders: Iterable[str]) -> None:
    """Refuses students that would lie anywhere but below the run."""
    for folder in folders:
        parts = Path(folder).parts
        if len(parts) != 2 or parts[0] != "students" or parts[1] == ".." or (path / folder).is_symlink():
            raise ValueError(f"a student in {folder!r}")
