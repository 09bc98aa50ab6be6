from __future__ import annotations

import math

from cake_cli.report.canvas import DARK, LIGHT, png
from cake_cli.report.curves import draw_curves, draw_panel, panels


def test_terms_are_drawn_against_the_step_size() -> None:
    lines = [{"step_size": 0.1 / 10**i, "samples": 10 * i, "cls": 1.0 + i, "on_target": 0.9} for i in range(4)]
    found = panels(lines, [], [])
    assert [panel.title for panel in found] == ["Terms of the objective", "What the teacher says of the samples"]
    assert found[0].log_x
    assert [curve.label for curve in found[0].curves] == ["cross-entropy"]


def test_a_constant_step_size_leaves_the_samples_as_axis() -> None:
    found = panels([{"step_size": 0.1, "samples": 10, "tv": 1.0} for _ in range(3)], [], [])
    assert not found[0].log_x
    assert found[0].curves[0].x == (10.0, 20.0, 30.0)


def test_so_do_step_sizes_that_fall_anew_in_each_round() -> None:
    lines = [{"step_size": size, "samples": 500, "tv": 1.0} for size in (0.3, 0.2, 0.1, 0.3, 0.2, 0.1)]
    found = panels(lines, [], [])
    assert not found[0].log_x
    assert found[0].curves[0].x == (500.0, 1000.0, 1500.0, 2000.0, 2500.0, 3000.0)


def test_what_is_missing_or_not_finite_is_passed_over() -> None:
    lines = [{"samples": 1, "cls": math.nan, "tv": 0.0}, {"samples": 2, "cls": 3.0}, {"samples": 3, "cls": "x"}]
    (panel,) = panels(lines, [], [])
    assert [(curve.label, curve.x, curve.y) for curve in panel.curves] == [("cross-entropy", (3.0,), (3.0,))]
    assert panels([], [], []) == ()


def test_student_and_baseline_share_a_panel() -> None:
    lines = [{"epoch": epoch, "loss": 1.0 / epoch} for epoch in (1, 2)]
    (panel,) = panels([], lines, lines)
    assert [curve.label for curve in panel.curves] == ["student", "noise baseline"]
    assert "student goes from 1 to 0.5" in panel.description


def test_drawing_in_both_appearances() -> None:
    lines = [{"epoch": 1, "loss": 1.0, "agreement": 0.5}]
    listed = panels([{"samples": 100, "cls": 0.1, "on_target": 1.0}], lines, lines)
    assert len(listed) == 4
    assert png(draw_panel(listed[0], DARK)) != png(draw_panel(listed[0], LIGHT))
    for count in (1, 3):
        assert png(draw_curves(listed[:count], LIGHT)).startswith(b"\x89PNG")
