"""From the settings of a synthesis and a teacher to what is minimised, where, and how: every choice in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

from cake_cli.config import OF_IMAGES, Noise, StepSchedule, SynthesisConfig
from cake_cli.errors import NoGradient, UsageError
from cake_cli.hardware import Hardware
from cake_cli.models.classifier import Classifier
from cake_cli.spec import InputSpec
from cake_cli.synthesis.contrastive import SoftNearestNeighbour, Triplet, contrastive_mse
from cake_cli.synthesis.engine import Engine, Passes
from cake_cli.synthesis.estimated import Estimator
from cake_cli.synthesis.generative import GeneratorTraining
from cake_cli.synthesis.generator import Generator, build_network
from cake_cli.synthesis.noise import step_size
from cake_cli.synthesis.objective import Objective, cake_objective
from cake_cli.synthesis.priors import IsotropicTotalVariation, MeanSquare, OutOfRange, Prior, TotalVariation
from cake_cli.synthesis.sets import SetPlan
from cake_cli.synthesis.space import Anywhere, Clamped, Space, Squashed, normalised_range
from cake_cli.synthesis.statistics import BatchNormStatistics, batchnorm_layers
from cake_cli.synthesis.terms import Term
from cake_cli.synthesis.update import Adam, Normalised, Sgd, Update

VALUES_PER_PASS = 1_500_000
"""Input values that go through the teacher together: 500 images of 3x32x32, ten of 3x224x224."""


def check_choices(settings: SynthesisConfig, spec: InputSpec, classes: int, plan: SetPlan) -> None:
    """Refuses choices that make no sense for a teacher of this input and so many classes.

    Raises:
        UsageError: with what does not fit and what would.
    """
    if not spec.is_image:
        if settings.way == "smooth-noise" or (settings.init in OF_IMAGES and not settings.only_labels):
            raise UsageError(
                "scenes and noise of many scales are for images; the input is a vector", "--method noise or init=normal"
            )
        if settings.tv_weight and settings.way in ("cake", "generative"):
            raise UsageError("total variation is for images; the input is a vector", "--set synthesis.tv_weight=0")
    if settings.only_labels:
        return
    first, _ = settings.step_sizes_for(images=spec.is_image)
    if settings.optimizer_for(images=spec.is_image) == "normalised" and 0 < settings.max_update < first:
        raise UsageError(
            f"normalised steps of {first:g} would all be shortened to max_update, {settings.max_update:g}",
            f"--set synthesis.max_update={first:g}, or 0 for no bound",
        )
    bounded = settings.bounds not in (None, "none")
    if (bounded or settings.range_weight > 0) and not spec.range_is_known:
        asking = "bounds" if bounded else "range_weight"
        raise UsageError(f"{asking} needs the range of the inputs, which is not known", "--input-range 0,1")
    compares = settings.way == "cake" and settings.contrastive != "mse" and settings.contrast > 0
    if compares and plan.set_size < classes:
        enough = plan.groups * -(-2 * classes // plan.groups)
        raise UsageError(
            f"{settings.contrastive} compares samples of a class, and a set of {plan.set_size} holds few of each of "
            f"{classes} classes",
            f"--set synthesis.set_size={enough}",
        )


def resolved(settings: SynthesisConfig, teacher: Classifier) -> SynthesisConfig:
    """The settings with a method: the one given, or cake, or what a teacher that gives outputs alone is asked for.

    Such a teacher is only asked for labels unless the settings say otherwise: at equal queries that beats gradients
    that are estimated from outputs, and samples that a student's gradient moves (examples/benchmarks/RESULTS.md).

    Raises:
        UsageError: if the settings limit queries, and the teacher has a gradient to follow.
    """
    moves = settings.gradients != "auto" or settings.rounds not in (None, 1)
    if settings.method is not None or teacher.no_gradient is None or moves:
        return replace(settings, method=settings.way)
    pictures = teacher.spec.is_image and settings.init in (None, *OF_IMAGES)
    return replace(settings, method="smooth-noise" if pictures else "noise")


def require_gradient(settings: SynthesisConfig, teacher: Classifier) -> None:
    """Refuses a teacher without a gradient, unless it is only asked.

    Raises:
        NoGradient: with why there is none, and how it can be a teacher all the same.
        UsageError: if its labels are to be followed, which move nowhere but on the boundary.
    """
    why, own = teacher.no_gradient, settings.gradients
    if why is None:
        return
    asked = "--method smooth-noise" if teacher.spec.is_image else "--method noise"
    if own == "exact" or (own == "auto" and not settings.only_labels):
        follows = f"--method {settings.way}" if settings.rounds in (None, 1) else f"--rounds {settings.rounds}"
        needs = "--gradients exact" if own == "exact" else follows
        ways = [teacher.instead or "give a model that has one", f"{asked}, which asks it for labels alone"]
        if teacher.output_kind != "labels" and settings.way != "generative":
            ways.insert(0, "--gradients estimated, which works it out from outputs alone")
        raise NoGradient(f"{teacher.name} has no gradient ({why}), and {needs} needs one", "; or ".join(ways))
    if own == "estimated" and teacher.output_kind == "labels" and not settings.only_labels and settings.directions:
        raise UsageError(
            f"{teacher.name} gives labels, which move nowhere but on the boundary: no gradient can be estimated",
            f"{asked}, which asks for labels alone; or a teacher that gives scores",
        )


def estimator_of(settings: SynthesisConfig, spec: InputSpec) -> Estimator | None:
    """How gradients are estimated; None where they are computed, or no steps are taken."""
    if settings.gradients != "estimated" or settings.only_labels:
        return None
    return Estimator(spec.shape, settings.directions, settings.smoothing, settings.frequencies if spec.is_image else 0)


def passes_of(settings: SynthesisConfig, spec: InputSpec, samples: int) -> Passes:
    """What so many samples cost the teacher, but for starting points that are drawn again."""
    steps = 0 if settings.only_labels else settings.steps
    estimator = estimator_of(settings, spec)
    if estimator is not None:
        return Passes(forward=samples * (estimator.queries * steps + 1))
    return Passes(forward=samples * (steps + 1), backward=samples * steps)


def within_queries(settings: SynthesisConfig, spec: InputSpec, set_size: int) -> SynthesisConfig:
    """The settings with as many samples, or steps, as `queries` pays for; as they are without such a limit.

    Args:
        settings: of the synthesis.
        spec: the teacher's input.
        set_size: B, of which samples are made.

    Raises:
        UsageError: if it does not even pay for one set, or one step.
    """
    budget = settings.queries
    if budget is None:
        return settings
    if settings.samples is None or settings.only_labels:
        each = passes_of(settings, spec, set_size).forward
        sets = budget // each
        if settings.samples is not None:
            sets = min(sets, -(-settings.samples // set_size))
        if not sets:
            fewer = "" if settings.only_labels else ", fewer --steps or --set synthesis.directions"
            raise UsageError(
                f"one set of {set_size} samples takes {each:,} queries, and --queries is {budget:,}",
                f"--queries {each}{fewer}, or a smaller --set synthesis.set_size",
            )
        return replace(settings, samples=sets * set_size)
    samples = -(-settings.samples // set_size) * set_size
    one = passes_of(replace(settings, steps=1), spec, samples).forward
    steps = min(settings.steps, (budget - samples) // (one - samples))
    if steps < 1:
        raise UsageError(
            f"{samples:,} samples of one step take {one:,} queries, and --queries is {budget:,}",
            f"--queries {one}, fewer --samples, or fewer --set synthesis.directions",
        )
    return replace(settings, steps=steps)


def objective_of(settings: SynthesisConfig, teacher: Classifier, hardware: Hardware) -> Objective:
    """What is minimised.

    `naive` is cross-entropy alone (the talk's first system); `generative` has the data priors and no contrast.

    Raises:
        UsageError: if the teacher has no BatchNorm statistics, and they were asked for.
    """
    spec = teacher.spec
    if settings.way == "naive" or settings.only_labels:
        return cake_objective(spec, cls=settings.cls_weight, contrastive=0.0, tv=0.0)
    priors: dict[str, tuple[float, Prior]] = {}
    if settings.l2_weight > 0:
        priors["l2"] = (settings.l2_weight, MeanSquare())
    if settings.range_weight > 0:
        priors["range"] = (settings.range_weight, OutOfRange(*normalised_range(spec, hardware.device)))
    statistics = None
    if settings.batchnorm_weight > 0:
        statistics = (settings.batchnorm_weight, BatchNormStatistics(batchnorm_layers(teacher)))
    return cake_objective(
        spec,
        cls=settings.cls_weight,
        contrastive=settings.contrast if settings.way == "cake" else 0.0,
        contrast=_contrast(settings),
        tv=settings.variation_weight,
        entropy=settings.entropy_weight,
        variation=IsotropicTotalVariation() if settings.tv == "isotropic" else TotalVariation(),
        priors=priors,
        statistics=statistics,
    )


def _contrast(settings: SynthesisConfig) -> Term:
    if settings.contrastive == "snn":
        return SoftNearestNeighbour(settings.snn_temperature)
    return Triplet(settings.triplet_margin) if settings.contrastive == "triplet" else contrastive_mse


def space_of(settings: SynthesisConfig, spec: InputSpec, hardware: Hardware) -> Space:
    """Where samples may lie."""
    bounds = settings.bounds or ("clamp" if spec.is_image and spec.range_is_known else "none")
    if bounds == "none" or settings.only_labels or settings.way == "generative":
        return Anywhere()
    low, high = normalised_range(spec, hardware.device)
    return Clamped(low, high) if bounds == "clamp" else Squashed(low, high)


UPDATES: dict[str, type[Sgd] | type[Normalised] | type[Adam]] = {"sgd": Sgd, "normalised": Normalised, "adam": Adam}


def update_of(settings: SynthesisConfig, spec: InputSpec) -> Update:
    """How a gradient moves a sample."""
    return UPDATES[settings.optimizer_for(images=spec.is_image)](settings.max_update)


def untrained_generator(settings: SynthesisConfig, teacher: Classifier, hardware: Hardware, seed: int) -> Generator:
    """The generator of `--method generative` before its first update."""
    network = hardware.place(build_network(teacher.spec, teacher.classes, seed))
    bounds = normalised_range(teacher.spec, hardware.device) if settings.bounds == "reparametrise" else None
    return Generator(network, teacher.classes, bounds)


def generator_training(settings: SynthesisConfig, engine: Engine) -> GeneratorTraining:
    """How the generator of `--method generative` is trained: one update for each step of each set."""
    return GeneratorTraining(
        teacher=engine.teacher,
        objective=engine.objective,
        rows=engine.plan.rows,
        groups=engine.plan.groups,
        updates=engine.plan.sets * settings.steps,
        lr=settings.generator_lr,
        seed=engine.seed,
        hardware=engine.hardware,
        rows_per_pass=engine.rows_per_pass,
    )


@dataclass(frozen=True)
class Falling(Sequence[float]):
    """The step sizes of all sets of a plan, each worked out when it is asked for: a long run has millions of sets."""

    plan: SetPlan
    first: float
    decades: float
    schedule: StepSchedule
    noise: Noise

    def __len__(self) -> int:
        return self.plan.sets

    @overload
    def __getitem__(self, index: int) -> float: ...
    @overload
    def __getitem__(self, index: slice) -> list[float]: ...
    def __getitem__(self, index: int | slice) -> float | list[float]:
        if isinstance(index, slice):
            return [self[each] for each in range(len(self))[index]]
        place, of = self.plan.place(range(len(self))[index])
        how = {"first": self.first, "decades": self.decades}
        return step_size(place, of, schedule=self.schedule, noise=self.noise, **how)


def build_engine(
    settings: SynthesisConfig, teacher: Classifier, plan: SetPlan, *, seed: int, hardware: Hardware
) -> Engine:
    """The engine that makes what `settings` ask for; `generative` still lacks its generator."""
    objective = objective_of(settings, teacher, hardware)
    first, decades = settings.step_sizes_for(images=teacher.spec.is_image)
    sizes = Falling(plan, first, decades, settings.schedule, settings.noise)
    estimator = estimator_of(settings, teacher.spec)
    unit = plan.set_size if objective.whole_sets or estimator is not None else plan.groups
    rows = max(1, VALUES_PER_PASS // (teacher.spec.values * unit)) * unit
    generative = settings.way == "generative"
    return Engine(
        teacher=teacher,
        objective=objective,
        plan=plan,
        step_sizes=sizes,
        steps=0 if settings.only_labels or generative else settings.steps,
        langevin=settings.noise in ("langevin", "both"),
        seed=seed,
        hardware=hardware,
        rows_per_pass=min(rows, plan.set_size * plan.at_once),
        init=settings.starting_points,
        update=update_of(settings, teacher.spec),
        space=space_of(settings, teacher.spec, hardware),
        redraws=settings.redraws,
        generator_steps=settings.steps if generative else 0,
        estimator=estimator,
    )


def baseline_engine(
    settings: SynthesisConfig, teacher: Classifier, plan: SetPlan, *, seed: int, hardware: Hardware
) -> Engine:
    """The engine of the floor: the starting points that `settings` ask for, labelled and not moved."""
    return replace(build_engine(settings, teacher, plan, seed=seed, hardware=hardware), steps=0, generator_steps=0)


def check_rounds(plan: SetPlan, *, student: bool) -> None:
    """Refuses rounds of nothing, and those that no student would be between."""
    if not plan.sets:
        raise UsageError("--rounds makes samples, and from real data alone none are made", "--samples 20000")
    if not student:
        raise UsageError(
            "rounds need a student that learns between them", "cake distill TEACHER --student cnn --rounds 4"
        )


def check_replay(most: int | None, plan: SetPlan) -> None:
    """Refuses a replay that does not even hold the samples of one round."""
    largest = max(map(len, plan.rounds_of_sets)) * plan.set_size
    if most is not None and most < largest:
        raise UsageError(f"--replay {most} is less than one round, which has {largest} samples", f"--replay {largest}")
