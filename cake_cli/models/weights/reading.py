"""A file of weights as a flat mapping of tensors; pickles only through torch's weights-only reader."""

from __future__ import annotations

import pickle
import re
import warnings
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

WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params"),
    *("model_ema", "state_dict_ema", "ema"),
)
"""Keys under which training scripts keep the weights of a checkpoint, likely ones first."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and Lightning put before every name."""
SHOWN_GLOBALS = 3


@dataclass(frozen=True)
class Weights:
    """Tensors by name, as a model's `state_dict` has them."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    """Key-value pairs of a safetensors header."""
    mends: tuple[str, ...]

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
        ModelFileError: if it is damaged, holds pickled objects, or no tensors.
    """
    path = file.path
    if file.format == "safetensors":
        metadata, found = _read_safetensors(path)
        mends: list[str] = []
    else:
        metadata, mends = {}, []
        if file.format == "checkpoint" and not file.legacy:
            require_sound_archive(path)
        found, mends = _unwrap(path, _unpickle(path, mapped=not file.legacy))
    tensors, stripped = _strip(found)
    if not tensors:
        raise ModelFileError(f"{path} holds no weights", "save the state dict: torch.save(model.state_dict(), FILE)")
    return Weights(path, tensors, metadata, tuple(mends + stripped))


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as fault:
        raise ModelFileError(f"{path} is not a whole safetensors file: {fault}", "copy it again") from fault


def _unpickle(path: Path, *, mapped: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as fault:
        names = _globals(path, str(fault))
        told = f" ({', '.join(names)})" if names else ""
        raise ModelFileError(
            f"{path} holds pickled Python objects{told}, whose loading would run code; it is not loaded",
            "save the weights alone: torch.save(model.state_dict(), FILE); or export the model as ONNX",
        ) from fault
    except (RuntimeError, OSError, ValueError, TypeError, KeyError, EOFError, MemoryError, AttributeError) as fault:
        reason = str(fault).strip().partition("\n")[0][:160] or type(fault).__name__
        raise ModelFileError(f"{path} is a damaged checkpoint: {reason}; it is not loaded", "copy it again") from fault


def _globals(path: Path, message: str) -> list[str]:
    """Names of the foreign classes and functions of a checkpoint; found without importing them."""
    try:
        found = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # old formats are not read by it
        found = re.findall(r"GLOBAL ([\w.]+)", message)
    return found[:SHOWN_GLOBALS] + (["..."] if len(found) > SHOWN_GLOBALS else [])


def _unwrap(path: Path, loaded: Any) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a checkpoint, and from below which keys they were taken."""
    taken: list[str] = []
    for _ in range(4):
        if not isinstance(loaded, Mapping):
            break
        inner = next((key for key in WRAPPERS if isinstance(loaded.get(key), Mapping) and loaded[key]), None)
        if inner is None:
            tensors = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
            mends = [f"weights taken from the checkpoint's {'.'.join(taken)}"] if taken else []
            return tensors, mends
        taken.append(inner)
        loaded = loaded[inner]
    raise ModelFileError(
        f"{path} holds a {type(loaded).__name__}, not weights by name",
        "save the state dict: torch.save(model.state_dict(), FILE)",
    )


def _strip(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Without the prefixes that all names share, and without the counter of averaged models."""
    mends = []
    tensors = {name: tensor for name, tensor in tensors.items() if name != "n_averaged"}
    while tensors:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        mends.append(f"prefix {prefix} stripped from the names")
    return tensors, mends
