"""From the first line of the program to its exit code, with signals where nothing is running."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

import pytest

from cake_cli.__main__ import STOPPING, main
from cake_cli.cli import app


def _raised(code: int) -> NoReturn:
    raise SystemExit(code)


@pytest.fixture(autouse=True)
def own_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = {name: signal.signal(name, signal.default_int_handler) for name in STOPPING}  # ignored in a shell's `&`
    monkeypatch.setattr(sys, "argv", ["cake", "recipes"])
    monkeypatch.setattr(os, "_exit", _raised)
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


def ended() -> object:
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


@pytest.mark.parametrize("name", STOPPING)
def test_a_signal_before_anything_began_ends_as_ctrl_c(monkeypatch: pytest.MonkeyPatch, name: signal.Signals):
    monkeypatch.setattr(app, "run", lambda words: os.kill(os.getpid(), name))
    assert ended() == 130


@pytest.mark.parametrize("name", STOPPING)
def test_a_signal_after_the_end_changes_nothing(monkeypatch: pytest.MonkeyPatch, name: signal.Signals):
    def leave(code: int) -> None:
        os.kill(os.getpid(), name)
        raise SystemExit(code)

    monkeypatch.setattr(app, "run", lambda words: 3)
    monkeypatch.setattr(sys, "exit", leave)
    assert ended() == 3
