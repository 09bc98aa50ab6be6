"""Of data with several splits, the one to learn from is never the one to measure on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cake_cli.data import training_split
from cake_cli.errors import DataError


def folders(root: Path, *names: str) -> str:
    for name in names:
        (root / name).mkdir(parents=True)
    return str(root)


def files(root: Path, *names: str) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return str(root)


def test_folders_of_splits(tmp_path: Path):
    assert training_split(folders(tmp_path / "a", "train/cat", "train/dog", "val/cat")) == "train"
    assert training_split(folders(tmp_path / "b", "cat", "dog")) is None
    assert training_split(folders(tmp_path / "c", "train", "plane", "car")) is None, "a class of that name"
    assert training_split(folders(tmp_path / "e", "airport/x", "train_station/x", "test_tube/x")) is None
    with pytest.raises(DataError, match="only test and val") as caught:
        training_split(folders(tmp_path / "d", "test/cat", "val/cat"))
    assert "real_split=test" in str(caught.value.fix)


def test_files_of_splits(tmp_path: Path):
    assert (
        training_split(files(tmp_path / "a", "train-00000-of-00001.parquet", "test-00000-of-00001.parquet")) == "train"
    )
    assert training_split(files(tmp_path / "b", "data/train-0.parquet", "data/test-0.parquet")) == "train"
    assert training_split(files(tmp_path / "c", "train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz")) == "train"
    assert training_split(files(tmp_path / "d", "part-0.parquet")) is None
    with pytest.raises(DataError, match="only t10k"):
        training_split(files(tmp_path / "e", "t10k-images-idx3-ubyte.gz"))


def test_keys_of_an_archive(save_npz: Callable[..., str]):
    rows = np.zeros((2, 4))
    assert training_split(save_npz("a.npz", x_train=rows, y_train=rows, x_test=rows, y_test=rows)) == "train"
    assert training_split(save_npz("b.npz", train_images=rows, train_labels=rows)) == "train"
    assert training_split(save_npz("c.npz", x=rows, y=rows)) is None
    with pytest.raises(DataError, match="only test"):
        training_split(save_npz("d.npz", x_test=rows, y_test=rows))


def test_names_and_single_files(tmp_path: Path):
    assert training_split("cifar10") == "train"
    assert training_split(str(tmp_path / "not-there.csv")) is None, "opening it says so"
    assert training_split(files(tmp_path, "table.csv") + "/table.csv") is None
