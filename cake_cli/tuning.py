"""How the steps of a run are computed: probed before a long run, once for each teacher and machine.

A choice decides the last bits of samples, and a clock is no good judge of a tie. So that the same command gives the
same bank twice on a machine, runs that are short by their work, not by a clock, are never probed, and what a probe
chose is kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cake_cli import __version__
from cake_cli.errors import CakeError
from cake_cli.events import Reporter
from cake_cli.methods import VALUES_PER_PASS
from cake_cli.models.counting import multiply_adds
from cake_cli.planning import Prepared
from cake_cli.ranks import Ranks
from cake_cli.storage import write_json
from cake_cli.synthesis.engine import Engine
from cake_cli.synthesis.probe import probe
from cake_cli.synthesis.sets import SetPlan
from cake_cli.synthesis.step_plan import StepPlan

SHORT_SECONDS = 30.0
"""Runs of less are not worth a probe."""
NOMINAL_RATE = {"cpu": 2e11, "cuda": 4e13}
"""Operations a second that a run's length is judged by: of two cores, and of a large GPU on small networks."""
NOMINAL_STEP = {"cpu": 0.0, "cuda": 1e-3}
"""Seconds that a step takes at least."""
ROOMIER = {"cpu": 1, "cuda": 16}
"""How many times `VALUES_PER_PASS` a probe may try: memory that runs out is noticed on CUDA, on a CPU it is not."""


@dataclass(frozen=True)
class Tuned:
    """An engine, and how its way of computing steps was chosen."""

    engine: Engine
    plan: SetPlan
    record: dict[str, Any]
    """``chosen`` (plain, probe, cache), ``seconds`` and ``trials``."""


def tune(prepared: Prepared, engine: Engine, reporter: Reporter) -> Tuned:
    """The engine with its steps planned as the configuration asks for; nothing is probed before a short run.

    Args:
        prepared: of the run.
        engine: its engine, with the plain plan.
        reporter: told of the choice.
    """
    hardware = prepared.config.hardware
    plain = Tuned(engine, prepared.plan, {"chosen": "plain", "seconds": 0.0, "trials": []})
    if engine.estimator is not None or engine.teacher.no_gradient is not None:
        return plain
    if hardware.plan == "plain" or hardware.deterministic or engine.hardware.device.type not in NOMINAL_RATE:
        return plain
    if nominal_seconds(engine) < SHORT_SECONDS:
        return plain
    file = _cache_folder() / f"{_key(prepared, engine)}.json"
    kept = _kept(file, engine)
    if kept is not None:
        step_plan, at_once, record = kept
        reporter.note(f"steps: {step_plan.describe()}, as a probe found here before; --plan plain does without")
        return _as_chosen(prepared, engine, step_plan, at_once, record | {"chosen": "cache"})
    settings = prepared.config.synthesis
    choice = probe(
        engine,
        most_rows=most_rows(engine),
        widens=settings.sets_at_once is None and settings.time_budget is None,
        lower_precision=hardware.precision == "auto",
    )
    record = {
        "chosen": "probe",
        "seconds": round(choice.seconds, 3),
        "trials": [trial.to_json() for trial in choice.trials],
    }
    _keep(file, choice.step_plan, choice.at_once, record)
    reporter.note(
        f"steps: {choice.step_plan.describe()}, chosen by a probe of {choice.seconds:.1f} s; --plan plain does without"
    )
    return _as_chosen(prepared, engine, choice.step_plan, choice.at_once, record)


def most_rows(engine: Engine) -> int:
    """Rows that a probe may send through the teacher together."""
    values = ROOMIER.get(engine.hardware.device.type, 1) * VALUES_PER_PASS
    return max(1, values // (engine.teacher.spec.values * engine.least_rows)) * engine.least_rows


def nominal_seconds(engine: Engine) -> float:
    """How long a run would take at a rate that no clock decides."""
    device = engine.hardware.device.type
    work = engine.plan.samples * engine.steps * 4.0 * max(multiply_adds(engine.teacher), engine.teacher.parameters)
    return work / NOMINAL_RATE[device] + NOMINAL_STEP[device] * engine.steps * engine.plan.wave_count


def _as_chosen(prepared: Prepared, engine: Engine, step_plan: StepPlan, at_once: int, record: dict[str, Any]) -> Tuned:
    plan = replace(prepared.plan, at_once=at_once)
    if prepared.config.synthesis.sets_at_once is None:
        plan = plan.shared_by(Ranks.current().world)  # the choice may be of a single process
    return Tuned(replace(engine.planned(step_plan), plan=plan), plan, record)


# --- the cache ----------------------------------------------------------------------------------------------------


def _cache_folder() -> Path:
    """``cake/plans`` in the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root and Path(root).is_absolute() else Path.home() / ".cache") / "cake" / "plans"


def _key(prepared: Prepared, engine: Engine) -> str:
    """Of everything that a choice is made for; equal commands have equal keys."""
    about = {
        "teacher": [engine.teacher.sha256, engine.teacher.batching, engine.teacher.spec.shape],
        "device": engine.hardware.describe(),
        "cpus": os.cpu_count(),
        "versions": [__version__, torch.__version__],
        "synthesis": asdict(replace(prepared.config.synthesis, bank=None)),
        "plan": asdict(prepared.plan),
        "step": engine.step_plan.to_json(),
        "asked": prepared.config.hardware.precision,
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _kept(file: Path, engine: Engine) -> tuple[StepPlan, int, dict[str, Any]] | None:
    """What a probe chose before; None where there is none, or it is damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        at_once, record = content["at_once"], content["probe"]
        step_plan = StepPlan.from_json(content["step_plan"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = type(at_once) is int and 0 < at_once <= engine.plan.sets and isinstance(record, dict)
    return (step_plan, at_once, record) if whole and step_plan.rows_per_pass % engine.least_rows == 0 else None


def _keep(file: Path, step_plan: StepPlan, at_once: int, record: dict[str, Any]) -> None:
    """Keeps a choice; a cache that cannot be written is done without."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"step_plan": step_plan.to_json(), "at_once": at_once, "probe": record})
    except (OSError, CakeError):
        return
