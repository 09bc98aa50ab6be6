"""Checkpoints of torch read without running anything: torch's weights-only reader, with stand-ins for data.

Training scripts keep more than weights: an accuracy as a numpy number, the arguments of argparse, an optimiser.
A weights-only load refuses the whole file for one of these. Here each object of a *known library of data* is
replaced, by its name, with an inert stand-in of ours: its module is never imported, its class never made, its
function never called. A name of any other module refuses the file as before.
"""

from __future__ import annotations

import mmap
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from cake_cli.errors import ModelFileError
from cake_cli.models.archive import ARCHIVE_FAULTS

_LIBRARIES = frozenset(
    {"numpy", "torch", "torchvision", "torchmetrics", "pytorch_lightning", "lightning", "lightning_fabric", "timm"}
    | {"lightning_utilities", "omegaconf", "easydict", "addict", "yacs", "ml_collections", "fvcore", "mmengine"}
    | {"transformers", "accelerate", "collections", "datetime"}
)
"""Modules whose objects in a checkpoint are settings, statistics and optimisers."""
_NAMES = frozenset(
    {"argparse.Namespace", "types.SimpleNamespace", "_codecs.encode", "copyreg._reconstructor"}
    | {f"builtins.{kind}" for kind in ("object", "dict", "list", "tuple", "set", "frozenset", "slice", "range")}
    | {f"builtins.{kind}" for kind in ("bool", "int", "float", "complex", "str", "bytes", "bytearray")}
    | {f"{home}.{kind}Path" for home in ("pathlib", "pathlib._local") for kind in ("", "Posix", "Windows")}
    | {f"{home}.Pure{kind}Path" for home in ("pathlib", "pathlib._local") for kind in ("", "Posix", "Windows")}
)
"""Plain data of modules that hold more than that."""
_OWN = re.compile(r"torch\.(_utils\.\w+|_tensor\.\w+|nn\.parameter\.\w+|\w+)|collections\.(OrderedDict|Counter)")
"""Names that are of torch's tensors, and not worth telling."""
_OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_LEGACY_PICKLES = 5
"""How many pickles begin a checkpoint of before torch 1.6: number, version, system, objects, names of storages."""
LARGEST_PICKLE = 256 * 2**20
"""Bytes: what is pickled of a checkpoint are names and sizes, its numbers lie beside it."""
SHOWN = 3


class Inert:
    """Takes the place of an object of a library: accepts anything, does nothing."""

    def __new__(cls, *_values: Any, **_named: Any) -> Inert:
        """One more."""
        return super().__new__(cls)

    def __init__(self, *_values: Any, **_named: Any) -> None:
        """Nothing."""

    def __setstate__(self, _state: Any) -> None:
        """Nothing."""


def load_checkpoint(path: Path, *, legacy: bool) -> tuple[Any, list[str]]:
    """What a checkpoint holds, on the CPU.

    Args:
        path: the file.
        legacy: whether it is of before torch 1.6.

    Returns:
        Tensors, containers of them and plain values; and the names of the objects in it that were not made.

    Raises:
        ModelFileError: if it holds objects of modules that are no known library of data, or is damaged.
    """
    names = _names(path, legacy)
    unknown = [name for name in names if not _is_data(name)]
    if unknown:
        raise pickled(path, unknown)
    objects = [name for name in names if not _OWN.fullmatch(name)]
    try:
        # What torch knows itself comes before what is named here: tensors stay tensors.
        with warnings.catch_warnings(), torch.serialization.safe_globals([(Inert, name) for name in names]):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=not legacy), objects
    except pickle.UnpicklingError as fault:
        if "Unsupported operand" in str(fault):
            raise ModelFileError(
                f"{path} was saved in a form of pickle that torch's safe reader does not read, so it is not loaded",
                "save it again: torch.save(model.state_dict(), FILE), without pickle_protocol",
            ) from fault
        raise pickled(path, objects) from fault
    except Exception as fault:  # torch's reader fails on damage in any way, by assertions too
        raise _damaged(path, fault) from fault


def pickled(path: Path, names: list[str]) -> ModelFileError:
    """The refusal of a checkpoint with Python objects of its own."""
    shown = ", ".join([*names[:SHOWN], *(["..."] if len(names) > SHOWN else [])])
    told = f" ({shown})" if shown else ""
    return ModelFileError(
        f"{path} holds pickled Python objects{told}, whose loading would run code; it is not loaded",
        "save the weights alone: torch.save(model.state_dict(), FILE); or export the model as ONNX",
    )


def _damaged(path: Path, fault: Exception) -> ModelFileError:
    reason = str(fault).strip().partition("\n")[0][:160] or type(fault).__name__
    return ModelFileError(f"{path} is a damaged checkpoint: {reason}; it is not loaded", "copy it again")


def _is_data(name: str) -> bool:
    return name.partition(".")[0] in _LIBRARIES or name in _NAMES


def _names(path: Path, legacy: bool) -> list[str]:
    """The classes and functions that a checkpoint asks for, in order, read without importing any."""
    found: dict[str, None] = {}
    try:
        with _pickles(path, legacy) as (stream, count):
            for _ in range(count):
                for code, argument, _ in pickletools.genops(stream):
                    if code.name == "GLOBAL":
                        module, _, name = str(argument).partition(" ")
                        found[f"{_OLD_MODULES.get(module, module)}.{name}"] = None
    except (*ARCHIVE_FAULTS, IndexError, KeyError, StopIteration, OverflowError, MemoryError) as fault:
        raise _damaged(path, fault) from fault
    return list(found)


@contextmanager
def _pickles(path: Path, legacy: bool) -> Iterator[tuple[IO[bytes], int]]:
    """A stream at the first pickle of a checkpoint, and how many follow each other."""
    if legacy:
        # Mapped, because to read a length that is a lie from a file takes as much memory as it says.
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
            yield stream, _LEGACY_PICKLES  # type: ignore[misc]
        return
    with zipfile.ZipFile(path) as archive:
        entry = next((entry for entry in archive.infolist() if entry.filename.rpartition("/")[2] == "data.pkl"), None)
        if entry is None or entry.file_size > LARGEST_PICKLE:
            raise ValueError("it has no pickle of names, or one that is too large")
        with archive.open(entry) as stream:
            yield stream, 1
