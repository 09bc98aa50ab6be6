"""A file of weights as a flat mapping of tensors; pickles only through torch's weights-only reader."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cake_cli.errors import ModelFileError
from cake_cli.models.archive import require_sound_archive
from cake_cli.models.formats import ModelFile
from cake_cli.models.weights.unpickling import load_checkpoint, pickled

WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params"),
    *("model_ema", "state_dict_ema", "ema"),
)
"""Keys under which training scripts keep the weights of a checkpoint, likely ones first."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and Lightning put before every name."""
SHARD = frozenset({"inputs", "logits", "targets"})
"""What a shard of a sample bank holds."""
DEEPEST = 4
"""How many wrappers may lie around weights."""


@dataclass(frozen=True)
class Weights:
    """Tensors by name, as a model's `state_dict` has them."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    """Key-value pairs of a safetensors header."""
    mends: tuple[str, ...]
    prefix: str = ""
    """What was stripped from before every name, such as ``module.``."""

    @property
    def parameters(self) -> int:
        """How many numbers they are."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor, without batch counters, which old files lack."""
        return {
            name: tuple(tensor.shape)
            for name, tensor in self.tensors.items()
            if not name.endswith("num_batches_tracked")
        }


def read_weights(file: ModelFile) -> Weights:
    """Reads the tensors of a safetensors file or of a torch checkpoint; executes nothing in it.

    Raises:
        ModelFileError: if it is damaged, holds pickled objects, no tensors, or some that are larger than the file says.
    """
    path = file.path
    if file.format == "safetensors":
        metadata, found = _read_safetensors(path)
        if found.keys() >= SHARD:
            again = shlex.join(["cake", "train", str(path.parent)])
            raise ModelFileError(f"{path} is a shard of a sample bank, not a model", f"{again} --student cnn")
        mends: list[str] = []
    else:
        metadata, mends = {}, []
        if file.format == "checkpoint" and not file.legacy:
            require_sound_archive(path)
        loaded, objects = load_checkpoint(path, legacy=file.legacy)
        if objects and not _holds_tensors(loaded):
            raise pickled(path, objects)
        found, mends = _unwrap(path, loaded)
        if objects:
            mends.append(f"{len(objects)} kinds of objects beside the weights not loaded: {objects[0]}, ...")
    _require_plain(path, found)
    tensors, prefix = _strip(found)
    mends += [f"prefix {part}. stripped from the names" for part in prefix.split(".")[:-1]]
    tensors, masks = _pruned(tensors)
    if not any(tensor.is_floating_point() for tensor in tensors.values()):
        types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
        raise ModelFileError(
            f"{path} holds no weights" + (f", only tensors of {', '.join(types)} ({len(tensors)})" if types else ""),
            "save the state dict: torch.save(model.state_dict(), FILE)",
        )
    return Weights(path, tensors, metadata, tuple(mends + masks), prefix)


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as fault:
        raise ModelFileError(f"{path} is not a whole safetensors file: {fault}", "copy it again") from fault


def _require_plain(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises `ModelFileError` for nested tensors, and for views of fewer numbers than they have elements."""
    for name, tensor in tensors.items():
        if tensor.is_nested:
            raise ModelFileError(
                f"{path} holds {name} as a nested tensor, which no weights are", "save the state dict without it"
            )
        if tensor.layout is not torch.strided:
            continue
        needed, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        if needed > stored:
            raise ModelFileError(
                f"{path} holds {name} of {needed:,} bytes as a view of {stored:,}; it is not loaded",
                "save it whole: torch.save({name: tensor.contiguous() for name, tensor in state.items()}, FILE)",
            )


def _unwrap(path: Path, loaded: Any) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a checkpoint, and from below which keys they were taken."""
    taken: list[str] = []
    for _ in range(DEEPEST):
        if isinstance(loaded, (list, tuple)) and len(loaded) == 1:
            loaded = loaded[0]
        if not isinstance(loaded, Mapping):
            break
        inner = next((key for key in WRAPPERS if _holds_tensors(loaded.get(key))), None)
        tensors = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
        if inner is None and not tensors:
            nested = [key for key, value in loaded.items() if _holds_tensors(value) and "optim" not in str(key)]
            if len(nested) > 1:
                listed = ", ".join(map(str, nested))
                raise ModelFileError(
                    f"{path} holds several sets of weights ({listed})",
                    f"save one alone: torch.save(torch.load(FILE)[{str(nested[0])!r}], NEW)",
                )
            inner = nested[0] if nested else None
        if inner is None:
            return tensors, [f"weights taken from the checkpoint's {'.'.join(taken)}"] if taken else []
        taken.append(str(inner))
        loaded = loaded[inner]
    raise ModelFileError(
        f"{path} holds a {type(loaded).__name__}, not weights by name",
        "save the state dict: torch.save(model.state_dict(), FILE)",
    )


def _holds_tensors(value: Any, depth: int = DEEPEST) -> bool:
    """Whether tensors lie in a mapping, or in one below it, or in a list of one."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Mapping) or depth == 0:
        return False
    return any(isinstance(inner, Tensor) or _holds_tensors(inner, depth - 1) for inner in value.values())


def _strip(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Without the prefixes that all names share, which are returned, and the counter of averaged models."""
    stripped = ""
    tensors = {name: tensor for name, tensor in tensors.items() if name != "n_averaged"}
    while tensors:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        stripped += prefix
    return tensors, stripped


def _pruned(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """With the masks of torch's pruning multiplied in: ``weight`` for ``weight_orig`` and ``weight_mask``."""
    masked = {name.removesuffix("_mask") for name in tensors if name.endswith("_mask")}
    masked = {name for name in masked if tensors.get(f"{name}_orig", tensors[f"{name}_mask"]).shape
              == tensors[f"{name}_mask"].shape and f"{name}_orig" in tensors}  # fmt: skip
    whole = {}
    for name, tensor in tensors.items():
        bare = name.removesuffix("_orig").removesuffix("_mask")
        if bare not in masked:
            whole[name] = tensor
        elif name.endswith("_orig"):
            whole[bare] = tensor * tensors[f"{bare}_mask"]
    return whole, [f"pruning masks of {len(masked)} weights multiplied in"] if masked else []
