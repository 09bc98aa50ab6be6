"""Outputs that have the shape of scores and are none, on every way in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cake_cli.config import TeacherConfig
from cake_cli.errors import ModelFileError, UsageError
from cake_cli.models.loading import adapt
from cake_cli.models.opened import OpenedModel, OutputKind

ROWS = torch.randn(6, 5)


class Body(nn.Module):
    def __init__(self, outputs: int, end: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(5, outputs)
        self.end = end

    def forward(self, rows: Tensor) -> Tensor:
        scores = self.layer(rows)
        if self.end == "unit":
            return F.normalize(scores, dim=1)
        if self.end == "large":
            return 5 + scores.tanh()
        return scores.sigmoid() if self.end == "sigmoid" else scores


def opened(module: nn.Module, kind: OutputKind = "logits", **more: dict[str, str]) -> OpenedModel:
    return OpenedModel(module, (5,), kind, "test", **more)  # type: ignore[arg-type]


def load(model: OpenedModel, **settings: object) -> object:
    return adapt(model, TeacherConfig(**settings), name="model", digest="0" * 64)  # type: ignore[arg-type]


def test_one_number_without_a_sigmoid_is_asked_about() -> None:
    with pytest.raises(ModelFileError, match="one number a row") as caught:
        load(opened(Body(1)))
    assert "--classes 2" in str(caught.value.fix)
    logits = load(opened(Body(1)), classes=2)(ROWS)  # type: ignore[operator]
    torch.testing.assert_close(logits[:, 1:], Body(1)(ROWS))
    assert (logits[:, 0] == 0).all()


def test_whole_numbers_may_be_labels() -> None:
    class Labels(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return (rows.abs().sum(dim=1, keepdim=True) * 3).round()

    with pytest.raises(ModelFileError, match="one number a row") as caught:
        load(opened(Labels()))
    assert str(caught.value.fix).startswith("--outputs labels --classes K, if it is the number of the class from 0; ")


def test_one_probability_becomes_the_logit_of_two_classes() -> None:
    teacher = load(opened(Body(1, "sigmoid")), outputs="probs")
    assert (teacher.output_kind, teacher.classes) == ("sigmoid", 2)  # type: ignore[attr-defined]
    torch.testing.assert_close(teacher(ROWS)[:, 1:], Body(1)(ROWS), rtol=1e-3, atol=1e-4)  # type: ignore[operator]


def test_what_cannot_be_probabilities_is_not_taken_for_them() -> None:
    with pytest.raises(UsageError, match="--outputs probs is not what the model returns") as caught:
        load(opened(Body(1, "large")), outputs="probs")
    assert "--classes 2" in str(caught.value.fix)
    with pytest.raises(UsageError, match="--outputs log-probs is not"):
        load(opened(Body(16, "large")), outputs="log-probs")
    assert load(opened(Body(3, "sigmoid")), outputs="probs").output_kind == "probs"  # type: ignore[attr-defined]


def test_vectors_of_unit_length_are_an_embedding() -> None:
    with pytest.raises(ModelFileError, match="an embedding of 16 numbers") as caught:
        load(opened(Body(16, "unit")))
    assert "--classes 16" in str(caught.value.fix)
    assert load(opened(Body(16, "unit")), classes=16).classes == 16  # type: ignore[attr-defined]


def test_an_output_named_embedding_is_one() -> None:
    with pytest.raises(ModelFileError, match="named 'face_embedding'"):
        load(opened(Body(16), facts={"scores": "face_embedding"}))
    assert load(opened(Body(16), facts={"scores": "output"})).classes == 16  # type: ignore[attr-defined]


@pytest.mark.parametrize("task", ["detect", "segment", "pose"])
def test_another_task_of_ultralytics_is_named(task: str) -> None:
    with pytest.raises(ModelFileError, match=rf"its task is '{task}'"):
        load(opened(Body(4), metadata={"author": "Ultralytics", "task": task}))


def test_a_classifier_of_ultralytics_tells_its_range_and_names() -> None:
    names = "{0: 'a', 1: 'b', 2: 'c'}"
    metadata = {"author": "Ultralytics", "task": "classify", "names": names}
    teacher = load(opened(Body(3), metadata=metadata))
    assert teacher.class_names == ("a", "b", "c")  # type: ignore[attr-defined]
    assert (teacher.spec.range, teacher.spec.expects) == ((0.0, 1.0), "raw")  # type: ignore[attr-defined]
    assert "Ultralytics" in teacher.spec.source  # type: ignore[attr-defined]


@pytest.mark.parametrize(("file_shape", "shape"), [
    ((1, 1, 5), (5,)), ((5, 1, 1), (5,)), ((1, 5), (5,)), ((1, 1, 2, 4), (1, 2, 4)), ((1, 3, 2, 2), (3, 2, 2)),
    ((4, 1, 1, 1), (4,)),
])  # fmt: skip
def test_axes_of_one_place_do_not_make_an_image(file_shape: tuple[int, ...], shape: tuple[int, ...]) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(int(torch.tensor(file_shape).prod()), 3))
    teacher = load(OpenedModel(module, file_shape, "logits", "test"))
    assert teacher.spec.shape == shape  # type: ignore[attr-defined]
    assert teacher(torch.randn(4, *shape)).shape == (4, 3)  # type: ignore[operator]


def test_video_is_neither_image_nor_vector(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    with pytest.raises(ModelFileError, match="neither an image nor a vector"):
        load(OpenedModel(module, (3, 4, 2, 2), "logits", "test"))
