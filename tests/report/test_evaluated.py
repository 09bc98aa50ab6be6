"""Pictures of an evaluation outside any run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cake_cli.report.canvas import LIGHT
from cake_cli.report.evaluated import draw_agreement, draw_recall, write_pictures


def evaluated(classes: int, *, teacher: bool) -> dict:
    table = np.eye(classes, dtype=int) * 3
    table[0, 1] = 2
    bins = [
        {"low": 0.0, "high": 0.5, "samples": 0, "agreement": None},
        {"low": 0.5, "high": 1.0, "samples": 7, "agreement": 0.9},
    ]
    return {
        "confusion": table.tolist(),
        "student_vs_teacher": table.tolist() if teacher else None,
        "agreement_by_confidence": bins if teacher else None,
        "per_class": [{"name": None, "recall": None if index == 2 else 0.5 + index / 100} for index in range(classes)],
    }


def test_files_have_names_of_their_own_inside_the_folder(tmp_path: Path):
    models = {"../a b": evaluated(3, teacher=True), "../a-b": evaluated(3, teacher=True)}
    files = write_pictures(tmp_path, models)
    assert sorted(file.name for file in files) == [
        "against-teacher-a-b-2.png",
        "against-teacher-a-b.png",
        "agreement.png",
        "confusion-a-b-2.png",
        "confusion-a-b.png",
        "recall.png",
    ]
    assert {file.parent for file in files} == {tmp_path}
    for file in files:
        with Image.open(file) as drawn:
            assert drawn.format == "PNG"
            assert drawn.width > 100


def test_without_a_teacher_there_is_no_agreement(tmp_path: Path):
    assert [file.name for file in write_pictures(tmp_path, {"a": evaluated(3, teacher=False)})] == [
        "confusion-a.png",
        "recall.png",
    ]


def test_of_many_classes_the_worst_are_shown():
    recalls = {"a": [index / 100 for index in range(100)], "b": [1.0] * 99 + [0.0]}
    axes = draw_recall(recalls, [str(index) for index in range(100)], LIGHT).axes[0]
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert shown == [*(str(index) for index in range(29)), "99"]
    assert axes.get_title(loc="left") == "Recall of the 30 worst classes"


def test_empty_bins_are_left_out():
    axes = draw_agreement({"a": evaluated(3, teacher=True)["agreement_by_confidence"]}, LIGHT).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["50%–100%\n7"]
