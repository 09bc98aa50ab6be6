from __future__ import annotations

import math

import pytest

from cake_cli.report.words import THIN, bounds, class_labels, count, dig, duration, figure, interval, percent, plural


def test_figures_as_text() -> None:
    assert percent(0.9718) == f"97.2{THIN}%"
    assert interval([0.956, 0.984]) == f"95.6 to 98.4{THIN}%"
    assert interval(None) == ""
    assert count(12345) == "12,345"
    assert plural(1, "sample") == "1 sample"
    assert plural(1000, "sample") == "1,000 samples"
    assert figure(0.00012345) == "0.000123"


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "0.5", True, [1]])
def test_what_is_no_number_is_a_dash(value: object) -> None:
    assert {percent(value), count(value), figure(value), duration(value)} == {"–"}
    assert bounds([0, value]) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.14, "2.1 s"), (59.99, "60.0 s"), (100, "1 min 40 s"), (3725, "1 h 02 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds).replace(THIN, " ") == text


def test_dig_gives_none_where_a_level_is_missing() -> None:
    assert dig({"a": {"b": 1}}, "a", "b") == 1
    assert dig({"a": None}, "a", "b") is None
    assert dig(None, "a") is None


def test_class_labels_are_numbers_where_names_do_not_fit() -> None:
    assert class_labels(["cat", "dog"], 2) == ("cat", "dog")
    assert class_labels(["cat"], 2) == class_labels(None, 2) == class_labels("ab", 2) == ("0", "1")
