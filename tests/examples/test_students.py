"""The teachers of a benchmark, and the images that they learn, on images that are made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}


@pytest.fixture
def students(example: Callable[[str], ModuleType]) -> ModuleType:
    return example("benchmarks/students.py")


def downloaded(root: Path, name: str, rows: int) -> np.ndarray:
    """Images (N, 28, 28) of bytes in the files that torchvision keeps below a root; both splits are the same."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (rows, 28, 28), dtype=np.uint8)
    labels = generator.integers(0, 10, rows, dtype=np.uint8)
    raw = root / FOLDERS[name] / "raw"
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        sizes = np.array(pixels.shape, dtype=">i4").tobytes()
        (raw / f"{split}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + sizes + pixels.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + sizes[:4] + labels.tobytes())
    return pixels


@pytest.mark.parametrize("name", FOLDERS)
def test_images_that_torchvision_downloaded(example: Callable[[str], ModuleType], tmp_path: Path, name: str):
    pixels = downloaded(tmp_path, name, 6)
    images = example("benchmarks/images.py").load_images(tmp_path, name)
    assert images.test.shape == (6, 1, 32, 32)
    again = images.test[:, 0, 2:-2, 2:-2] * images.std[0] + images.mean[0]
    torch.testing.assert_close(again, torch.from_numpy(pixels).float() / 255)


def test_a_kept_teacher_is_taken_for_its_own_images_alone(
    example: Callable[[str], ModuleType], students: ModuleType, tmp_path: Path
):
    images = example("benchmarks/images.py")
    kept = students.KEPT / "lenet5-1x32x32-3.safetensors"
    spec = students.load_student(kept).spec
    downloaded(tmp_path, "mnist", 200)
    others = images.load_images(tmp_path, "mnist")
    same = images.Images(
        others.train, others.train_labels, others.test, others.test_labels, tuple(spec.mean), tuple(spec.std)
    )
    assert students.trained_teacher("lenet5", same, tmp_path / "cache", 3, "cpu") == kept
    assert not (tmp_path / "cache").exists()
    made = students.trained_teacher("lenet5", others, tmp_path / "cache", 3, "cpu")
    assert made == tmp_path / "cache" / kept.name
    assert students.trained_teacher("lenet5", same, tmp_path / "cache", 3, "cpu") == made  # its user's own comes first
