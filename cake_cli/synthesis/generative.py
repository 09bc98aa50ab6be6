"""Training a generator through the teacher, in steps that can be stopped and gone on with to the bit."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cake_cli.errors import DataError, RunError
from cake_cli.events import Stage
from cake_cli.hardware import Hardware
from cake_cli.models.classifier import Classifier
from cake_cli.storage import replacing
from cake_cli.synthesis.generator import Generator, draw_latents
from cake_cli.synthesis.health import COLLAPSED, EARLY_SAMPLES, evenness
from cake_cli.synthesis.noise import draw_labels, stream
from cake_cli.synthesis.objective import Objective
from cake_cli.synthesis.statistics import in_order, listening
from cake_cli.synthesis.terms import Candidates

CHECKPOINT_SECONDS = 20.0
LOOK_EVERY = 50
"""Updates between two looks at which classes the samples are of; the first is after half of all."""
UPDATES = "cake.generator.updates"
"""The one key of a checkpoint's metadata: safetensors writes several in any order, and files are to be equal."""


@dataclass(frozen=True)
class GeneratorTraining:
    """Everything that decides what a generator becomes.

    Each of `updates` draws one set: latents and labels from the stream of (seed, update), rows of distinct labels as
    in CAKE. So S sets of T steps cost the teacher as many passes as CAKE with them, whatever runs side by side.
    """

    teacher: Classifier
    objective: Objective
    """Cross-entropy and data priors."""
    rows: int
    """R, rows of a set."""
    groups: int
    """G."""
    updates: int
    """S · T."""
    lr: float
    """Learning rate of Adam."""
    seed: int
    hardware: Hardware
    rows_per_pass: int
    """Samples that go through generator and teacher together, a multiple of G, or of the set for terms that need it."""

    def run(self, generator: Generator, checkpoint: Path, stage: Stage) -> None:
        """Trains a generator in place, from its checkpoint if there is one, and leaves its weights there.

        Args:
            generator: untrained.
            checkpoint: a safetensors file: the weights and, until training is done, the state of Adam.
            stage: told of progress in updates.

        Raises:
            RunError: if the objective is not finite, with the update, or all samples are of one class when half of
                the updates are done.
            DataError: if the checkpoint is damaged.
            EnvironmentFault: if the disk is full.
        """
        optimizer = self.optimizer(generator)
        done = _load(checkpoint, generator.network, optimizer) if checkpoint.exists() else 0
        stage.advance(done)
        latest = torch.zeros((), device=self.hardware.device)
        first_bad = torch.full((), self.updates, device=self.hardware.device)
        histogram = torch.zeros(self.teacher.classes, device=self.hardware.device)
        saved = time.monotonic()
        for update in range(done, self.updates):
            loss, found = self.take(update, generator, optimizer)
            latest.copy_(loss)
            histogram += found
            first_bad.copy_(torch.where(loss.isfinite(), first_bad, first_bad.clamp_max(update)))
            stage.advance(1)
            if (update + 1) % LOOK_EVERY == 0:
                self._require_finite(first_bad)
                self._require_spread(histogram, update + 1)
                histogram.zero_()
            last = update + 1 == self.updates
            if last or time.monotonic() - saved >= CHECKPOINT_SECONDS:
                self._require_finite(first_bad)
                _save(checkpoint, generator.network, None if last else optimizer, update + 1)
                stage.advance(0, loss=float(latest))
                saved = time.monotonic()

    def optimizer(self, generator: Generator) -> torch.optim.Optimizer:
        """Adam on the network's weights."""
        return torch.optim.Adam(generator.network.parameters(), lr=self.lr)

    def take(self, update: int, generator: Generator, optimizer: torch.optim.Optimizer) -> tuple[Tensor, Tensor]:
        """One update; returns the mean objective of its set, (), and its samples by most probable class, (K,)."""
        draw = stream(self.seed, update, "generator-update")
        targets = draw_labels(self.rows, self.groups, self.teacher.classes, draw).flatten()  # (R, G) -> (B,)
        latents = draw_latents(len(targets), draw)  # (B, LATENT)
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.hardware.device)
        histogram = torch.zeros(self.teacher.classes, device=self.hardware.device)
        for part in torch.split(torch.arange(len(targets)), self.rows_per_pass):
            share, predicted = self._backward(generator, latents[part], targets[part], len(targets))
            total += share
            histogram.scatter_add_(0, predicted, torch.ones_like(predicted, dtype=histogram.dtype))
        optimizer.step()
        return total, histogram

    def _backward(self, generator: Generator, latents: Tensor, targets: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Adds a part's share of the gradient; returns its share of the mean objective, (), and its classes, (N,)."""
        device = self.hardware.device
        targets = targets.to(device)
        inputs = self.hardware.place_rows(generator(latents.to(device), targets))
        with listening(self.objective.layers) as heard, self.hardware.autocast():
            logits = self.teacher(inputs)
        values, _ = self.objective(
            Candidates(inputs, logits.float(), targets, self.groups, self.rows * self.groups, in_order(heard))
        )
        share = values.sum() / size
        torch.autograd.backward(share)
        return share.detach(), logits.argmax(dim=1)

    def _require_spread(self, histogram: Tensor, done: int) -> None:
        """Refuses to go on with a generator that makes one class, at half of its updates or later.

        Args:
            histogram: of the latest samples by most probable class, (K,).
            done: updates so far.
        """
        counts = [int(count) for count in histogram.tolist()] if 2 * done >= self.updates else []
        samples = sum(counts)
        if samples >= EARLY_SAMPLES and evenness(counts) < COLLAPSED:
            raise RunError(
                f"the generator has collapsed: after {done:,} of {self.updates:,} updates the teacher puts "
                f"{max(counts) / samples:.0%} of its samples in one of its {len(counts)} classes",
                "a smaller --set synthesis.tv_weight, or check --input-range, --mean and --std",
            )

    def _require_finite(self, first_bad: Tensor) -> None:
        found = int(first_bad)
        if found < self.updates:
            raise RunError(
                f"the generator's objective is not finite at update {found}",
                f"--set synthesis.generator_lr={self.lr / 10:.0e}, or --precision fp32 if it was not",
            )


def _save(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer | None, updates: int) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    if optimizer is not None:
        for index, kept in optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": tensor.cpu().contiguous() for name, tensor in kept.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={UPDATES: str(updates)})


def _load(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Reads what `_save` wrote, and returns the number of updates."""
    try:
        with safe_open(path, framework="pt") as file:
            updates = int((file.metadata() or {})[UPDATES])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        kept: dict[int, dict[str, Tensor]] = {}
        for name in [name for name in tensors if name.startswith("adam.")]:
            _, index, key = name.split(".")
            kept.setdefault(int(index), {})[key] = tensors.pop(name)
        network.load_state_dict(tensors)
        if kept:
            optimizer.load_state_dict(optimizer.state_dict() | {"state": kept})
        return updates
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as fault:
        raise DataError(f"the generator {path} is damaged: {fault}", "delete it, then `cake resume`") from fault
