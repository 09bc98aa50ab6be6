"""The teachers of a benchmark, trained on real images once, and its students, trained on a bank."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from images import Images
from torch import Tensor, nn
from torch.nn import functional as F

from cake_cli.distillation.losses import distillation_loss
from cake_cli.distillation.optimizers import UpdateRule
from cake_cli.distillation.trainer import Labelled, train
from cake_cli.events import SILENT
from cake_cli.hardware import pick
from cake_cli.models.architectures import build_student
from cake_cli.models.students import load_student, save_student
from cake_cli.spec import InputSpec

KEPT = Path(__file__).resolve().parent / "kept"
"""Teachers that came with the repository: another machine's arithmetic would train another one by the same recipe."""
BATCH, LEARNING_RATE = 128, 0.1


def trained_teacher(name: str, images: Images, cache: Path, epochs: int, device: str) -> Path:
    """A classifier trained on the real images, as a file that `cake` opens; trained where none is kept or cached."""
    file = cache / f"{name}-{images.shape[0]}x32x32-{epochs}.safetensors"
    if file.is_file():
        return file
    if (KEPT / file.name).is_file() and is_of(KEPT / file.name, images):
        return KEPT / file.name
    hardware = pick(device)
    torch.manual_seed(0)
    network = hardware.place(build_student(name, images.shape, 10)).train()
    steps = epochs * (len(images.train) // BATCH)
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps + 1)
    order = torch.cat([torch.randperm(len(images.train)) for _ in range(epochs)])
    for index in torch.split(order, BATCH)[:steps]:
        batch = hardware.place_rows(images.train[index])
        with hardware.autocast():
            logits = network(_augmented(batch) if images.shape[0] == 3 else batch)
        loss = F.cross_entropy(logits.float(), images.train_labels[index].to(hardware.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    cache.mkdir(parents=True, exist_ok=True)
    save_teacher(file, network, name, images)
    return file


def is_of(file: Path, images: Images) -> bool:
    """Whether a teacher that `save_teacher` wrote has learnt these images, as their mean and spread tell."""
    spec = load_student(file).spec
    return spec.shape == images.shape and np.allclose([*spec.mean, *spec.std], [*images.mean, *images.std], atol=1e-5)


def save_teacher(file: Path, network: nn.Module, name: str, images: Images) -> None:
    """Writes a network that has learnt real images, by the name that `build_student` made it from."""
    spec = InputSpec(images.shape, images.mean, images.std, (0.0, 1.0))
    about = {"class_names": None, "teacher_sha256": "0" * 64, "data_free": False}
    save_student(file, network.eval().cpu(), name, spec=spec, classes=10, **about)


def _augmented(batch: Tensor) -> Tensor:
    """Flipped, and moved by up to four pixels: colour images only."""
    flipped = torch.where(torch.rand(len(batch), 1, 1, 1, device=batch.device) < 0.5, batch.flip(3), batch)
    right, down = torch.randint(0, 9, (2,)).tolist()
    return F.pad(flipped, (4, 4, 4, 4))[:, :, down : down + 32, right : right + 32]


def learned(
    inputs: Tensor, logits: Tensor, name: str, images: Images, *, epochs: int, seed: int, device: str
) -> nn.Module:
    """A student of a bank's inputs (N, C, H, W) and logits (N, K): the same recipe for both sides."""
    hardware = pick(device, "fp32")
    torch.manual_seed(seed)
    student = hardware.place(build_student(name, images.shape, 10))
    train(
        student,
        Labelled(hardware.place_rows(inputs), logits.to(hardware.device)),
        heldout=None,
        loss=distillation_loss("soft", 1.0),
        epochs=epochs,
        batch_size=BATCH,
        rule=UpdateRule("sgd", LEARNING_RATE, 5e-4),
        seed=seed,
        hardware=hardware,
        stage=SILENT.stage("", 1, ""),
    )
    return student


def accuracy(model: nn.Module | Path, images: Images, device: str) -> float:
    """Share of the test images that a network, or one in a file, puts in their class."""
    hardware = pick(device, "fp32")
    network = load_student(model).on(hardware).module if isinstance(model, Path) else model
    right = 0
    with torch.no_grad():
        for rows, labels in zip(torch.split(images.test, 1000), torch.split(images.test_labels, 1000), strict=True):
            right += int((network(hardware.place_rows(rows)).argmax(dim=1).cpu() == labels).sum())
    return right / len(images.test)
