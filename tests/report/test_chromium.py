from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cake_cli.report.page import write_report
from cake_cli.runs import RunDirectory
from tests.report import made
from tests.report.chromium import Chromium, find

TROUBLE = {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Network.loadingFailed"}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    executable = find()
    if executable is None:
        pytest.skip("there is no Chromium on PATH")
    with Chromium(executable, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_opens_without_errors_requests_or_sideways_scrolling(
    browser: Chromium, digits: RunDirectory, width: int, dark: bool
) -> None:
    page = digits.path / "report.html"
    browser.load(page.as_uri(), width=width, dark=dark)
    assert [event for event in browser.events if event.get("method") in TROUBLE] == []
    asked = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 23, 28)" if dark else "rgb(246, 247, 248)")


def test_long_names_and_many_classes_stay_within_a_phone(browser: Chromium, tmp_path: Path) -> None:
    names = tuple(f"<i>{index}</i>" + "w" * (index * 7 % 90) for index in range(40))
    run = made.run(
        tmp_path / "run",
        metrics=False,
        classes=len(names),
        names=names,
        warnings=["w" * 300],
        argv=["distill", "/" + "d" * 200],
        working_directory="/" + "d" * 200,
    )
    browser.load(write_report(run).as_uri(), width=390)
    assert browser.evaluate("document.documentElement.scrollWidth") == 390
    assert browser.evaluate("document.querySelectorAll('i').length") == 0
    assert [event for event in browser.events if event.get("method") in TROUBLE] == []
