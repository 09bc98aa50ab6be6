"""The sample bank on disk: safetensors shards and a manifest. The README documents it as a file format.

::

    manifest.json              what the bank is, and a line for each shard that is whole
    shard-00000.safetensors    inputs float32 (N, *shape), logits float32 (N, K), targets int32 (N,)

A shard is written and renamed before the manifest names it, so at any moment every shard of the manifest is
whole; a file that it does not name is left over from a killed run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cake_cli import __version__
from cake_cli.errors import DataError, UsageError
from cake_cli.models.classifier import Classifier
from cake_cli.spec import InputSpec, format_shape
from cake_cli.storage import clear_leftovers, replacing, sha256, write_json
from cake_cli.synthesis.engine import Passes, SetPlan, Wave
from cake_cli.synthesis.health import Health
from cake_cli.synthesis.samples import Samples

FORMAT = "cake-bank"
SCHEMA_VERSION = 1
_SHARD_NAME = re.compile(r"shard-\d{5,}\.safetensors")


class SampleBank:
    """A bank on disk, whole or still growing.

    Attributes:
        path: its folder.
        manifest: the content of manifest.json.
        spec: the input of its samples.
        classes: K.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.spec = InputSpec.from_json(manifest["input"])
        self.classes = int(manifest["classes"])

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
    ) -> SampleBank:
        """Begins a bank in a folder that is empty or not there yet.

        Args:
            path: the folder.
            teacher: whose samples these are.
            plan: how its sets are cut.
            seed: of the run.
            settings: the synthesis settings, for the record and to compare on resume.
            about: more for the record, such as the weights that the settings came to.

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
            "teacher_passes": asdict(Passes()),
            "shards": [],
        }
        write_json(path / "manifest.json", manifest)
        return cls(path, manifest)

    @classmethod
    def open(cls, path: Path) -> SampleBank:
        """A bank that exists. Shards are looked at by size only; `samples` checks their hashes.

        Raises:
            DataError: if there is none, it is damaged, or of another version of the format.
        """
        file = path / "manifest.json"
        if not file.is_file():
            raise DataError(f"{path} is not a sample bank: it has no manifest.json", "cake synthesize TEACHER -o BANK")
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT:
                raise ValueError(f"format {manifest['format']!r}")
            schema = manifest["schema_version"]
            if schema == SCHEMA_VERSION:
                bank = cls(path, manifest)
                _ = bank.plan, bank.passes, bank.teacher_sha256, manifest["seed"], manifest["synthesis"]
                for shard in manifest["shards"]:
                    bank._check_shard(shard)
                return bank
        except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError) as fault:
            raise DataError(f"{file} is damaged: {fault!r}", "synthesize the bank again") from fault
        raise DataError(
            f"{path} was written in version {schema} of the bank format, this cake reads {SCHEMA_VERSION}",
            f"use cake {manifest.get('cake_version', '')}, or synthesize the bank again",
        )

    def _check_shard(self, shard: dict[str, Any]) -> None:
        name = shard["file"]
        if not _SHARD_NAME.fullmatch(name):
            raise ValueError(f"shard name {name!r}")
        file = self.path / name
        if not file.is_file() or file.is_symlink():
            raise DataError(f"{self.path} has lost its shard {name}", "cake resume, or synthesize the bank again")
        if file.stat().st_size != shard["bytes"]:
            raise DataError(
                f"{file} has {file.stat().st_size} bytes, and the manifest says {shard['bytes']}",
                "copy the bank again, or synthesize it again",
            )
        if len(shard["step_sizes"]) != shard["sets"][1] - shard["sets"][0] or shard["samples"] < 1:
            raise ValueError(f"sets of {name}")
        Health(**shard["health"])

    @property
    def plan(self) -> SetPlan:
        """How the sets are cut."""
        return SetPlan(**self.manifest["plan"])

    @property
    def passes(self) -> Passes:
        """What the teacher was asked for this bank."""
        return Passes(**self.manifest["teacher_passes"])

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
        return None if names is None else tuple(names)

    @property
    def is_complete(self) -> bool:
        """Whether all sets are there."""
        return bool(self.manifest["status"] == "complete")

    @property
    def finished_waves(self) -> int:
        """How many waves of the plan are stored."""
        return len(self.manifest["shards"])

    def __len__(self) -> int:
        return sum(shard["samples"] for shard in self.manifest["shards"])

    @property
    def health(self) -> Health | None:
        """How the samples came out; None before the first shard."""
        shards = self.manifest["shards"]
        return Health.combine(Health(**shard["health"]) for shard in shards) if shards else None

    def add(self, wave: Wave) -> Health:
        """Stores the next wave as a shard.

        Raises:
            EnvironmentFault: if the disk is full or refuses; the bank stays as it was.
        """
        name = f"shard-{self.finished_waves:05d}.safetensors"
        tensors = {
            "inputs": wave.samples.inputs,
            "logits": wave.samples.logits,
            "targets": wave.samples.targets.to(torch.int32),
        }
        with replacing(self.path / name) as temporary:
            save_file(tensors, temporary)
        size = self.plan.set_size
        by_set = Health.of_sets(wave.samples, size, dead=wave.dead, redrawn=wave.redrawn)
        health = Health.combine(by_set)
        shard: dict[str, Any] = {
            "file": name,
            "sha256": sha256(self.path / name),
            "bytes": (self.path / name).stat().st_size,
            "sets": [wave.sets.start, wave.sets.stop],
            "round": 1,
            "samples": len(wave.samples),
            "step_sizes": wave.samples.step_sizes[::size].tolist(),
            "health": health.to_json(),
            "set_health": Health.columns(by_set),
            "terms": wave.terms,
        }
        shards = [*self.manifest["shards"], shard]
        manifest = self.manifest | {
            "shards": shards,
            "teacher_passes": asdict(self.passes + wave.passes),
            "status": "complete" if shard["sets"][1] == self.plan.sets else "partial",
        }
        write_json(self.path / "manifest.json", manifest)
        self.manifest = manifest
        return health

    def clear_leftovers(self) -> None:
        """Removes what a killed run left: partial files, and shards that the manifest does not name."""
        clear_leftovers(self.path)
        named = {shard["file"] for shard in self.manifest["shards"]}
        for file in self.path.glob("shard-*.safetensors"):
            if file.name not in named:
                file.unlink()

    def shards(self) -> Iterator[Samples]:
        """The samples of each shard, memory-mapped, their hashes checked.

        Raises:
            DataError: if a shard is not what the manifest says.
        """
        for shard in self.manifest["shards"]:
            file = self.path / shard["file"]
            try:
                if sha256(file) != shard["sha256"]:
                    raise ValueError("its hash is not the manifest's")
                tensors = load_file(file)
                yield self._as_samples(shard, tensors)
            except (OSError, KeyError, ValueError, SafetensorError) as fault:
                raise DataError(
                    f"the shard {file} is damaged: {fault}", "copy the bank again, or synthesize it again"
                ) from fault

    def _as_samples(self, shard: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Samples:
        count = shard["samples"]
        sizes = torch.tensor(shard["step_sizes"], dtype=torch.float32)
        found = tuple(tensors["inputs"].shape)
        if found != (count, *self.spec.shape) or tuple(tensors["logits"].shape) != (count, self.classes):
            raise ValueError(f"inputs of {format_shape(found)}")
        if count % len(sizes) or tensors["targets"].shape != (count,):
            raise ValueError("its sets are not of one size")
        return Samples(
            tensors["inputs"].float(),
            tensors["logits"].float(),
            tensors["targets"].long(),
            sizes.repeat_interleave(count // len(sizes)),
        )

    def samples(self) -> Samples:
        """All samples, in memory; raises as `shards`."""
        parts = list(self.shards())
        if not parts:
            raise DataError(f"the bank {self.path} has no samples yet", "cake resume, or synthesize it again")
        return Samples.join(parts)
