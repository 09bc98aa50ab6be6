"""A small bank, undisturbed, and what tests do to the making of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from torch.distributed import HashStore

from cake_cli.config import Config
from cake_cli.errors import CakeError
from cake_cli.events import SILENT, SilentReporter
from cake_cli.planning import prepare
from cake_cli.ranks import Ranks, SharedBoard
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.engine import Engine, Wave
from cake_cli.synthesizing import synthesize
from tests.cli.conftest import snapshot
from tests.test_planning import small

Struck = Callable[[Engine, range], None]


@pytest.fixture
def config(mlp_file: Path) -> Config:
    """Five waves of thirty samples, in copies of all formats."""
    config = small(mlp_file)
    settings = replace(config.synthesis, samples=150, sets_at_once=1, formats=("safetensors", "npz", "png"))
    return replace(config, synthesis=settings)


@pytest.fixture
def undisturbed(config: Config, tmp_path: Path) -> dict[str, str]:
    made(config, tmp_path / "undisturbed")
    return snapshot(tmp_path / "undisturbed")


class Heard(SilentReporter):
    """Keeps what is noted and warned of."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        if not text.startswith("   "):  # of the samples
            self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def made(config: Config, path: Path, ranks: Ranks | None = None, reporter: SilentReporter | None = None) -> SampleBank:
    return synthesize(prepare(config, student=False), path, reporter or SILENT, ranks=ranks)


def before_each_wave(patch: pytest.MonkeyPatch, strike: Struck) -> None:
    wave = Engine.wave

    def struck(engine: Engine, sets: range, stage: object) -> Wave:
        strike(engine, sets)
        return wave(engine, sets, stage)  # type: ignore[arg-type]

    patch.setattr(Engine, "wave", struck)


def on_ranks(world: int, config: Config, path: Path) -> list[SampleBank | CakeError]:
    """What each of several ranks, here threads of this process, comes to."""
    store = HashStore()
    ended: list[SampleBank | CakeError | None] = [None] * world

    def take_part(rank: int) -> None:
        ranks = Ranks(rank, world, board=SharedBoard(store))
        try:
            ended[rank] = made(config, path, ranks)
        except CakeError as fault:
            ranks._announce(fault)
            ended[rank] = fault

    threads = [Thread(target=take_part, args=(rank,), name=f"rank {rank}", daemon=True) for rank in range(world)]
    for thread in threads:
        thread.start()
    threads[0].join(60)
    if isinstance(ended[0], SampleBank):
        for thread in threads:
            thread.join(60)
    return ended  # type: ignore[return-value]


def stop_after(waves: int, config: Config, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupts in the wave after so many."""

    def strike(engine: Engine, sets: range) -> None:
        if sets.start >= waves:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        before_each_wave(patch, strike)
        with pytest.raises(KeyboardInterrupt):
            made(config, path)
    assert SampleBank.open(path).finished_waves == waves
