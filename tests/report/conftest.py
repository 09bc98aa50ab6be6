from __future__ import annotations

from pathlib import Path

import pytest

from cake_cli.report import canvas
from cake_cli.report.page import write_report
from cake_cli.runs import RunDirectory
from tests.report import made
from tests.report.parsed import Page


@pytest.fixture(autouse=True)
def _coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvas, "RESOLUTION", 40)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A whole run with its report, as a person would meet it."""
    run = made.run(tmp_path_factory.mktemp("runs") / "digits")
    write_report(run)
    return run


@pytest.fixture(scope="session")
def digits_page(digits: RunDirectory) -> Page:
    return read(digits.path / "report.html")


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))
