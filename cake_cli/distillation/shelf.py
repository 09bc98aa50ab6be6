"""Labelled samples put on the disk for the length of a run, so that however many they are, memory is bounded.

::

    shelf.json                 written last: the shards, and how many samples each holds
    shard-00000.safetensors    inputs float32 (n, *shape), logits float32 (n, K), and labels int64 (n,) or not
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cake_cli.distillation.pool import Part
from cake_cli.errors import DataError
from cake_cli.forms import read_json, require_form
from cake_cli.storage import clear_leftovers, replacing, write_json

SHARD_BYTES = 64 * 2**20
_SHARD_NAME = re.compile(r"shard-\d{5,}\.safetensors")


class Shelf:
    """A folder of shards that this run wrote for itself."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def is_whole(self) -> bool:
        """Whether all samples are there."""
        return (self.path / "shelf.json").is_file()

    def fill(self, samples: Iterable[Part]) -> None:
        """Writes samples, in order; what an attempt that was cut short left is written over.

        Args:
            samples: some at a time, on the CPU; all with labels, or none.

        Raises:
            EnvironmentFault: if the disk is full or refuses.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        clear_leftovers(self.path)
        shards: list[dict[str, int | str]] = []
        waiting: list[Part] = []

        def write() -> None:
            whole = _joined(waiting)
            name = f"shard-{len(shards):05d}.safetensors"
            tensors = {"inputs": whole.inputs.contiguous(), "logits": whole.logits}
            with replacing(self.path / name) as temporary:
                save_file(tensors if whole.labels is None else tensors | {"labels": whole.labels}, temporary)
            shards.append({"file": name, "samples": len(whole.inputs)})
            waiting.clear()

        for part in samples:
            waiting.append(part)
            if sum(held.inputs.nbytes for held in waiting) >= SHARD_BYTES:
                write()
        if waiting:
            write()
        write_json(self.path / "shelf.json", {"shards": shards})

    def parts(self, shape: tuple[int, ...], classes: int, count: int | None = None) -> list[Part]:
        """The samples of each shard, memory-mapped.

        Args:
            shape: of one input.
            classes: K.
            count: how many samples there must be in all, where that is known.

        Raises:
            DataError: if they were damaged since they were written.
        """
        try:
            told = read_json(self.path / "shelf.json")
            require_form(told, {"shards": [{"file": str, "samples": int}]})
            parts = []
            for shard in told["shards"]:
                if not _SHARD_NAME.fullmatch(shard["file"]):
                    raise ValueError(f"shard name {shard['file']!r}")
                part = _as_part(load_file(self.path / shard["file"]), shard["samples"], shape, classes)
                if part is None:
                    raise ValueError(f"{shard['file']} holds other samples than were written")
                parts.append(part)
            found = sum(len(part.inputs) for part in parts)
            if count is not None and found != count:
                raise ValueError(f"it has {found:,} samples of {count:,}")
            return parts
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as fault:
            raise DataError(f"{self.path} is damaged: {fault}", f"remove {self.path}; it is made again") from fault


def _as_part(tensors: dict[str, torch.Tensor], count: int, shape: tuple[int, ...], classes: int) -> Part | None:
    """A shard's samples; None if they are not so many, of such inputs and classes."""
    inputs, logits, labels = tensors["inputs"], tensors["logits"], tensors.get("labels")
    whole = inputs.shape == (count, *shape) and logits.shape == (count, classes)
    if not whole or {inputs.dtype, logits.dtype} != {torch.float32}:
        return None
    if labels is None:
        return Part(inputs, logits)
    known = (
        labels.dtype == torch.int64 and labels.shape == (count,) and bool(((labels >= 0) & (labels < classes)).all())
    )
    return Part(inputs, logits, labels) if known else None


def waypoint_shelf(folder: Path, wave: int) -> Shelf:
    """Where the points on the way to the samples of a wave are kept, below the folder of what a run keeps."""
    return Shelf(folder / "waypoints" / str(wave))


def _joined(parts: list[Part]) -> Part:
    labels = [part.labels for part in parts if part.labels is not None]
    return Part(
        torch.cat([part.inputs for part in parts]),
        torch.cat([part.logits for part in parts]),
        torch.cat(labels) if labels else None,
    )
