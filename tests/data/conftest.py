import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cake_cli.data import HeldOut
from cake_cli.spec import InputSpec


@pytest.fixture
def grey8() -> InputSpec:
    return InputSpec(shape=(1, 8, 8), mean=(0.5,), std=(0.25,))


@pytest.fixture
def images8() -> np.ndarray:
    """Ten images (10, 8, 8), uint8, all different."""
    return np.random.default_rng(0).integers(0, 256, (10, 8, 8), dtype=np.uint8)


@pytest.fixture
def labels10() -> np.ndarray:
    return np.arange(10, dtype=np.int64) % 5


@pytest.fixture
def save_npz(tmp_path: Path) -> Callable[..., str]:
    def save(name: str = "heldout.npz", **arrays: np.ndarray) -> str:
        np.savez_compressed(tmp_path / name, **arrays)
        return str(tmp_path / name)

    return save


@pytest.fixture
def save_idx(tmp_path: Path) -> Callable[[str, np.ndarray], Path]:
    def save(name: str, values: np.ndarray) -> Path:
        data = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.astype("u1").tobytes()
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return save


@pytest.fixture
def read_all() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    def read(heldout: HeldOut, batch_size: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
        batches = list(heldout.batches(batch_size))
        assert all(0 < len(x) <= batch_size and len(x) == len(y) for x, y in batches)
        rows, labels = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
        assert (rows.dtype, labels.dtype) == (torch.float32, torch.int64)
        return rows, labels

    return read
