from __future__ import annotations

from cake_cli.report.headline import scale, stats
from tests.report import made


def test_the_scale_holds_every_interval() -> None:
    for classes in (2, 10, 100):
        found = scale({"evaluation": made.evaluation(classes)})
        assert found is not None
        for whisker in found.whiskers:
            assert 0 <= whisker.low <= whisker.point <= whisker.high <= 100


def test_the_scale_of_equal_and_extreme_models() -> None:
    for share in (0.0, 1.0, 0.5):
        found = scale({"evaluation": {"accuracy": {"student": share, "teacher": share}, "models": {}}})
        assert found is not None
        assert all(0 <= whisker.point <= 100 for whisker in found.whiskers)
    assert scale({"evaluation": {"accuracy": {"student": 0.5, "teacher": None}}}) is None
    assert scale({}) is None


def test_stats_without_and_with_an_evaluation() -> None:
    assert stats({}) == []
    assert [stat.label for stat in stats({"evaluation": None, "synthetic_fidelity": 0.9})] == ["Synthetic agreement"]
    found = stats({"evaluation": made.evaluation(10, baseline=False)})
    assert [stat.role for stat in found] == ["student", "teacher", "agreement"]
