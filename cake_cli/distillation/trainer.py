"""Trains a student on inputs and the teacher's logits for them. Knows nothing of where they come from."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR

from cake_cli.config import LearningRateSchedule
from cake_cli.distillation import checkpoints
from cake_cli.distillation.averaging import Average
from cake_cli.distillation.feeding import Feed, Labelled
from cake_cli.distillation.fidelity import measure_agreement
from cake_cli.distillation.losses import Loss, with_true_labels
from cake_cli.distillation.optimizers import UpdateRule
from cake_cli.distillation.order import Order, share_of, shuffled, with_partners
from cake_cli.distillation.views import Views
from cake_cli.errors import DataError, RunError
from cake_cli.events import Stage
from cake_cli.hardware import Hardware

DIV_FACTOR = 25.0
FINAL_DIV_FACTOR = 1e4
RANKS_APART = 1_000_000_007
"""Between the seeds of two processes: as the epochs of a training lie one apart, they would meet those of others."""
LOOK_EVERY = 64
"""Steps between two looks at the loss, each of which waits for the device."""
TELL_SECONDS = 0.2
"""Between two words on progress: they cost as much as a step of a small student."""


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
    samples: Feed,
    *,
    heldout: Feed | None,
    loss: Loss,
    epochs: int,
    batch_size: int,
    rule: UpdateRule,
    seed: int,
    hardware: Hardware,
    stage: Stage,
    lr_schedule: LearningRateSchedule = "one-cycle",
    ema: float = 0.0,
    clip: float = 0.0,
    hard_weight: float = 0.0,
    class_weights: Tensor | None = None,
    views: Views | None = None,
    forward: Callable[[Tensor], Tensor] | None = None,
    rank: int = 0,
    world: int = 1,
    checkpoint: Path | None = None,
    start: Path | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> None:
    """Trains `student` in place; what counts is the last step, or the average of the weights at it.

    The order of samples in an epoch depends on (seed, epoch) only. A checkpoint holds the end of an epoch, and what
    was learned since is repeated from its first step: on the same device a resumed run ends bit for bit where
    an undisturbed one ends.

    Args:
        student: on the device; maps (N, *shape) to (N, K) logits.
        samples: to learn from.
        heldout: synthetic samples to measure fidelity on, or None.
        loss: of the student's logits against the teacher's.
        epochs: passes over `samples`.
        batch_size: samples of a step, over all processes; the last, smaller batch of an epoch is left out.
        rule: the optimizer and its peak learning rate.
        seed: of the order of samples and of dropout.
        hardware: where the student lies, and its precision.
        stage: told of progress, in epochs.
        lr_schedule: how the learning rate runs over all steps.
        ema: decay of the moving average of the weights that the student becomes; 0 for none.
        clip: largest norm of the gradient of all weights together, to which a longer one is shortened (Pascanu,
            Mikolov, Bengio 2013); 0 for no bound.
        hard_weight: lambda of Hinton's distillation, for samples with a true label.
        class_weights: (K,), on the device: what a sample counts for, by the teacher's most probable class; None for 1.
        views: changes of the samples, labelled by the teacher.
        forward: what stands for `student` in training steps: the same weights, compiled or shared between
            processes.
        rank: which of `world` processes this is.
        world: processes that learn together, each a part of every batch; `forward` averages their gradients.
        checkpoint: file to go on from where it exists, and to keep up to date.
        start: checkpoint of an earlier training of the same student, whose weights and average this one begins with;
            optimizer and schedule begin anew.
        on_epoch: called after each epoch.

    Raises:
        RunError: if the loss is not finite, with the step.
        DataError: if samples are not finite, or the checkpoint is damaged.
    """
    batch_size = min(batch_size, len(samples))
    steps = len(samples) // batch_size
    optimizer = rule.build(student)
    learner = _Learner(
        forward=student if forward is None else forward,
        loss=loss,
        hard_weight=hard_weight,
        class_weights=class_weights,
        optimizer=optimizer,
        schedule=_schedule(lr_schedule, optimizer, rule.lr, epochs * steps),
        scaler=torch.amp.GradScaler(hardware.device.type, enabled=hardware.precision == "fp16"),
        average=Average(student, ema) if ema else None,
        clip=clip,
        clipped=tuple(student.parameters()),
        hardware=hardware,
    )
    parts = learner.parts() | {"student": student}
    done = 0 if checkpoint is None else checkpoints.restore(checkpoint, parts)
    if done == 0 and start is not None:
        checkpoints.carry_on(start, {name: part for name, part in parts.items() if name in ("student", "average")})
    stage.advance(done)
    keeper = checkpoints.Keeper(checkpoint) if checkpoint is not None and rank == 0 else None
    for epoch in range(done, epochs):
        student.train()
        order, generator = _draw(samples, batch_size, (seed * 1_000_003 + epoch) % 2**63, views, hardware, rank, world)
        losses = torch.zeros(steps, device=hardware.device)
        looked = told = 0
        clock = time.monotonic()
        for step, given in enumerate(samples.batches(order), start=1):
            batch = given if views is None else views(given, generator)
            losses[step - 1] = learner.step(batch, share=len(batch) * world / batch_size)
            if step % LOOK_EVERY == 0 or step == steps:
                bad = _first_bad(losses[looked:step], world)
                if bad is not None:
                    raise _blame(samples, order, looked + bad, epoch, rule.lr, hardware)
                looked = step
            if step == steps or time.monotonic() - clock > TELL_SECONDS:
                stage.advance((step - told) / steps)
                told, clock = step, time.monotonic()
        chosen = student if learner.average is None else learner.average.student
        agreement = None if heldout is None else measure_agreement(chosen, heldout, hardware)
        figures = Epoch(epoch + 1, float(losses.mean()), agreement, learner.rate)
        stage.advance(0, loss=figures.loss, **({} if agreement is None else {"agree": f"{agreement:.1%}"}))
        on_epoch(figures)
        if keeper is not None:
            keeper.after_epoch(parts, epoch + 1, last=epoch + 1 == epochs)
    if learner.average is not None:
        student.load_state_dict(learner.average.student.state_dict())
    student.eval()


@dataclass(frozen=True)
class _Learner:
    """One step after the other."""

    forward: Callable[[Tensor], Tensor]
    loss: Loss
    hard_weight: float
    class_weights: Tensor | None
    optimizer: Optimizer
    schedule: LRScheduler
    scaler: torch.amp.GradScaler
    average: Average | None
    clip: float
    clipped: tuple[Tensor, ...]
    """All weights, whose gradient `clip` bounds."""
    hardware: Hardware

    def parts(self) -> dict[str, checkpoints.Stateful]:
        """What has a state."""
        parts: dict[str, checkpoints.Stateful] = {
            "optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler,
        }  # fmt: skip
        return parts if self.average is None else parts | {"average": self.average}

    @property
    def rate(self) -> float:
        """The learning rate now."""
        return float(self.schedule.get_last_lr()[0])

    def step(self, batch: Labelled, share: float) -> Tensor:
        """Learns a batch; `share` is its part of the mean over all processes. Returns the loss, a scalar."""
        with self.hardware.autocast():
            logits = self.forward(batch.inputs)
        losses = self.loss(logits.float(), batch.logits)  # (N,)
        if batch.labels is not None:
            losses = with_true_labels(losses, logits.float(), batch.labels, self.hard_weight)
        if self.class_weights is not None:
            losses = losses * self.class_weights[batch.logits.argmax(dim=1)]
        value = losses.mean() if share == 1 else losses.mean() * share
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(value).backward()  # type: ignore[no-untyped-call]
        if self.clip:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.clipped, self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.average is not None:
            self.average.update()
        return value.detach()


def _schedule(name: LearningRateSchedule, optimizer: Optimizer, lr: float, steps: int) -> LRScheduler:
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    if name == "constant":
        return ConstantLR(optimizer, factor=1.0)
    return OneCycleLR(
        optimizer,
        max_lr=lr,
        total_steps=steps + 1,
        div_factor=DIV_FACTOR,
        final_div_factor=FINAL_DIV_FACTOR,
        cycle_momentum=False,
    )


def _draw(
    samples: Feed, batch_size: int, seed: int, views: Views | None, hardware: Hardware, rank: int, world: int
) -> tuple[Order, torch.Generator]:
    """The order of an epoch, the same in every process, and the stream of what this process draws on the device."""
    own_seed = seed + rank * RANKS_APART
    torch.manual_seed(own_seed)
    generator = torch.Generator().manual_seed(seed)
    order = shuffled(len(samples), batch_size, samples.grain, generator)
    if views is not None and "mix" in views.names:
        order = with_partners(order, samples.group, samples.paired, generator)
    own = torch.Generator(hardware.device).manual_seed(own_seed + 1)
    return share_of(order, rank, world), own


def _first_bad(losses: Tensor, world: int) -> int | None:
    """The first of some losses (steps,) that is not finite; all processes find the same and stop together."""
    if world > 1:
        torch.distributed.all_reduce(losses)
        losses /= world
    bad = ~losses.isfinite()
    return int(bad.nonzero()[0]) if bool(bad.any()) else None


def _blame(samples: Feed, order: Order, step: int, epoch: int, lr: float, hardware: Hardware) -> Exception:
    """Why the loss was not finite: the samples of the step, or else the step."""
    rows = order.index[step * order.batch : (step + 1) * order.batch]
    batch = next(iter(samples.batches(Order(rows, (len(rows),), order.batch))))
    good = batch.inputs.flatten(1).isfinite().all(dim=1) & batch.logits.isfinite().all(dim=1)
    if not bool(good.all()):
        return DataError(
            f"{int((~good).sum())} of the {len(good)} samples of training step {step + 1} are not finite",
            "synthesize the bank again",
        )
    fix = f"--lr {lr / 5:g}" + ("" if hardware.precision == "fp32" else ", or --precision fp32")
    return RunError(f"the training loss is not finite at step {step + 1} of epoch {epoch + 1}", fix)
