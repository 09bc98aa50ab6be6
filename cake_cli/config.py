"""Every setting of a run: its name, its default, its meaning, and the faults it can have.

The line under each field is the help text of its flag and the comment in `config.toml`; defaults are
written here and nowhere else. Weights and step sizes are those of the method (Braun, Mundt, Kersting,
"Deep Classifier Mimicry without Data Access", AISTATS 2024) written per sample: see `SynthesisConfig`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal

from cake_cli.catalog import ExportFormat
from cake_cli.synthesis_config import (
    CONTRASTIVE_WEIGHTS,
    DEFAULT_SAMPLES,
    LABELLED_ONLY,
    OF_IMAGES,
    TV_WEIGHT,
    BankFormat,
    Bounds,
    Contrastive,
    Gradients,
    Init,
    Method,
    Noise,
    Optimizer,
    StepSchedule,
    SynthesisConfig,
    Variation,
    parse_duration,
    require,
)

__all__ = [
    "CONTRASTIVE_WEIGHTS",
    "DEFAULT_SAMPLES",
    "LABELLED_ONLY",
    "OF_IMAGES",
    "TV_WEIGHT",
    "BankFormat",
    "BankMemory",
    "Bounds",
    "Config",
    "Contrastive",
    "EvaluationConfig",
    "Gradients",
    "HardwareConfig",
    "Init",
    "Labels",
    "LearningRateSchedule",
    "LossName",
    "Method",
    "Noise",
    "Optimizer",
    "OptimizerName",
    "Outputs",
    "Plan",
    "Precision",
    "StepSchedule",
    "StudentConfig",
    "SynthesisConfig",
    "TeacherConfig",
    "TrainingConfig",
    "Variation",
    "View",
    "parse_duration",
]

Outputs = Literal["auto", "logits", "log-probs", "probs", "labels"]
Labels = Literal["soft", "hard"]
LossName = Literal["ce", "kl", "logits"]
View = Literal["mix", "shift", "flip", "noise"]
OptimizerName = Literal["auto", "sgd", "adamw"]
LearningRateSchedule = Literal["one-cycle", "cosine", "constant"]
BankMemory = Literal["auto", "device", "host", "disk"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Plan = Literal["auto", "plain"]
DEFAULT_EPOCHS = 30
MOST_EPOCHS = 1000
"""Passes beyond which the same few rows teach nothing more, unless they are asked for."""
EXTRA_WORK = 0.5
"""What the student learns between rounds, as a share of what it learns after the last."""


@dataclass(frozen=True)
class TeacherConfig:
    """The model file that is to be copied, and what it does not say of itself."""

    file: str | None = None
    """The model: a file, a folder in the Hugging Face layout, FILE.py:FUNCTION, or the address of an endpoint that
    answers JSON over HTTP. The code of FILE.py and the graph of TorchScript are run; all else is opened as data."""
    arch: str | None = None
    """Architecture of weights: torchvision's, of `cake students`, timm:NAME, or FILE.py:FUNCTION, whose code is run."""
    classes: int | None = None
    """Number of classes, where weights do not say it; otherwise it is checked."""
    trust: bool = False
    """Open a torch.export file (.pt2), although loading one can run a pickle, that is any code, hidden in it."""
    input_shape: tuple[int, ...] | None = None
    """One input without the batch: C,H,W or D. Needed where the file leaves a size open."""
    mean: tuple[float, ...] | None = None
    """Mean that inputs were normalised with outside the file, a value for each channel."""
    std: tuple[float, ...] | None = None
    """Standard deviation that inputs were normalised with outside the file."""
    input_range: tuple[float, ...] | None = None
    """Lowest and highest raw value, such as 0,255 for a file that takes bytes."""
    outputs: Outputs = "auto"
    """What the file's output is; auto reads it from the graph; labels uses the most probable class alone."""
    output: str | None = None
    """Name of the output to use, where the file has several."""
    token_env: str | None = None
    """Name of the environment variable that holds an endpoint's token, sent as Authorization: Bearer, or a whole
    header, NAME: VALUE. The token itself is never written down."""
    request_rows: int | None = None
    """Rows of one request to an endpoint; by default as many as make about half a megabyte."""
    timeout: float = 60.0
    """Seconds that one answer of an endpoint may take."""
    retries: int = 5
    """How often a request is sent again where the endpoint is busy or does not answer."""
    verify: bool = True
    """Check batches, row independence, gradients and agreement with onnxruntime on load."""

    def __post_init__(self) -> None:
        bounds = self.input_range
        require(
            (self.classes is None or self.classes >= 2, "--classes is at least 2", "--classes 10"),
            (
                bounds is None or (len(bounds) == 2 and bounds[0] < bounds[1]),
                "--input-range takes a low and a high number",
                "--input-range 0,255",
            ),
            ((self.mean is None) == (self.std is None), "--mean and --std belong together", "give both"),
            (self.request_rows is None or self.request_rows > 0, "request_rows must be positive", "leave it out"),
            (self.timeout > 0, "timeout must be positive", "--set teacher.timeout=60"),
            (self.retries >= 0, "retries cannot be negative", "--set teacher.retries=5"),
            (
                self.token_env is None or re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.token_env) is not None,
                "--token-env takes the name of an environment variable, not the token",
                "export CAKE_TOKEN=..., and --token-env CAKE_TOKEN",
            ),
        )


@dataclass(frozen=True)
class StudentConfig:
    """The network that learns."""

    architecture: str | None = None
    """A name of `cake students`, timm:NAME, FILE.py:FUNCTION (its code is run), a student's file, or same. Can be
    repeated: several learn from one bank."""
    others: tuple[str, ...] = ()
    """Further students that learn from the same bank, each in a folder of its own below students."""
    weights: str | None = None
    """Weights that the student starts from: a safetensors file or a student of cake; all of them must fit."""
    export: tuple[ExportFormat, ...] = ()
    """Files to write beside the student: onnx, torchscript, pt2. Can be repeated."""

    def __post_init__(self) -> None:
        names = (self.architecture, *self.others)
        require(
            ("safetensors" not in self.export, "the student is a safetensors file already", "--export onnx"),
            (len(set(names)) == len(names), "--student names a student twice", "name each once"),
            (self.architecture is not None or not self.others, "others need a first student", "--student NAME"),
        )


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
            (self.round_epochs is None or self.round_epochs > 0, "round_epochs must be positive", "leave it out"),
            ((self.noise_samples or 0) >= 0, "noise_samples cannot be negative", "--set training.noise_samples=0"),
            ((self.waypoints or 0) >= 0, "waypoints cannot be negative", "--set training.waypoints=0"),
            (self.replay is None or self.replay > 0, "--replay must be positive", "leave it out to learn from all"),
            (self.batch_size > 1, "--batch-size must be at least 2", "--batch-size 128"),
            (self.lr is None or self.lr > 0, "--lr must be positive", "--lr 0.1"),
            (0 <= self.momentum < 1, "momentum lies in [0, 1)", "--set training.momentum=0.9"),
            (self.clip >= 0, "clip cannot be negative", "--set training.clip=1, or 0 for no bound"),
            ((self.weight_decay or 0) >= 0, "weight_decay cannot be negative", "--set training.weight_decay=5e-4"),
            (self.class_balance >= 0, "class_balance cannot be negative", "--set training.class_balance=1"),
            (self.temperature > 0, "--temperature must be positive", "--temperature 4"),
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


@dataclass(frozen=True)
class EvaluationConfig:
    """What real data, if any, the result is measured on. It never trains and never selects."""

    data: str | None = None
    """Held-out data: a folder of images, .npz, IDX, .csv, .parquet, or a torchvision name."""
    split: str | None = None
    """Split of the held-out data, such as test or val."""
    label_column: str | None = None
    """Column of the label in a table; the last by default."""
    class_map: str | None = None
    """Which class of the data is which of the model: cat=tabby,dog=0, or a file with one such pair a line, or JSON."""
    strict: bool = False
    """Stop at an image that cannot be read, instead of leaving it out."""
    data_root: str | None = None
    """Folder of torchvision data sets."""
    download: bool = False
    """Allow a torchvision data set to be downloaded."""
    baseline: bool = True
    """Train the same student on as many starting points, labelled by the teacher but not moved: the floor."""
    report: bool = True
    """Write report.html and its pictures."""
    min_agreement: float | None = None
    """Exit with code 7 when student and teacher agree less than this on the held-out data."""

    def __post_init__(self) -> None:
        gate = self.min_agreement
        require(
            (gate is None or 0 <= gate <= 1, "--min-agreement lies in [0, 1]", "--min-agreement 0.95"),
            (gate is None or self.data is not None, "--min-agreement needs held-out data", "--data FOLDER"),
        )


@dataclass(frozen=True)
class HardwareConfig:
    """Where and how it is computed."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Precision = "auto"
    """Arithmetic of teacher and student passes; auto is bf16 on CUDA devices that have it, else fp32, except that a
    probe before a long synthesis may choose bf16 for its steps on a processor that has it."""
    deterministic: bool = False
    """Deterministic kernels, where torch has them (it warns of what has none), for equal results on equal CUDA devices.
    Takes the plain plan."""
    plan: Plan = "auto"
    """How steps are computed. auto: before a long run, times layouts, sizes, precisions, threads, CUDA graphs and
    torch.compile, and takes the fastest that agrees; plain: does not."""


@dataclass(frozen=True)
class Config:
    """One run, whole. The order of precedence is defaults, recipe, file, --set, flags."""

    seed: int = 0
    """Seed of every random draw."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)

    def __post_init__(self) -> None:
        bank, data = self.synthesis.bank, self.training.real_data
        require(
            (0 <= self.seed < 2**63, "--seed lies in [0, 2^63)", "--seed 0"),
            (
                self.synthesis.rounds in (None, 1) or bank is None,
                "--rounds makes a bank, and --bank names one that is there",
                "leave one of them out",
            ),
            (
                self.synthesis.samples != 0 or bank is not None or data is not None,
                "--samples 0 leaves nothing to learn from",
                "--real-data DATA, or --samples 20000",
            ),
        )

    @property
    def real_alone(self) -> bool:
        """Whether the student learns from real data alone: Hinton's distillation, as it was."""
        made = self.synthesis.samples or (self.synthesis.samples is None and self.synthesis.time_budget is not None)
        return self.training.real_data is not None and self.synthesis.bank is None and not made
