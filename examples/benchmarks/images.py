"""The real images of a benchmark: teachers are trained on them, and students measured; no student ever learns them."""

from __future__ import annotations

import importlib.util
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Images:
    """Normalised images of 32x32 pixels, and how they were normalised."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, 32, 32)."""
        return tuple(self.train.shape[1:])


def load_images(folder: Path, name: str) -> Images:
    """`mnist`, `fashion-mnist` or `cifar10`, from a folder whose read.py gives arrays, or torchvision keeps them in."""
    arrays = {split: read_arrays(folder, name, split) for split in ("train", "test")}
    scaled = {split: torch.from_numpy(x).float() / 255 for split, (x, _) in arrays.items()}
    scaled = {split: F.pad(x, (2, 2, 2, 2)) if x.shape[-1] == 28 else x for split, x in scaled.items()}
    std, mean = torch.std_mean(scaled["train"], dim=(0, 2, 3))
    images = {split: (x - mean[:, None, None]) / std[:, None, None] for split, x in scaled.items()}
    labels = {split: torch.from_numpy(y) for split, (_, y) in arrays.items()}
    return Images(
        images["train"], labels["train"], images["test"], labels["test"], tuple(mean.tolist()), tuple(std.tolist())
    )


def read_arrays(folder: Path, name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, C, H, W) of bytes and labels (N,)."""
    reader = folder / "read.py"
    if reader.is_file():
        spec = importlib.util.spec_from_file_location("read", reader)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.READERS[name](split)
    from torchvision import datasets

    kinds = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10}
    made = kinds[name](folder, train=split == "train")
    pixels = np.asarray(made.data)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pixels), np.asarray(made.targets, dtype=np.int64)


def name_of_machine(device: str) -> str:
    """What the figures were measured on."""
    if device != "cpu":
        return torch.cuda.get_device_name(torch.device(device))
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    return f"{model}, {torch.get_num_threads()} threads"
