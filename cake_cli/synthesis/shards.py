"""One shard of a bank: a wave's samples as a safetensors file, and back."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cake_cli.errors import DataError
from cake_cli.spec import format_shape
from cake_cli.storage import replacing, sha256
from cake_cli.synthesis.journal import Entry
from cake_cli.synthesis.samples import Samples


def write_shard(file: Path, samples: Samples) -> None:
    """Writes N samples: inputs (N, *shape), logits (N, K), targets (N,). Step sizes are the manifest's.

    Raises:
        EnvironmentFault: if the disk is full or refuses; nothing is left then.
    """
    tensors = {"inputs": samples.inputs, "logits": samples.logits, "targets": samples.targets.to(torch.int32)}
    with replacing(file) as temporary:
        save_file(tensors, temporary)


def read_shard(folder: Path, entry: Entry, shape: tuple[int, ...], classes: int, *, check: bool = True) -> Samples:
    """The samples of a shard, memory-mapped.

    Args:
        folder: of the bank.
        entry: what its manifest says of the shard.
        shape: of one input.
        classes: K.
        check: whether the file's hash is compared with the manifest's.

    Raises:
        DataError: if the file is not what the manifest says.
    """
    file = folder / entry["file"]
    try:
        if check and sha256(file) != entry["sha256"]:
            raise ValueError("its hash is not the manifest's")
        return _as_samples(entry, load_file(file), shape, classes)
    except (OSError, KeyError, ValueError, SafetensorError) as fault:
        raise DataError(
            f"the shard {file} is damaged: {fault}", "copy the bank again, or synthesize it again"
        ) from fault


def _as_samples(entry: Entry, tensors: dict[str, torch.Tensor], shape: tuple[int, ...], classes: int) -> Samples:
    count = entry["samples"]
    sizes = torch.tensor(entry["step_sizes"], dtype=torch.float32)
    for name, wanted in (("inputs", (count, *shape)), ("logits", (count, classes))):
        found = tuple(tensors[name].shape)
        if found != wanted:
            raise ValueError(f"its {name} are {format_shape(found)}, the manifest says {format_shape(wanted)}")
    if count % len(sizes) or tensors["targets"].shape != (count,):
        raise ValueError("its sets are not of one size")
    return Samples(
        tensors["inputs"].float(),
        tensors["logits"].float(),
        tensors["targets"].long(),
        sizes.repeat_interleave(count // len(sizes)),
    )
