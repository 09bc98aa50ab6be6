"""Every setting of a run: its name, its default, its meaning, and the faults it can have.

The line under each field is the help text of its flag and the comment in `config.toml`; defaults are
written here and nowhere else. Weights and step sizes are those of the method (Braun, Mundt, Kersting,
"Deep Classifier Mimicry without Data Access", AISTATS 2024) written per sample: see `SynthesisConfig`.
"""

from __future__ import annotations

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
from cake_cli.training_config import (
    BankMemory,
    Labels,
    LearningRateSchedule,
    LossName,
    OptimizerName,
    TrainingConfig,
    View,
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
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Plan = Literal["auto", "plain"]


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
            (0 < self.timeout <= 86_400, "timeout lies above 0, and is at most a day", "--set teacher.timeout=60"),
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
    """With held-out data, train the same student on as many starting points, labelled and not moved: the floor."""
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
