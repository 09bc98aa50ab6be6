"""What a bank may be gone on with, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cake_cli.config import Config
from cake_cli.errors import DataError, RunError
from cake_cli.synthesis.engine import Engine, Wave
from tests.cli.conftest import snapshot
from tests.synthesizing.conftest import Heard, before_each_wave, made, stop_after


def test_other_settings_are_another_bank(config: Config, tmp_path: Path) -> None:
    made(config, tmp_path / "bank")
    before = snapshot(tmp_path / "bank")
    for other in (
        replace(config, seed=1),
        replace(config, synthesis=replace(config.synthesis, steps=5)),
        replace(config, synthesis=replace(config.synthesis, samples=300)),
    ):
        with pytest.raises(DataError, match="begun with other settings"):
            made(other, tmp_path / "bank")
    assert snapshot(tmp_path / "bank") == before


def test_sets_at_once_stay_as_they_were_begun_and_that_is_said(
    config: Config, tmp_path: Path, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(2, config, tmp_path / "bank", monkeypatch)
    heard = Heard()
    made(replace(config, synthesis=replace(config.synthesis, sets_at_once=3)), tmp_path / "bank", reporter=heard)
    assert len(heard.notes) == 1
    assert "goes on with 1 sets at once, as it was begun; with 3" in heard.notes[0]
    assert "only up to rounding" in heard.notes[0]
    assert snapshot(tmp_path / "bank") == undisturbed


def test_another_device_or_version_is_said(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(1, config, tmp_path / "bank", monkeypatch)
    file = tmp_path / "bank" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["arithmetic"] |= {"device": "NVIDIA H200", "precision": "bf16"}
    file.write_text(json.dumps(manifest))
    heard = Heard()
    made(config, tmp_path / "bank", reporter=heard)
    assert [note.split(" its samples")[0] for note in heard.notes] == [
        f"the bank was begun with device NVIDIA H200 and goes on with cpu ({torch.backends.cpu.get_cpu_capability()}):",
        "the bank was begun with precision bf16 and goes on with fp32:",
    ]


@pytest.mark.parametrize(("begun", "gone_on"), [(7_800, 30), (15, 15)])
def test_a_bank_of_a_gpu_goes_on_with_as_many_rows_as_a_cpu_takes(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: int, gone_on: int
) -> None:
    stop_after(1, config, tmp_path / "bank", monkeypatch)
    file = tmp_path / "bank" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["arithmetic"] |= {"device": "NVIDIA H200", "rows_per_pass": begun}
    file.write_text(json.dumps(manifest))
    seen: list[int] = []
    before_each_wave(monkeypatch, lambda engine, sets: seen.append(engine.rows_per_pass))
    made(config, tmp_path / "bank")
    assert set(seen) == {gone_on}


def test_threads_are_those_it_was_begun_with(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = torch.get_num_threads(), []
    stop_after(1, config, tmp_path / "bank", monkeypatch)
    try:
        torch.set_num_threads(before + 1)
        before_each_wave(monkeypatch, lambda engine, sets: seen.append(torch.get_num_threads()))
        made(config, tmp_path / "bank")
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {before}


def test_a_collapse_is_an_error_with_advice(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wave = Engine.wave

    def one_class(engine: Engine, *arguments: object) -> Wave:
        made = wave(engine, *arguments)  # type: ignore[arg-type]
        made.samples.logits.copy_(torch.tensor([9.0, 0.0, 0.0]).expand_as(made.samples.logits))
        return made

    monkeypatch.setattr(Engine, "wave", one_class)
    with pytest.raises(RunError, match=r"degenerate: the teacher puts 100%") as caught:
        made(config, tmp_path / "bank")
    assert caught.value.fix


def test_what_a_round_compiled_or_captured_goes_with_it(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a GPU's memory it holds much, and another round's steps need that."""
    engines: list[Engine] = []
    before_each_wave(monkeypatch, lambda engine, sets: engines.append(engine))
    made(config, tmp_path / "bank")
    assert len(engines) == 5
    assert not any({"step", "_first_step", "_plain", "_ahead"} & engine.__dict__.keys() for engine in engines)
