"""What lies in a model folder, checked before any library reads it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cake_cli.errors import ModelFileError
from cake_cli.storage import sha256

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
LARGEST_JSON = 16 * 2**20


@dataclass(frozen=True)
class Contents:
    """A folder whose weights are safetensors of its own."""

    path: Path
    config: dict[str, Any]
    preprocessor: dict[str, Any]
    """preprocessor_config.json; empty where there is none."""
    weights: tuple[Path, ...]

    def digest(self) -> str:
        """SHA-256 over names and contents of config and weights."""
        whole = hashlib.sha256()
        for file in (self.path / "config.json", *self.weights):
            whole.update(f"{file.name} {sha256(file)}\n".encode())
        return whole.hexdigest()


def read_contents(path: Path) -> Contents:
    """Reads config.json and finds the weights.

    Raises:
        ModelFileError: if there is no config, a JSON file is damaged, the weights are only pickles, an index
            names files elsewhere, or the folder wants code of its own run.
    """
    config = read_json(path / "config.json")
    preprocessor = read_json(path / "preprocessor_config.json") if (path / "preprocessor_config.json").exists() else {}
    if "auto_map" in config:
        raise ModelFileError(
            f"{path} brings its own Python code (auto_map in config.json), which is not run",
            "name a function that returns the model: file.py:function",
        )
    if (path / "adapter_config.json").exists():
        raise ModelFileError(f"{path} is an adapter to another model", "merge it into the model and save that")
    return Contents(path, config, preprocessor, _weights(path))


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file of the folder.

    Raises:
        ModelFileError: if it is missing, lies elsewhere, is too large, or is no JSON object.
    """
    require_inside(file)
    try:
        if file.stat().st_size > LARGEST_JSON:
            raise ValueError("too large")
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as fault:
        raise ModelFileError(f"{file} is not readable as JSON: {fault}", "copy the folder again") from fault
    if not isinstance(read, dict):
        raise ModelFileError(f"{file} is not a JSON object", "copy the folder again")
    return read


def require_inside(file: Path) -> None:
    """Refuses a link that leads out of its folder; the blobs of a Hugging Face cache are taken as inside.

    Raises:
        ModelFileError: if the file lies elsewhere.
    """
    folder = file.parent.resolve()
    target = file.resolve()
    allowed = [folder]
    if folder.parent.name == "snapshots":
        allowed.append(folder.parent.parent / "blobs")
    if not any(target.is_relative_to(place) for place in allowed):
        raise ModelFileError(f"{file} is a link that leads out of its folder", "copy the file itself there")


def _weights(path: Path) -> tuple[Path, ...]:
    names = [SINGLE]
    if not (path / SINGLE).exists():
        if not (path / INDEX).exists():
            raise _no_weights(path)
        table = read_json(path / INDEX).get("weight_map")
        named = set(table.values()) if isinstance(table, dict) else set()
        if not named or not all(isinstance(name, str) for name in named):
            raise ModelFileError(f"{path / INDEX} lists no weights", "copy the folder again")
        names = sorted(named)
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelFileError(f"{path / INDEX} names {name!r}, which is no file of its folder", "do not use it")
        if not (path / name).is_file():
            raise ModelFileError(f"{path} lacks {name}, which its index names", "copy or download the folder again")
        require_inside(path / name)
    return tuple(path / name for name in names)


def _no_weights(path: Path) -> ModelFileError:
    pickles = [file.name for pattern in _PICKLES for file in path.glob(pattern)]
    if pickles:
        return ModelFileError(
            f"{path} holds its weights as a pickle ({pickles[0]}), whose loading could run code; it is not loaded",
            "save it again: model.save_pretrained(FOLDER, safe_serialization=True)",
        )
    return ModelFileError(f"{path} has a config.json, but no {SINGLE}", "copy or download the folder again")
