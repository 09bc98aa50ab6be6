"""How a student learns: every setting of training, with its meaning and the faults it can have (see `config`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from cake_cli.synthesis_config import DEFAULT_SAMPLES, MOST_SAMPLES, require

Labels = Literal["soft", "hard"]
LossName = Literal["ce", "kl", "logits"]
View = Literal["mix", "shift", "flip", "noise"]
OptimizerName = Literal["auto", "sgd", "adamw"]
LearningRateSchedule = Literal["one-cycle", "cosine", "constant"]
BankMemory = Literal["auto", "device", "host", "disk"]
DEFAULT_EPOCHS = 30
MOST_EPOCHS = 1000
"""Passes beyond which the same few rows teach nothing more, unless they are asked for."""
MOST_ROUND_EPOCHS, MOST_TEMPERATURE = 1_000_000, 1_000_000
"""Of more nothing is known, and sums with them would not be finite."""
EXTRA_WORK = 0.5
"""What the student learns between rounds, as a share of what it learns after the last."""


@dataclass(frozen=True)
class TrainingConfig:
    """How the student learns from the bank."""

    epochs: int | None = None
    """Passes over all that is learned; by default 30 over a bank of 20000 samples or more, and otherwise so many that
    about as many rows are learned: more over fewer samples (1000 at most), fewer where noise and waypoints are learned
    beside; of images four times as often by mlp and linear, and twice by students of ten layers and more."""
    round_epochs: float | None = None
    """Passes over what there is after each round but the last: 0.5 is one over half of it, drawn at random, and 1.5 two
    over three quarters; by default so much that these trainings are half the work of --epochs, in equal parts."""
    replay: int | None = None
    """Most samples of the bank to learn from: those of the latest round, and an even choice of earlier rounds; all by
    default."""
    batch_size: int = 128
    """Samples of a training step."""
    student_optimizer: OptimizerName = "auto"
    """auto is adamw for students with layer normalisation (transformers, ConvNeXt), else sgd."""
    lr: float | None = None
    """Peak learning rate; without it 0.1 with sgd and 0.003 with adamw."""
    lr_schedule: LearningRateSchedule = "one-cycle"
    """How the learning rate runs: up and down (one-cycle), from the peak down to 0 (cosine), or constant."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float | None = None
    """Weight decay; without it 5e-4 with sgd and 0.01 with adamw."""
    clip: float = 1.0
    """Largest norm of a step's gradient, to which a longer one is shortened; 0 for no bound."""
    labels: Labels = "soft"
    """soft: the teacher's probabilities; hard: its most probable class."""
    loss: LossName = "ce"
    """Against the teacher: cross-entropy, KL divergence, or half the squared difference of logits."""
    class_balance: float = 0.0
    """How far classes that the teacher says rarely count for more: a sample counts as much as its class's share to the
    minus this power, so that 1 makes all classes count alike."""
    temperature: float = 1.0
    """Softens the teacher's and the student's probabilities in the loss, which is multiplied by its square."""
    ema: float = 0.0
    """Decay of a moving average of the student's weights, such as 0.999, which then is the student; 0 is without."""
    views: tuple[View, ...] = ()
    """Changes of synthetic samples, such as mix,shift, each of half of them, labelled as the student sees them."""
    noise_samples: int | None = None
    """Starting points that are only labelled by the teacher, not moved, to learn beside the bank; by default seven for
    each of its samples, 8 GiB at most, where it is made along the teacher's own gradient in rounds, or too small for
    them, else none."""
    chosen: float = 0.0
    """Share of those of a round, from the third on, that are chosen of four times as many, where the students of the
    last two rounds differ most."""
    waypoints: int | None = None
    """Points on the way of each sample, with the labels that its steps ask for anyway, to learn beside the bank; by
    default up to seven, 8 GiB at most, where it is made in rounds, or too small for them."""
    real_data: str | None = None
    """Real, labelled data to learn from, too (forms as for --data): the run is then NOT data-free."""
    real_split: str | None = None
    """Split of the real data to learn from; train by default, where there are several."""
    real_label_column: str | None = None
    """Column of the label in a table of real data; the last by default."""
    hard_weight: float | None = None
    """Lambda: weight of true labels on real data, 0.5 by default; the teacher's get 1 - lambda (Hinton et al. 2015)."""
    heldout_fraction: float = 0.05
    """Share of the synthetic samples that is never trained on, for measuring fidelity without real data."""
    min_step_size: float | None = None
    """Train only on samples made with at least this step size."""
    max_step_size: float | None = None
    """Train only on samples made with at most this step size."""
    bank_memory: BankMemory = "auto"
    """Where samples lie while the student learns; auto is the nearest that holds them."""

    @property
    def true_label_weight(self) -> float:
        """Lambda, given or not."""
        return 0.5 if self.hard_weight is None else self.hard_weight

    def epochs_over(self, samples: int, learned: int, *, often: int = 1) -> int:
        """Passes over so many learned rows, of which so many are samples of a bank (0 without one).

        A bank of fewer samples than the default's is learned as many times more often, so that its student takes as
        many steps: they cost the teacher nothing, and students of few samples agree more the more they learn them.
        With views, of which each row costs a label, steps fall with the root of its size.

        Args:
            samples: of the bank.
            learned: rows of an epoch.
            often: how many times as often this student learns as most.
        """
        if self.epochs is not None:
            return self.epochs
        if not samples:
            return DEFAULT_EPOCHS
        few = math.sqrt(samples * DEFAULT_SAMPLES) if self.views else DEFAULT_SAMPLES
        rows = DEFAULT_EPOCHS * max(samples, few) * often
        return min(MOST_EPOCHS, max(1, round(rows / max(learned, self.batch_size))))

    def epochs_between(self, rounds: int, epochs: int) -> tuple[float, ...]:
        """Passes over what there is after each of N rounds but the last: by default about as many rows each time.

        After round r there are r / N of the samples, so the first trainings, of few, take more passes, and the last
        ones, where an epoch is more than their part, a share of one.

        Args:
            rounds: N.
            epochs: passes over all samples after the last round.
        """
        if self.round_epochs is not None:
            return (self.round_epochs,) * (rounds - 1)
        share = EXTRA_WORK * epochs * rounds / max(1, rounds - 1)
        parts = (share / number for number in range(1, rounds))
        return tuple(part if part < 1 else round(part) for part in parts)

    def rows_learned(self, samples: int, epochs: int) -> int:
        """How many rows pass through the student, of so many samples: an epoch leaves out a last, smaller batch."""
        batch = min(self.batch_size, samples)
        return epochs * (samples // batch) * batch

    def __post_init__(self) -> None:
        require(
            (self.epochs is None or self.epochs > 0, "--epochs must be positive", "--epochs 30"),
            (
                self.round_epochs is None or 0 < self.round_epochs <= MOST_ROUND_EPOCHS,
                f"round_epochs lies above 0, and is at most {MOST_ROUND_EPOCHS:,}",
                "leave it out",
            ),
            ((self.noise_samples or 0) >= 0, "noise_samples cannot be negative", "--set training.noise_samples=0"),
            (
                (self.noise_samples or 0) <= MOST_SAMPLES,
                f"noise_samples is at most {MOST_SAMPLES:,}",
                "--set training.noise_samples=400000",
            ),
            (0 <= self.chosen < 1, "chosen lies in [0, 1)", "--set training.chosen=0.5"),
            ((self.waypoints or 0) >= 0, "waypoints cannot be negative", "--set training.waypoints=0"),
            (self.replay is None or self.replay > 0, "--replay must be positive", "leave it out to learn from all"),
            (self.batch_size > 1, "--batch-size must be at least 2", "--batch-size 128"),
            (self.lr is None or self.lr > 0, "--lr must be positive", "--lr 0.1"),
            (0 <= self.momentum < 1, "momentum lies in [0, 1)", "--set training.momentum=0.9"),
            (self.clip >= 0, "clip cannot be negative", "--set training.clip=1, or 0 for no bound"),
            ((self.weight_decay or 0) >= 0, "weight_decay cannot be negative", "--set training.weight_decay=5e-4"),
            (self.class_balance >= 0, "class_balance cannot be negative", "--set training.class_balance=1"),
            (
                0 < self.temperature <= MOST_TEMPERATURE,
                f"--temperature lies above 0, and is at most {MOST_TEMPERATURE:,}",
                "--temperature 4",
            ),
            (
                (self.min_step_size or 0) >= 0 and (self.min_step_size or 0) <= (self.max_step_size or math.inf),
                "min_step_size is not negative, and not above max_step_size",
                "--set training.min_step_size=0.01",
            ),
            (
                self.max_step_size is None or self.max_step_size > 0,
                "max_step_size must be positive",
                "--set training.max_step_size=0.1",
            ),
            (0 <= self.heldout_fraction <= 0.5, "heldout_fraction lies in [0, 0.5]", "0.05"),
            (0 <= self.ema < 1, "--ema lies in [0, 1)", "--ema 0.999"),
            (len(set(self.views)) == len(self.views), "--views names a view twice", "--views mix,shift,flip,noise"),
            (0 <= self.true_label_weight <= 1, "--lambda lies in [0, 1]", "--lambda 0.5"),
            (self.real_data is not None or self.hard_weight is None, "--lambda needs real data", "--real-data DATA"),
            (
                self.labels == "soft" or (self.loss == "ce" and not self.real_data),
                "hard labels are learned by cross-entropy, without real data",
                "--set training.labels=soft",
            ),
            (
                self.loss != "logits" or self.temperature == 1,
                "a temperature has no part in matching logits",
                "leave --temperature out, or --loss kl",
            ),
            (
                self.real_data is not None or (self.real_split is None and self.real_label_column is None),
                "real_split and real_label_column are of real data",
                "--real-data DATA",
            ),
        )
