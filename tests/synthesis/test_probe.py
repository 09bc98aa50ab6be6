"""The probe's choices, with speeds that are given and steps that are really taken."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from cake_cli.hardware import Hardware
from cake_cli.models.architectures.plain import lenet
from cake_cli.models.classifier import Classifier
from cake_cli.spec import InputSpec
from cake_cli.synthesis import probe as probing
from cake_cli.synthesis.engine import Engine
from cake_cli.synthesis.objective import cake_objective
from cake_cli.synthesis.probe import Choice, probe
from cake_cli.synthesis.space import Anywhere, Space, Squashed
from cake_cli.synthesis.step import Walk
from cake_cli.synthesis.step_plan import StepPlan
from tests.synthesis.test_engine import make_engine

Speeds = Callable[[StepPlan], float]
"""Seconds that a row takes."""


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[[Speeds], None]:
    """Has steps taken as they are, and timed as given."""

    def give(speeds: Speeds) -> None:
        def timed(self: probing._Trials, engine: Engine, walk: Walk, steps: int) -> float:
            engine.teacher.on(engine.hardware)
            engine.step(engine.step.adopt(walk))
            return speeds(engine.step_plan) * len(walk.inputs)

        monkeypatch.setattr(probing._Trials, "_timed", timed)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
        monkeypatch.setattr(probing, "has_native_bf16", lambda device: True)
        monkeypatch.setattr("cake_cli.synthesis.engine.compiled", lambda module, rows: module)

    return give


def long_engine(teacher: Classifier, cpu: Hardware, **changes: object) -> Engine:
    """Of a run that is worth a probe: six sets of eight, a wave of three sets, very many steps."""
    return make_engine(teacher, cpu, **{"steps": 10**7, **changes})


def chosen(engine: Engine, *, most_rows: int = 24, **changes: object) -> Choice:
    return probe(engine, most_rows=most_rows, clock=lambda: 0.0, **changes)  # type: ignore[arg-type]


def verdicts(choice: Choice) -> dict[str, str]:
    return {trial.step_plan.describe(): trial.verdict for trial in choice.trials}


def test_the_faster_layout_is_taken(toy_teacher: Classifier, cpu: Hardware, given: Callable[[Speeds], None]) -> None:
    given(lambda plan: 0.5e-3 if plan.layout == "contiguous" else 1e-3)
    choice = chosen(long_engine(toy_teacher, cpu))
    assert choice.step_plan == StepPlan("contiguous", "fp32", 24)
    assert verdicts(choice)["channels last, fp32, 24 rows"] == "plain"
    assert verdicts(choice)["contiguous, fp32, 24 rows"] == "taken"
    assert verdicts(choice)["contiguous, fp32, 24 rows, 2 threads"] == "not faster"


def test_a_little_faster_is_not_enough(toy_teacher: Classifier, cpu: Hardware, given: Callable[[Speeds], None]) -> None:
    given(lambda plan: 0.97e-3 if plan.layout == "contiguous" else 1e-3)
    assert chosen(long_engine(toy_teacher, cpu)).step_plan == StepPlan("channels_last", "fp32", 24)


def test_fewer_threads_must_win_clearly(
    toy_teacher: Classifier, cpu: Hardware, given: Callable[[Speeds], None]
) -> None:
    given(lambda plan: 0.85e-3 if plan.threads == 2 else 1e-3)
    assert chosen(long_engine(toy_teacher, cpu)).step_plan.threads is None
    given(lambda plan: 0.7e-3 if plan.threads == 2 else 1e-3)
    assert chosen(long_engine(toy_teacher, cpu)).step_plan.threads == 2


def test_a_candidate_that_leads_elsewhere_is_not_taken(
    toy_teacher: Classifier, cpu: Hardware, given: Callable[[Speeds], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    given(lambda plan: 0.5e-3 if plan.precision == "bf16" else 1e-3)
    engine = long_engine(toy_teacher, cpu)
    assert chosen(engine, lower_precision=True).step_plan.precision == "bf16"
    assert chosen(engine).step_plan.precision == "fp32", "bf16 only where it is asked for"
    monkeypatch.setitem(probing.TOLERANCE, "bf16", 1e-9)
    choice = chosen(engine, lower_precision=True)
    assert choice.step_plan.precision == "fp32"
    differing = next(trial for trial in choice.trials if trial.verdict == "differs")
    assert differing.difference is not None
    assert differing.difference > 1e-9


def test_even_surfaces_under_max_pooling_do_not_decide(cpu: Hardware, given: Callable[[Speeds], None]) -> None:
    """There several pixels are the greatest, and the gradient follows one of them: which one hangs on the layout."""
    torch.manual_seed(0)
    module = lenet("lenet5", (1, 32, 32), 4).eval().requires_grad_(False)
    teacher = Classifier(module=module, spec=InputSpec((1, 32, 32)), classes=4, name="t", sha256="0" * 64)
    given(lambda plan: 0.5e-3 if plan.layout == "contiguous" else 1e-3)
    assert chosen(long_engine(teacher, cpu, init="scenes")).step_plan.layout == "contiguous"


@pytest.mark.parametrize("space", [Anywhere(), Squashed(torch.full((1, 1, 1), -2.0), torch.full((1, 1, 1), 2.0))])
def test_a_step_the_other_way_is_far_off_however_short_it_is(
    toy_teacher: Classifier, cpu: Hardware, space: Space
) -> None:
    objective = cake_objective(toy_teacher.spec, cls=5.0, contrastive=0.5, tv=0.0)
    engine = make_engine(toy_teacher, cpu, objective=objective, space=space, step_sizes=(1e-6,) * 6)
    trials = probing._Trials(engine, 1.0, 1.0, lambda: 0.0)
    own = trials._engine(trials.plain, 24)
    terms = {name: (-weight, term) for name, (weight, term) in own.objective.terms.items()}
    assert trials._difference(own) == 0
    assert trials._difference(replace(own, objective=replace(own.objective, terms=terms))) > 1


@pytest.mark.parametrize(
    ("rows", "by", "least", "most"), [(1, 0.2, 0, 1e-6), (1, 2.0, 0.1, 0.3), (100, 0.01, 9e-3, 0.011)]
)
def test_a_few_samples_may_lead_a_little_elsewhere(
    toy_teacher: Classifier,
    cpu: Hardware,
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
    by: float,
    least: float,
    most: float,
) -> None:
    trials = probing._Trials(long_engine(toy_teacher, cpu), 1.0, 1.0, lambda: 0.0)
    plain = torch.randn(100, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    plain /= plain.flatten(1).norm(dim=1)[:, None, None, None]
    other = plain.clone()
    other[:rows] -= by * plain[:rows]
    steps = iter([plain, other])
    monkeypatch.setattr(trials, "_moved", lambda engine: next(steps))
    assert least <= trials._difference(trials._engine(trials.plain, 24)) <= most


def test_more_sets_run_side_by_side_where_that_is_faster(
    toy_teacher: Classifier, cpu: Hardware, given: Callable[[Speeds], None]
) -> None:
    given(lambda plan: 1e-3 / plan.rows_per_pass)
    engine = long_engine(toy_teacher, cpu)
    choice = chosen(engine, most_rows=48)
    assert (choice.step_plan.rows_per_pass, choice.at_once) == (32, 4)
    choice = chosen(engine, most_rows=48, widens=False)
    assert (choice.step_plan.rows_per_pass, choice.at_once) == (24, 3)


def test_no_more_sets_than_there_are(toy_teacher: Classifier, cpu: Hardware, given: Callable[[Speeds], None]) -> None:
    given(lambda plan: 1e-3 / plan.rows_per_pass)
    assert chosen(long_engine(toy_teacher, cpu), most_rows=512).at_once == 6


def test_a_short_run_affords_nothing_but_the_plain_plan(
    toy_teacher: Classifier, cpu: Hardware, given: Callable[[Speeds], None]
) -> None:
    given(lambda plan: 1e-3)
    choice = chosen(long_engine(toy_teacher, cpu, steps=10))
    assert set(verdicts(choice).values()) == {"plain"}


def test_what_fails_is_passed_over(
    toy_teacher: Classifier, cpu: Hardware, given: Callable[[Speeds], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(*arguments: object) -> torch.nn.Module:
        raise RuntimeError("InvalidCxxCompiler: no compiler\nand a long trace")

    given(lambda plan: 0.1e-3 if plan.compiled else 1e-3)
    monkeypatch.setattr("cake_cli.synthesis.engine.compiled", no_compiler)
    choice = chosen(long_engine(toy_teacher, cpu))
    assert not choice.step_plan.compiled
    assert verdicts(choice)["channels last, fp32, 24 rows, compiled"] == "failed: InvalidCxxCompiler: no compiler"


def test_torchscript_is_not_compiled_and_gets_the_rest(
    toy_teacher: Classifier, cpu: Hardware, given: Callable[[Speeds], None]
) -> None:
    given(lambda plan: 0.5e-3 if plan.layout == "contiguous" else 1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated; files of it will be around for long
        traced = torch.jit.trace(toy_teacher.module, torch.zeros(3, 1, 4, 4))
    choice = chosen(long_engine(replace(toy_teacher, module=traced), cpu))
    assert choice.step_plan.layout == "contiguous"
    assert not any(trial.step_plan.compiled for trial in choice.trials)


def test_a_capture_sees_the_weights_where_replays_find_them(
    cpu: Hardware, given: Callable[[Speeds], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best layout so far is another than that of the plain plan, by which a candidate is judged first."""
    torch.manual_seed(0)
    module = lenet("lenet5", (1, 32, 32), 4).eval().requires_grad_(False)
    teacher = Classifier(module=module, spec=InputSpec((1, 32, 32)), classes=4, name="t", sha256="0" * 64)
    weights = [weight for weight in module.parameters() if weight.dim() == 4]
    given(lambda plan: 0.5e-3 if plan.layout == "contiguous" else 1e-3)
    moved: list[bool] = []

    def capture(work: Callable[[], None]) -> Callable[[], None]:
        where = [weight.data_ptr() for weight in weights]
        work()

        def replay() -> None:
            moved.append([weight.data_ptr() for weight in weights] != where)
            work()

        return replay

    monkeypatch.setattr("cake_cli.synthesis.engine.capture_on", lambda device: capture)
    trials = probing._Trials(long_engine(teacher, cpu), 1.0, math.inf, lambda: 0.0)
    trials.climb(24)
    trials.attempt(replace(trials.plain, layout="contiguous"))
    assert trials.best.layout == "contiguous"
    trials._plain_step = None  # as after a look at another number of rows
    trials.attempt(replace(trials.best, graphed=True))
    assert trials.found[-1].verdict == "not faster"
    assert moved
    assert not any(moved)


def test_a_real_probe_ends_and_measures(toy_teacher: Classifier, cpu: Hardware) -> None:
    engine = make_engine(toy_teacher, cpu, steps=20_000)
    choice = probe(engine, most_rows=48, lower_precision=True, most_seconds=1.0)
    assert choice.trials[0].verdict == "plain"
    assert choice.step_plan in [trial.step_plan for trial in choice.trials]
    assert all(trial.rate is None or trial.rate > 0 for trial in choice.trials)
    assert len(choice.trials) > 1


@pytest.mark.parametrize(
    "plan", [StepPlan("contiguous", "bf16", 100, 2, True, False), StepPlan("channels_last", "fp32", 1)]
)
def test_a_step_plan_is_written_and_read(plan: StepPlan) -> None:
    assert StepPlan.from_json(plan.to_json() | {"device": "cpu"}) == plan


@pytest.mark.parametrize(
    "change",
    [
        {"layout": "diagonal"},
        {"rows_per_pass": 0},
        {"threads": -1},
        {"compiled": 1},
        {"precision": "auto"},
        {"rows_per_pass": "9"},
    ],
)
def test_a_damaged_step_plan_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a step plan"):
        StepPlan.from_json(StepPlan("contiguous", "fp32", 10).to_json() | change)
