"""The settings of synthesis: what is asked of samples, and how they are made.

`cake_cli.config`, of which this is a part, says how settings are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from cake_cli.errors import UsageError

Method = Literal["cake", "naive", "generative", "noise", "smooth-noise"]
LABELLED_ONLY = ("noise", "smooth-noise")
"""Methods that take no steps."""
Contrastive = Literal["mse", "snn", "triplet"]
CONTRASTIVE_WEIGHTS = {"mse": 2.0, "snn": 15.0, "triplet": 1.5}
"""Weight of each contrastive term where none is given. That of `mse` is the reference's for SVHN and CIFAR; the others
pull on the logits of ten classes, N(6 · target, 9), as strongly in the mean: found without data."""
Variation = Literal["anisotropic", "isotropic"]
TV_WEIGHT = 200.0
"""Weight of total variation where none is given: the reference's for SVHN and CIFAR."""
TV_WEIGHT_OF_GENERATOR = 2.0
"""That of a generator, which is trained until nothing changes: with the weight of samples, whose walks end long before,
flat grey costs less than any class, and all that it makes is that."""
Init = Literal["normal", "uniform", "smooth", "exposed", "scenes"]
OF_IMAGES: tuple[Init, ...] = ("scenes", "exposed", "smooth")
"""Starting points that only images have; the first is the default."""
StepSchedule = Literal["linear", "cosine"]
Noise = Literal["implicit", "langevin", "both", "none"]
Optimizer = Literal["sgd", "normalised", "adam"]
Bounds = Literal["none", "clamp", "reparametrise"]
BankFormat = Literal["safetensors", "npz", "png"]
Gradients = Literal["auto", "exact", "estimated"]

DEFAULT_SAMPLES = 20_000
STEP_SIZES = {"sgd": (0.1, 4.0), "normalised": (0.3, 0.5), "adam": (0.1, 2.0)}
"""Of each optimizer, where none is given: the step size of the first set, and the powers of ten that it falls."""
_DURATION = re.compile(r"(?=\d)(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?")


def parse_duration(text: str) -> float:
    """Seconds of a text such as ``90s``, ``20m`` or ``1h30m``.

    Raises:
        UsageError: if it is none, or nothing.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    if not (total := 3600 * hours + 60 * minutes + seconds):
        raise UsageError(f"{text!r} is no duration", "--time-budget 90s, 20m or 1h30m")
    return float(total)


def require(*rules: tuple[bool, str, str]) -> None:
    """Holds (condition, what is wrong otherwise, what to try) rules, and reports all that are broken.

    Raises:
        UsageError: if any is.
    """
    broken = [(what, fix) for condition, what, fix in rules if not condition]
    if len(broken) == 1:
        raise UsageError(*broken[0])
    if broken:
        raise UsageError("; ".join(what for what, _ in broken), "; ".join(fix for _, fix in broken))


MOST_SAMPLES = 10**9
"""Beyond it the plan alone would not fit into memory."""


@dataclass(frozen=True)
class SynthesisConfig:
    """How samples are made from the teacher.

    The objective of one sample i of a row with G samples is
    ``cls · CE(f(x_i), y_i) + contrastive · mean_k (f_k(x_i) - row mean)² + tv · TV(x_i)``, with the paper's
    contrastive term, summed over samples: neither the set size nor the number of sets side by side changes it. The
    reference takes means over a set of B samples; its weights (cls, contr, tv) are
    (cls · B / G, contrastive · B / G², tv · B) in these terms. The defaults are the reference's preset for
    SVHN and CIFAR, but for images: samples start from scenes instead of N(0, I), move by steps of a given length,
    because plain SGD with these weights diverges on teachers with steep logits and hardly moves on others, and
    stay within the range of inputs. Of vectors, a step that would move a sample too far is shortened (`max_update`).
    """

    method: Method | None = None
    """cake: contrastive pairs along the boundary; naive: cross-entropy only, without contrast and prior; generative: a
    generator trained through the teacher, of which all samples are drawn; noise, smooth-noise: starting points that are
    only labelled, N(0, I) or those of synthesis.init. By default cake, or what asks for labels alone of a teacher that
    gives outputs alone: smooth-noise, of vectors noise."""
    samples: int | None = None
    """How many samples to make, rounded up to whole sets; by default 20000, or what fits into --time-budget; with
    --real-data none (0)."""
    time_budget: str | None = None
    """How long synthesis may take, such as 90s, 20m or 1h30m: so many samples are made as fit, at most --samples."""
    rounds: int | None = None
    """In how many rounds samples are made: after each but the last the student learns from those so far, and the next
    are drawn to where it differs from the teacher. By default 8, or as many as have five sets each, for cake where a
    student learns; 1 is the paper."""
    disagreement: float = 2.0
    """From the second round on, weight of the L1 distance between teacher's and student's probabilities, as a multiple
    of cls_weight; 0 for none."""
    curriculum: bool = False
    """From easy to hard: that weight rises from round to round, in equal steps, and is whole in the last."""
    formats: tuple[BankFormat, ...] = ("safetensors",)
    """Copies of the finished bank beside its safetensors shards: npz, or png, a folder of images for each class."""
    steps: int = 8
    """Gradient steps on each sample; with --method generative, updates of the generator for each set."""
    gradients: Gradients = "auto"
    """auto: the teacher's own, and a teacher without any is only asked for labels; exact: a teacher without any is
    refused; estimated: from its outputs alone, by differences along random directions."""
    directions: int = 10
    """Random directions of each estimated gradient; each takes two queries, and a step one more. 0: the teacher's part
    of the gradient is left out."""
    smoothing: float = 0.1
    """How far an estimate looks along a direction: root mean square over an input's normalised values."""
    frequencies: int = 8
    """Of images, how many of the lowest frequencies along each axis the directions are made of; 0 for all."""
    queries: int | None = None
    """Most queries of synthesis, rows that the teacher is asked, labels included. Without --samples as many samples
    are made as that pays for; with it, fewer --steps are taken."""
    init: Init | None = None
    """Starting points. scenes, the default of images: within the range of inputs a third each of exposed noise, of
    shapes that hide each other, and of lines; exposed: noise of many scales, brightnesses and contrasts; smooth: noise
    of many scales and variance one; normal: N(0, I), the paper's and the default of vectors; uniform."""
    set_size: int | None = None
    """Samples of a set, which share a step size; about 100 by default, a multiple of --groups."""
    groups: int | None = None
    """Samples of a row, all of different classes; by default 10, or the number of classes."""
    bank: str | None = None
    """A bank that exists already: nothing is synthesized, the student learns from it."""
    cls_weight: float = 20.0
    """Weight of the cross-entropy to the target label."""
    contrastive: Contrastive = "mse"
    """What draws samples of different classes together: mse of a row's logits, as in the paper; snn, inverse soft
    nearest neighbours in a set; triplet, a row nearer than samples of the same class."""
    contrastive_weight: float | None = None
    """Weight of the contrastive term; by default 2 for mse, 15 for snn, 1.5 for triplet."""
    snn_temperature: float = 0.1
    """Temperature of snn, as a multiple of the mean squared distance between the logits of a set."""
    triplet_margin: float = 1.0
    """Margin of triplet, in squared logits."""
    entropy_weight: float = 0.0
    """Weight of minus the entropy of a set's mean prediction: it pulls towards as many samples of each class."""
    tv_weight: float | None = None
    """Weight of total variation, the data prior of images: 200 by default, 2 of a generator. Vectors have none."""
    tv: Variation = "anisotropic"
    """Total variation along the axes, as in the reference, or isotropic."""
    l2_weight: float = 0.0
    """Weight of the mean square of an input's normalised values, a data prior."""
    range_weight: float = 0.0
    """Weight of the mean square of what lies outside the known range of inputs, a data prior."""
    batchnorm_weight: float = 0.0
    """Weight of the distance to the statistics of the teacher's BatchNorm layers. Outside the strict contract: it reads
    activations, and numbers that were computed from the training data."""
    step_size: float | None = None
    """Step size of the first set; by default 0.1, and 0.3 with normalised."""
    step_size_decades: float | None = None
    """How many powers of ten the step size falls over the sets; by default 4 with sgd, 2 with adam, 0.5
    with normalised."""
    max_update: float = 0.3
    """Largest root mean square change of a sample in one step, in normalised units; 0 for no bound."""
    schedule: StepSchedule = "linear"
    """How the step size falls from set to set, in its logarithm."""
    noise: Noise = "implicit"
    """What disperses samples: implicit, a step size that falls from set to set; langevin, sqrt(2 * step size) * N(0, I)
    added after each step, the step size being the middle one of that fall for all sets; both; or none."""
    optimizer: Optimizer | None = None
    """How a gradient moves a sample: sgd, plain gradient descent as in the paper; normalised, by the step size whatever
    the length of the gradient; or adam. By default normalised for images without Langevin noise, else sgd."""
    bounds: Bounds | None = None
    """Keep samples within the known range of inputs: clamp after each step, reparametrise by tanh, or none. By default
    clamp for images whose range is known."""
    redraws: int = 8
    """How often a starting point at which the teacher has no gradient is drawn again."""
    generator_lr: float = 1e-3
    """Learning rate of the generator of --method generative."""
    sets_at_once: int | None = None
    """Sets synthesized side by side, and stored in one shard; chosen for this machine by default."""

    @property
    def budget_seconds(self) -> float | None:
        """The time budget in seconds, if there is one."""
        return None if self.time_budget is None else parse_duration(self.time_budget)

    def __post_init__(self) -> None:
        _ = self.budget_seconds
        require(
            (self.samples is None or self.samples >= 0, "--samples cannot be negative", "--samples 20000"),
            (
                self.samples is None or self.samples <= MOST_SAMPLES,
                f"--samples is at most {MOST_SAMPLES:,}",
                "--samples 20000",
            ),
            (self.steps >= 0, "--steps cannot be negative", "--steps 8"),
            (self.only_labels or self.steps > 0, "--steps 0 makes noise", "--method noise or smooth-noise"),
            (self.directions >= 0, "directions cannot be negative", "--set synthesis.directions=10"),
            (self.smoothing > 0, "smoothing must be positive", "--set synthesis.smoothing=0.1"),
            (self.frequencies >= 0, "frequencies cannot be negative", "--set synthesis.frequencies=8"),
            (self.queries is None or self.queries > 0, "--queries must be positive", "--queries 100000"),
            (
                self.queries is None or self.method is None or self.only_labels or self.gradients == "estimated",
                "--queries limits what a teacher is asked for outputs alone, and this run asks for gradients",
                "--gradients estimated, --method smooth-noise, or leave --queries out",
            ),
            (self.rounds is None or self.rounds > 0, "--rounds must be positive", "--rounds 4"),
            (self.disagreement >= 0, "--disagreement cannot be negative", "--disagreement 2, or 0 for none"),
            (
                not self.curriculum or (self.rounds != 1 and self.disagreement > 0),
                "a curriculum lets the disagreement rise from round to round, and there is none",
                "--rounds 8 and a positive --disagreement, or --set synthesis.curriculum=false",
            ),
            (
                self.rounds in (None, 1) or self.way in ("cake", "naive"),
                f"--method {self.way} draws no samples to where a student differs, so it has no rounds",
                "--rounds 1, or --method cake",
            ),
            (
                self.step_size is None or self.step_size > 0,
                "step_size must be positive",
                "--set synthesis.step_size=0.1",
            ),
            (self.max_update >= 0, "max_update cannot be negative", "--set synthesis.max_update=0.3"),
            ((self.step_size_decades or 0) >= 0, "step_size_decades cannot be negative", "--set step_size_decades=4"),
            *(
                (weight >= 0, f"{name} cannot be negative", f"--set synthesis.{name}=0 switches it off")
                for name, weight in self._weights.items()
            ),
            (self.snn_temperature > 0, "snn_temperature must be positive", "--set synthesis.snn_temperature=0.1"),
            (self.triplet_margin >= 0, "triplet_margin cannot be negative", "--set synthesis.triplet_margin=1"),
            (self.redraws >= 0, "redraws cannot be negative", "--set synthesis.redraws=8"),
            (self.generator_lr > 0, "generator_lr must be positive", "--set synthesis.generator_lr=1e-3"),
            (self.groups is None or self.groups > 0, "groups must be positive", "--set synthesis.groups=10"),
            (self.set_size is None or self.set_size > 0, "set_size must be positive", "--set synthesis.set_size=100"),
            (
                not self.set_size or not self.groups or self.set_size % self.groups == 0,
                f"a set of {self.set_size} samples cannot be cut into rows of {self.groups}",
                "make set_size a multiple of groups",
            ),
            (self.sets_at_once is None or self.sets_at_once > 0, "sets_at_once must be positive", "leave it out"),
            *self._choices_that_fit(),
        )

    def _choices_that_fit(self) -> Iterator[tuple[bool, str, str]]:
        """What the choices among methods, terms and noise ask of each other."""
        method = self.way
        if method in LABELLED_ONLY:
            own = ("normal",) if method == "noise" else OF_IMAGES
            fix = f"--set synthesis.init={own[0]}"
            yield self.init in (None, *own), f"--method {method} labels {' or '.join(own)} starts, not {self.init}", fix
            return
        if method == "cake":
            pairs = self.groups != 1 or self.contrastive_weight == 0
            yield pairs, "a row of one sample has no pairs to contrast", "groups=2 or more, or contrastive_weight=0"
            alone = self.contrastive != "mse" and self.set_size is not None and self.set_size == self.groups
            yield (
                not alone or self.contrastive_weight == 0,
                f"{self.contrastive} compares samples of a class, and a set of one row has no two of a class",
                "make set_size twice groups or more",
            )
        priors = max(self.entropy_weight, self.l2_weight, self.range_weight, self.batchnorm_weight)
        yield (
            method != "naive" or priors == 0,
            "--method naive is cross-entropy alone, without priors",
            "--method cake --set synthesis.contrastive_weight=0",
        )
        asks = self.cls_weight > 0 or (method == "cake" and self.contrast > 0)
        yield asks, f"--method {method} with these weights asks nothing of the teacher", "a positive cls_weight"
        yield (
            self.optimizer != "normalised" or self.noise in ("implicit", "none"),
            "Langevin noise is as large as the gradient says, which normalised steps do not heed",
            "--set synthesis.optimizer=sgd",
        )
        if self.gradients == "estimated":
            yield (
                method != "generative",
                "--method generative learns through the teacher's own gradient, which cannot be estimated",
                "--method cake",
            )
            yield (
                self.batchnorm_weight == 0,
                "a gradient that is estimated from outputs alone knows no BatchNorm layers",
                "--set synthesis.batchnorm_weight=0",
            )
        if method == "generative":
            yield (
                self.noise == "implicit" and self.optimizer in (None, "sgd"),
                "--method generative takes no steps on samples, so it has no noise and no optimizer for them",
                "leave noise and optimizer out",
            )
            yield (
                self.bounds != "clamp",
                "a generator cannot learn where its output is clamped",
                "--set synthesis.bounds=reparametrise",
            )

    @property
    def way(self) -> Method:
        """The method, given or not, of a teacher that has a gradient; see `cake_cli.methods.resolved` for others."""
        return self.method or "cake"

    @property
    def only_labels(self) -> bool:
        """Whether the method takes no steps."""
        return self.method in LABELLED_ONLY

    @property
    def disagreement_weight(self) -> float:
        """The whole weight of the disagreement in the objective, for each sample."""
        return self.disagreement * self.cls_weight

    def disagreement_in(self, number: int, rounds: int) -> float:
        """The weight of the disagreement in the objective of a round, from 1, of so many.

        With `curriculum` from easy to hard, as Li et al. ("Dynamic Data-Free Knowledge Distillation by Easy-to-Hard
        Learning Strategy", Information Sciences 2023) let an adversarial term grow.
        """
        if number == 1:
            return 0.0
        return self.disagreement_weight * ((number - 1) / (rounds - 1) if self.curriculum else 1)

    @property
    def contrast(self) -> float:
        """The weight of the contrastive term, given or not."""
        return CONTRASTIVE_WEIGHTS[self.contrastive] if self.contrastive_weight is None else self.contrastive_weight

    @property
    def variation_weight(self) -> float:
        """The weight of total variation of images, given or not."""
        if self.tv_weight is not None:
            return self.tv_weight
        return TV_WEIGHT_OF_GENERATOR if self.way == "generative" else TV_WEIGHT

    @property
    def starting_points(self) -> Init:
        """The kind of starting points, given or not."""
        if self.method == "noise":
            return "normal"
        return self.init or "scenes"

    def optimizer_for(self, *, images: bool) -> Optimizer:
        """How a gradient moves samples of images, or of vectors: given or not."""
        if self.optimizer is not None:
            return self.optimizer
        moves = images and self.way in ("cake", "naive") and self.noise in ("implicit", "none")
        return "normalised" if moves else "sgd"

    def step_sizes_for(self, *, images: bool) -> tuple[float, float]:
        """The step size of the first set and the powers of ten that it falls: given or not."""
        first, decades = STEP_SIZES[self.optimizer_for(images=images)]
        return (
            first if self.step_size is None else self.step_size,
            decades if self.step_size_decades is None else self.step_size_decades,
        )

    def unused_beside(self, made: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of settings that have no part in a bank that is there, and are neither defaults nor what made it.

        Args:
            made: the settings of the bank, as its manifest has them.
        """
        own = {"bank", "init", "bounds", "rounds"}  # starting points beside it are drawn; rounds are refused
        own |= {"method"} if self.only_labels else set()  # which decides what those are

        def plain(value: object) -> object:
            return list(value) if isinstance(value, tuple) else value

        given = {known.name: getattr(self, known.name) for known in fields(self) if known.name not in own}
        defaults = {known.name: known.default for known in fields(self)}
        return tuple(
            name
            for name, value in given.items()
            if value != defaults[name] and (name not in made or plain(value) != plain(made[name]))
        )

    @property
    def outside_contract(self) -> tuple[str, ...]:
        """What is used of the teacher beyond its outputs and their gradient in the input."""
        return ("BatchNorm statistics",) if self.batchnorm_weight > 0 and not self.only_labels else ()

    @property
    def _weights(self) -> dict[str, float]:
        """Those of the objective's terms that are given or have a default here, by their names."""
        names = ("cls_weight", "contrastive_weight", "entropy_weight", "tv_weight", "l2_weight", "range_weight")
        weights = {name: getattr(self, name) for name in (*names, "batchnorm_weight")}
        return {name: weight for name, weight in weights.items() if weight is not None}
