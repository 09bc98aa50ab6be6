"""The sample bank on disk: safetensors shards and a manifest. `.github/REFERENCE.md` documents the format.

::

    manifest.json              what the bank is, and a line for each shard
    shard-00000.safetensors    inputs float32 (N, *shape), logits float32 (N, K), targets int32 (N,)
    journal-00000.jsonl        only while the bank grows: the shards that the manifest does not list yet
    student-2.safetensors      of a bank of several rounds: the student that the samples of round 2 were made against

A shard holds one wave and bears its number. It is written and renamed before a journal names it, so at any
moment every shard that manifest or journal names is whole; a file that neither names is left over from a killed
run. The manifest is written at the beginning, on resume and at the end, however many shards there are.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cake_cli import __version__
from cake_cli.errors import DataError
from cake_cli.models.classifier import Classifier
from cake_cli.spec import InputSpec
from cake_cli.storage import clear_leftovers, sha256
from cake_cli.synthesis.engine import Passes, Wave
from cake_cli.synthesis.health import Health
from cake_cli.synthesis.journal import Entry, journals, write_entry
from cake_cli.synthesis.manifest import FORMAT, SCHEMA_VERSION, first_set, read_manifest, sound, write_manifest
from cake_cli.synthesis.samples import Samples
from cake_cli.synthesis.sets import SetPlan
from cake_cli.synthesis.shards import read_shard, write_shard
from cake_cli.text import whole_characters


class SampleBank:
    """A bank on disk, whole or still growing.

    Attributes:
        path: its folder.
        manifest: what manifest.json and the journals say; its ``shards`` are in order of their sets.
        spec: the input of its samples.
        classes: K.
        rank: which journal `add` writes to.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], *, rank: int = 0) -> None:
        self.path = path
        self.manifest = manifest
        self.spec = InputSpec.from_json(manifest["input"])
        self.classes = int(manifest["classes"])
        self.rank = rank

    @classmethod
    def create(
        cls,
        path: Path,
        teacher: Classifier,
        plan: SetPlan,
        *,
        seed: int,
        settings: dict[str, Any],
        about: Mapping[str, Any] | None = None,
        arithmetic: dict[str, Any] | None = None,
        budget: float | None = None,
    ) -> SampleBank:
        """Begins a bank in a folder that is empty or not there yet.

        Args:
            path: the folder.
            teacher: whose samples these are.
            plan: how its sets are cut.
            seed: of the run.
            settings: the synthesis settings, for the record and to compare on resume.
            about: more for the record, such as the weights that the settings came to.
            arithmetic: what else decides the last bits of a sample, for the record and to use again on resume.
            budget: seconds that synthesis may take, or None.

        Raises:
            EnvironmentFault: if the disk is full or refuses.
        """
        path.mkdir(parents=True, exist_ok=True)
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "cake_version": __version__,
            "status": "partial",
            "teacher": {"name": teacher.name, "sha256": teacher.sha256},
            "input": teacher.spec.to_json(),
            "classes": teacher.classes,
            "class_names": teacher.class_names,
            "seed": seed,
            "synthesis": settings,
            **(about or {}),
            "plan": asdict(plan),
            **({"rounds": []} if plan.rounds > 1 else {}),
            "arithmetic": arithmetic or {},
            "time_budget": None if budget is None else {"seconds": budget, "spent": 0.0, "reached": False},
            "teacher_passes": asdict(Passes()),
            "shards": [],
        }
        bank = cls(path, manifest)
        bank._write_manifest()
        return bank

    @classmethod
    def open(cls, path: Path, *, rank: int = 0) -> SampleBank:
        """A bank that exists. Shards are looked at by size only; `samples` checks their hashes.

        Args:
            path: its folder.
            rank: of the process that will add to it.

        Raises:
            DataError: if there is none, it is damaged, or of another version of the format.
        """
        with sound(path):
            bank = cls(path, read_manifest(path), rank=rank)
            _ = bank.plan, bank.passes, bank.teacher_sha256, bank.manifest["seed"], bank.manifest["synthesis"]
            _ = bank.arithmetic, bank.budget, bank.seconds_spent
        return bank

    @property
    def plan(self) -> SetPlan:
        """How the sets are cut."""
        return SetPlan(**self.manifest["plan"])

    def plan_for(self, samples: int) -> SetPlan:
        """The plan to go on with: a manifest is no reason to make more samples than the settings ask for.

        Args:
            samples: as many as the settings make; with a time budget it was the speed that decided.

        Raises:
            DataError: if the bank plans another number.
        """
        if self.budget is None and self.plan.samples != samples:
            raise DataError(
                f"the bank {self.path} was begun with other settings: it plans {self.plan.samples:,} samples, "
                f"they make {samples:,}",
                "choose another --out",
            )
        return self.plan

    @property
    def passes(self) -> Passes:
        """What the teacher was asked for this bank."""
        return sum((Passes(**shard["teacher_passes"]) for shard in self.manifest["shards"]), Passes())

    @property
    def student_passes(self) -> Passes:
        """What students were asked for this bank, in rounds after the first."""
        asked = (shard.get("student_passes") for shard in self.manifest["shards"])
        return sum((Passes(**passes) for passes in asked if passes), Passes())

    @property
    def teacher_sha256(self) -> str:
        """Hash of the teacher's file."""
        return str(self.manifest["teacher"]["sha256"])

    @property
    def outside_contract(self) -> tuple[str, ...]:
        """What was used of the teacher beyond its outputs and their gradient in the input."""
        return tuple(self.manifest.get("outside_contract") or ())

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, where the teacher has them."""
        names = self.manifest["class_names"]
        return None if names is None else tuple(whole_characters(name) for name in names)

    @property
    def arithmetic(self) -> dict[str, Any]:
        """What decides the last bits of a sample: device, versions, precision, threads, rows of a pass."""
        return dict(self.manifest["arithmetic"])

    @property
    def budget(self) -> float | None:
        """Seconds that synthesis may take over all attempts, if that is limited."""
        budget = self.manifest["time_budget"]
        return None if budget is None else float(budget["seconds"])

    @property
    def seconds_spent(self) -> float:
        """Seconds of synthesis that went into a bank with a time budget; 0 without one."""
        budget = self.manifest["time_budget"]
        return 0.0 if budget is None else float(budget["spent"])

    @property
    def is_complete(self) -> bool:
        """Whether all sets are there, or all that the time budget allowed."""
        return bool(self.manifest["status"] == "complete")

    @property
    def finished_waves(self) -> int:
        """How many waves of the plan are stored."""
        return len(self.manifest["shards"])

    @property
    def latest_round(self) -> int:
        """The latest round that there are samples of; 1 before the first."""
        return max((int(shard["round"]) for shard in self.manifest["shards"]), default=1)

    def missing_waves(self, number: int | None = None) -> list[int]:
        """The waves of the plan, or of its round `number`, that are not stored; none of a bank that is complete."""
        if self.is_complete:
            return []
        plan = self.plan
        stored = {plan.wave_of(shard["sets"][0]) for shard in self.manifest["shards"]}
        if number is None:
            wanted = range(plan.wave_count)
        else:
            own = plan.rounds_of_sets[number - 1]
            wanted = range(plan.wave_of(own.start), plan.wave_of(own.stop - 1) + 1)
        return [wave for wave in wanted if wave not in stored]

    def of_round(self, number: int) -> list[Entry]:
        """The entries of the shards of a round, from 1."""
        return [shard for shard in self.manifest["shards"] if shard["round"] == number]

    def student_path(self, number: int) -> Path:
        """Where the student lies that the samples of round `number` are made against."""
        return self.path / f"student-{number}.safetensors"

    def begin_round(self, number: int) -> None:
        """Notes in the manifest that a round is made against the student at `student_path`, which is written.

        Raises:
            EnvironmentFault: if the disk is full or refuses; the bank stays as it was.
        """
        file = self.student_path(number)
        self.refresh()
        known = [entry for entry in self.manifest["rounds"] if entry["round"] != number]
        self.manifest["rounds"] = [*known, {"round": number, "student": file.name, "sha256": sha256(file)}]
        self._write_manifest()

    def student_of(self, number: int) -> Path | None:
        """The student of a round that was begun; None before that.

        Raises:
            DataError: if its file is not the one that the round was begun with.
        """
        entries = [entry for entry in self.manifest.get("rounds", []) if entry["round"] == number]
        if not entries:
            return None
        file = self.student_path(number)
        if not file.is_file() or sha256(file) != entries[0]["sha256"]:
            raise DataError(
                f"{file}, which round {number} was begun with, has been lost or changed",
                "copy the bank again, or synthesize it again",
            )
        return file

    def __len__(self) -> int:
        return sum(shard["samples"] for shard in self.manifest["shards"])

    @property
    def health(self) -> Health | None:
        """How the samples came out; None before the first shard."""
        return self.health_of(self.manifest["shards"])

    @staticmethod
    def health_of(shards: list[Entry]) -> Health | None:
        """How the samples of some shards came out; None of none."""
        return Health.combine(Health(**shard["health"]) for shard in shards) if shards else None

    def add(
        self, wave: Wave, *, rows_per_pass: int | None = None, spent: float = 0.0, disagreement: float = 0.0
    ) -> Entry:
        """Stores a wave as a shard; the first rank, once it has all, finishes the bank.

        Args:
            wave: of the plan, not stored yet.
            rows_per_pass: samples that went through the teacher together.
            spent: seconds of synthesis until now, over all attempts.
            disagreement: weight of that term, where a student was asked.

        Returns:
            The shard's entry.

        Raises:
            EnvironmentFault: if the disk is full or refuses; the bank stays as it was.
        """
        plan = self.plan
        name = f"shard-{plan.wave_of(wave.sets.start):05d}.safetensors"
        write_shard(self.path / name, wave.samples)
        by_set = Health.of_sets(wave.samples, plan.set_size, dead=wave.dead, redrawn=wave.redrawn)
        shard: Entry = {
            "file": name,
            "sha256": sha256(self.path / name),
            "bytes": (self.path / name).stat().st_size,
            "sets": [wave.sets.start, wave.sets.stop],
            "round": plan.round_of(wave.sets.start),
            "samples": len(wave.samples),
            "step_sizes": wave.samples.step_sizes[:: plan.set_size].tolist(),
            "rows_per_pass": rows_per_pass,
            "teacher_passes": asdict(wave.passes),
            "health": Health.combine(by_set).to_json(),
            "set_health": Health.columns(by_set),
            "terms": wave.terms,
        }
        if disagreement:
            shard |= {"student_passes": asdict(wave.student_passes), "disagreement": disagreement}
        write_entry(self.path, self.rank, shard, spent)
        insort(self.manifest["shards"], shard, key=first_set)
        if self.rank == 0 and self.finished_waves == plan.wave_count:
            self.finish()
        return shard

    def refresh(self) -> None:
        """Reads again what manifest and journals say, of all ranks; raises as `open`."""
        self.manifest = SampleBank.open(self.path).manifest

    def fold(self) -> None:
        """Writes what the journals say into the manifest and removes them; only the first rank does this.

        Raises:
            DataError: if a journal is damaged.
            EnvironmentFault: if the disk is full or refuses; the bank stays as it was.
        """
        if told := journals(self.path):
            self.refresh()
            self._write_manifest()
            for journal in told:
                journal.unlink(missing_ok=True)

    def finish(self, *, spent: float = 0.0, reached: bool = False, ended: str | None = None) -> None:
        """Marks the bank as complete, once all ranks have stored what they made.

        Args:
            spent: seconds of synthesis, over all attempts.
            reached: whether the time budget ended it before all sets of the plan were made.
            ended: why no further round was made, where one was planned.

        Raises:
            EnvironmentFault: if the disk is full or refuses; the bank stays as it was.
        """
        self.refresh()
        self.manifest["status"] = "complete"
        if ended is not None:
            self.manifest["ended"] = ended
        if self.manifest["time_budget"] is not None:
            latest = max(self.seconds_spent, round(spent, 3))
            self.manifest["time_budget"] |= {"spent": latest, "reached": reached}
        self._write_manifest()
        for journal in journals(self.path):
            journal.unlink(missing_ok=True)

    def _write_manifest(self) -> None:
        self.manifest["teacher_passes"] = asdict(self.passes)
        write_manifest(self.path, self.manifest)

    def clear_leftovers(self) -> None:
        """Removes what a killed run left: partial files, and shards that nothing names."""
        clear_leftovers(self.path)
        named = {shard["file"] for shard in self.manifest["shards"]}
        for file in self.path.glob("shard-*.safetensors"):
            if file.name not in named:
                file.unlink()

    def shards(self, *, check: bool = True, number: int | None = None) -> Iterator[Samples]:
        """The samples of each shard, memory-mapped.

        Args:
            check: whether their hashes are compared with the manifest's.
            number: the round whose shards are wanted; all by default.

        Raises:
            DataError: if a shard is not what the manifest says.
        """
        for shard in self.manifest["shards"] if number is None else self.of_round(number):
            yield read_shard(self.path, shard, self.spec.shape, self.classes, check=check)

    def samples(self) -> Samples:
        """All samples, in memory; raises as `shards`."""
        parts = list(self.shards())
        if not parts:
            raise DataError(f"the bank {self.path} has no samples yet", "cake resume, or synthesize it again")
        return Samples.join(parts)
