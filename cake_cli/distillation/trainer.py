"""Trains a student on inputs and the teacher's logits for them. Knows nothing of where they come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cake_cli.distillation.losses import Loss
from cake_cli.errors import DataError, RunError
from cake_cli.events import Stage
from cake_cli.hardware import Hardware
from cake_cli.storage import replacing

DIV_FACTOR = 25.0
FINAL_DIV_FACTOR = 1e4


@dataclass(frozen=True)
class Labelled:
    """Inputs and what the teacher says of them, resident on the device."""

    inputs: Tensor
    """(N, *shape) float32, normalised."""
    logits: Tensor
    """(N, K) float32, the teacher's."""

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to."""

    epoch: int
    """From 1."""
    loss: float
    """Mean training loss."""
    agreement: float | None
    """Share of held-out synthetic samples on which student and teacher choose the same class."""
    lr: float
    """Learning rate after the epoch."""


def train(
    student: nn.Module,
    samples: Labelled,
    *,
    heldout: Labelled | None,
    loss: Loss,
    epochs: int,
    batch_size: int,
    lr: float,
    momentum: float,
    weight_decay: float,
    seed: int,
    hardware: Hardware,
    stage: Stage,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> None:
    """Trains `student` in place: SGD with a one-cycle learning rate; what counts is the last step.

    The order of samples in an epoch depends on (seed, epoch) only, so a run resumed from `checkpoint`
    ends bit for bit where an undisturbed one ends, on the same device.

    Args:
        student: on the device; maps (N, *shape) to (N, K) logits.
        samples: to learn from.
        heldout: synthetic samples to measure fidelity on, or None.
        loss: of the student's logits against the teacher's.
        epochs: passes over `samples`.
        batch_size: samples of a step; the last, smaller batch of an epoch is left out.
        lr: peak learning rate.
        momentum: of SGD.
        weight_decay: of SGD.
        seed: of the order of samples and of dropout.
        hardware: where the student lies, and its precision.
        stage: told of progress, in epochs.
        checkpoint: file to go on from where it exists, and to keep up to date.
        on_epoch: called after each epoch.

    Raises:
        RunError: if the loss is not finite, with the epoch.
        DataError: if the checkpoint is damaged.
    """
    batch_size = min(batch_size, len(samples))
    steps = len(samples) // batch_size
    optimizer = torch.optim.SGD(student.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=lr,
        total_steps=epochs * steps + 1,
        div_factor=DIV_FACTOR,
        final_div_factor=FINAL_DIV_FACTOR,
        cycle_momentum=False,
    )
    scaler = torch.amp.GradScaler(hardware.device.type, enabled=hardware.precision == "fp16")
    parts: dict[str, Any] = {"student": student, "optimizer": optimizer, "schedule": schedule, "scaler": scaler}
    done = _restore(checkpoint, parts) if checkpoint is not None and checkpoint.exists() else 0
    stage.advance(done)
    for epoch in range(done, epochs):
        student.train()
        torch.manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        order = order[: steps * batch_size].to(hardware.device)
        total = torch.zeros((), device=hardware.device)
        for index in torch.split(order, batch_size):
            with hardware.autocast():
                logits = student(samples.inputs[index])
            value = loss(logits.float(), samples.logits[index])
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(value).backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            total += value.detach()
            stage.advance(1 / steps)
        mean = float(total) / steps
        if not torch.isfinite(total):
            raise RunError(f"the training loss is not finite in epoch {epoch + 1}", f"--lr {lr / 5:g}")
        agreement = measure_agreement(student, heldout, hardware) if heldout is not None else None
        rate = float(schedule.get_last_lr()[0])
        stage.advance(0, loss=mean, **({} if agreement is None else {"agree": f"{agreement:.1%}"}))
        on_epoch(Epoch(epoch + 1, mean, agreement, rate))
        if checkpoint is not None:
            _save(checkpoint, parts, epoch + 1)
    student.eval()


def measure_agreement(student: nn.Module, samples: Labelled, hardware: Hardware, batch_size: int = 1000) -> float:
    """Share of samples on which the student's most probable class is the teacher's."""
    student.eval()
    agreed = torch.zeros((), device=hardware.device)
    with torch.no_grad(), hardware.autocast():
        for inputs, logits in zip(
            torch.split(samples.inputs, batch_size), torch.split(samples.logits, batch_size), strict=True
        ):
            agreed += (student(inputs).argmax(dim=1) == logits.argmax(dim=1)).sum()
    return float(agreed) / len(samples)


def _save(path: Path, parts: dict[str, Any], epoch: int) -> None:
    state = {name: part.state_dict() for name, part in parts.items()} | {"epoch": epoch}
    with replacing(path) as temporary:
        torch.save(state, temporary)


def _restore(path: Path, parts: dict[str, Any]) -> int:
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return int(state["epoch"])
    except Exception as fault:
        raise DataError(
            f"the checkpoint {path} is damaged: {fault}", f"remove {path}; training starts again"
        ) from fault
