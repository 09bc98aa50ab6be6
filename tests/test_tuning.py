"""When a run is probed, what is remembered of it, and that a bank goes on as it was begun."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cake_cli import tuning
from cake_cli.config import Config
from cake_cli.errors import RunError
from cake_cli.events import SILENT
from cake_cli.methods import build_engine
from cake_cli.planning import Prepared, prepare
from cake_cli.storage import sha256
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.engine import Engine, Wave
from cake_cli.synthesis.probe import Choice, Trial
from cake_cli.synthesis.step_plan import StepPlan
from cake_cli.synthesizing import synthesize
from cake_cli.tuning import Tuned, tune
from tests.test_planning import small

OTHER = StepPlan("contiguous", "fp32", 15, threads=1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cake"


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Probes that choose `OTHER` without a look at the clock, for runs of any length."""
    made: list[dict[str, Any]] = []

    def probe(engine: Engine, **choices: Any) -> Choice:
        made.append(choices)
        return Choice(OTHER, engine.plan.at_once, (Trial(OTHER, "taken", 10.0, 0.5, 0.0),), 0.1)

    monkeypatch.setattr(tuning, "probe", probe)
    monkeypatch.setattr(tuning, "SHORT_SECONDS", 0.0)
    return made


@pytest.fixture
def config(mlp_file: Path) -> Config:
    config = small(mlp_file)
    return replace(config, synthesis=replace(config.synthesis, samples=120, sets_at_once=1))


def tuned(config: Config) -> Tuned:
    prepared = prepare(config, student=False)
    return tune(prepared, engine_of(prepared), SILENT)


def engine_of(prepared: Prepared) -> Engine:
    assert prepared.teacher is not None
    return build_engine(prepared.config.synthesis, prepared.teacher, prepared.plan, seed=0, hardware=prepared.hardware)


def shards(path: Path) -> list[str]:
    return [sha256(file) for file in sorted(path.glob("*.safetensors"))]


def test_a_short_run_is_not_probed_and_leaves_the_cache_alone(config: Config, cache: Path) -> None:
    found = tuned(config)
    assert found.record == {"chosen": "plain", "seconds": 0.0, "trials": []}
    assert not cache.exists()


def test_how_long_a_run_is_follows_from_its_work_alone(config: Config) -> None:
    engine = engine_of(prepare(config, student=False))
    once = tuning.nominal_seconds(engine)
    assert once == tuning.nominal_seconds(engine) > 0
    assert tuning.nominal_seconds(replace(engine, steps=3 * engine.steps)) == pytest.approx(3 * once)


@pytest.mark.parametrize("change", [{"plan": "plain"}, {"deterministic": True}])
def test_the_probe_can_be_switched_off(
    config: Config, probes: list[Any], change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.use_deterministic_algorithms", lambda *given, **named: None)
    assert tuned(replace(config, hardware=replace(config.hardware, **change))).record["chosen"] == "plain"
    assert probes == []


def test_a_choice_is_probed_once_and_kept(config: Config, probes: list[Any]) -> None:
    first, second = tuned(config), tuned(config)
    assert (first.record["chosen"], second.record["chosen"]) == ("probe", "cache")
    assert first.engine.step_plan == second.engine.step_plan == OTHER
    assert second.record["trials"] == first.record["trials"]
    assert len(probes) == 1


def test_another_command_is_probed_anew(config: Config, probes: list[Any]) -> None:
    tuned(config)
    tuned(replace(config, synthesis=replace(config.synthesis, steps=9)))
    tuned(replace(config, hardware=replace(config.hardware, precision="fp32")))
    assert [made["lower_precision"] for made in probes] == [True, True, False]


@pytest.mark.parametrize("damage", ["{", "[]", '{"at_once": 1, "probe": {}, "step_plan": {"layout": "round"}}'])
def test_a_damaged_cache_is_passed_over(config: Config, probes: list[Any], cache: Path, damage: str) -> None:
    tuned(config)
    (file,) = cache.rglob("*.json")
    file.write_text(damage)
    assert tuned(config).record["chosen"] == "probe"
    assert json.loads(file.read_text())["at_once"] == 1


def test_a_cache_that_cannot_be_written_is_done_without(config: Config, probes: list[Any], cache: Path) -> None:
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("a file where the folder should be")
    assert tuned(config).record["chosen"] == "probe"


def test_sets_side_by_side_are_left_alone_where_they_were_asked_for(config: Config, probes: list[Any]) -> None:
    tuned(config)
    tuned(replace(config, synthesis=replace(config.synthesis, sets_at_once=None)))
    assert [made["widens"] for made in probes] == [False, True]


def test_what_one_process_chose_leaves_each_of_several_a_wave_of_a_round(
    config: Config, probes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = replace(config.synthesis, samples=360, sets_at_once=None, rounds=3)
    config, found = replace(config, synthesis=rounds), []
    monkeypatch.setattr(tuning, "_key", lambda prepared, engine: "of either")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    for world in ("1", "2", "4"):
        monkeypatch.setenv("WORLD_SIZE", world)
        prepared = prepare(config, student=True)
        found.append(tune(prepared, engine_of(prepared), SILENT).plan.at_once)
    assert len(probes) == 1
    assert found == [4, 2, 1], "of the four sets of a round"


def test_a_bank_remembers_the_choice_and_goes_on_with_it(
    config: Config, probes: list[Any], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = synthesize(prepare(config, student=False), tmp_path / "whole", SILENT)
    assert whole.arithmetic["layout"] == "contiguous"
    assert whole.arithmetic["rows_per_pass"] == 15
    assert whole.arithmetic["probe"]["chosen"] == "probe"
    finish = Engine.wave

    def stop(engine: Engine, sets: range, stage: Any) -> Wave:
        if sets.start >= 2:
            raise RunError("stopped", "go on")
        return finish(engine, sets, stage)

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "wave", stop)
        with pytest.raises(RunError, match="stopped"):
            synthesize(prepare(config, student=False), tmp_path / "stopped", SILENT)
    seen: list[StepPlan] = []

    def watch(engine: Engine, sets: range, stage: Any) -> Wave:
        seen.append(engine.step_plan)
        return finish(engine, sets, stage)

    for file in cache.rglob("*.json"):
        file.unlink()
    monkeypatch.setattr(tuning, "probe", _no_probe)
    monkeypatch.setattr(Engine, "wave", watch)
    bank = synthesize(prepare(config, student=False), tmp_path / "stopped", SILENT)
    assert bank.is_complete
    assert seen == [OTHER, OTHER]
    assert shards(tmp_path / "stopped") == shards(tmp_path / "whole")


def _no_probe(*given: Any, **named: Any) -> Choice:
    raise AssertionError("a bank that was begun is not probed again")


def test_a_bank_of_another_device_keeps_only_its_rows(
    config: Config, probes: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cake_cli.synthesis.arithmetic import as_begun

    bank = synthesize(prepare(config, student=False), tmp_path / "bank", SILENT)
    engine = engine_of(prepare(config, student=False))
    assert as_begun(engine, bank).step_plan == OTHER
    bank.manifest["arithmetic"]["device"] = "Another"
    assert as_begun(engine, bank).step_plan == replace(engine.step_plan, rows_per_pass=15)
    assert isinstance(bank, SampleBank)


def test_equal_commands_make_equal_banks(config: Config, probes: Callable[..., Any], tmp_path: Path) -> None:
    for name in ("one", "other"):
        synthesize(prepare(config, student=False), tmp_path / name, SILENT)
    assert shards(tmp_path / "one") == shards(tmp_path / "other")
