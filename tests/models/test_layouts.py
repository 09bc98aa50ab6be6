"""How a module wants its rows, and which of its outputs are the scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from cake_cli.errors import ModelFileError, UsageError
from cake_cli.hardware import Hardware
from cake_cli.models.classifier import Batched
from cake_cli.models.layouts import attempts, find_layout, traced_attempts
from cake_cli.models.scores import choose_scores, named_tensors

WEIGHTS = torch.randn(48, 5, generator=torch.Generator().manual_seed(0))


class From(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, rows: Tensor) -> Any:
        return self.function(rows)


def strict(*shape: int) -> From:
    """Takes rows of exactly this shape, a free size where it is -1."""

    def scores(rows: Tensor) -> Tensor:
        if len(rows.shape) != len(shape) or any(w not in (-1, size) for w, size in zip(shape, rows.shape, strict=True)):
            raise ValueError(f"expected {shape}")
        return rows.reshape(rows.numel() // 48, 48) @ WEIGHTS

    return From(scores)


@pytest.mark.parametrize(("takes", "form", "has_batch_axis"), [
    ((-1, 3, 4, 4), (3, 4, 4), True),
    ((-1, 4, 4, 3), (4, 4, 3), True),
    ((-1, 48), (48,), True),
    ((1, 3, 4, 4), (3, 4, 4), True),
    ((3, 4, 4), (3, 4, 4), False),
])  # fmt: skip
def test_the_form_of_a_row_is_found(takes: tuple[int, ...], form: tuple[int, ...], has_batch_axis: bool) -> None:
    layout = find_layout(strict(*takes), attempts((3, 4, 4)))
    assert (layout.shape, layout.has_batch_axis) == (form, has_batch_axis)


def test_a_grey_image_may_lack_its_channel() -> None:
    assert find_layout(strict(-1, 6, 8), attempts((1, 6, 8))).shape == (6, 8)


@pytest.mark.parametrize(("traced", "fixed_batch"), [(8, 8), (1, 1), (-1, None)])
def test_a_fixed_batch_is_found(traced: int, fixed_batch: int | None) -> None:
    layout = find_layout(strict(traced, 3, 4, 4), traced_attempts((max(traced, 2), 3, 4, 4)))
    assert (layout.shape, layout.fixed_batch) == ((3, 4, 4), fixed_batch)


@pytest.mark.parametrize(("function", "message"), [
    (lambda rows: rows.reshape(-1, 24), r"not \(3, classes\)"),
    (lambda rows: (rows.flatten(1) @ WEIGHTS).argmax(1), "labels, which have no gradient"),
    (lambda rows: "text", "returns a str"),
    (lambda rows: rows @ torch.zeros(99, 2), "does not run on an input of shape 3x4x4: .*mat1"),
])  # fmt: skip
def test_what_is_no_classifier_is_refused(function: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        find_layout(From(function), attempts((3, 4, 4)))
    assert caught.value.fix


class Output(NamedTuple):
    scores: Tensor
    features: Tensor


ONE, TWO = torch.zeros(1, 3), torch.zeros(1, 8)


@pytest.mark.parametrize(("output", "wanted", "chosen"), [
    (ONE, None, None),
    ([ONE], None, "0"),
    ({"logits": ONE, "hidden": TWO}, None, "logits"),
    ((ONE, torch.zeros(1, 4, 4, 4)), None, "0"),
    (Output(ONE, TWO), "features", "features"),
    ({"a": ONE, "text": "x"}, None, "a"),
])  # fmt: skip
def test_scores_are_chosen(output: object, wanted: str | None, chosen: str | None) -> None:
    assert choose_scores(output, wanted) == chosen


def test_ambiguous_scores_are_listed_with_their_shapes() -> None:
    with pytest.raises(ModelFileError, match=r"scores \(1x3\), features \(1x8\)") as caught:
        choose_scores(Output(ONE, TWO), None)
    assert caught.value.fix == "--output scores"
    with pytest.raises(UsageError, match="did you mean 'scores'"):
        choose_scores(Output(ONE, TWO), "score")
    assert list(named_tensors(Output(ONE, TWO))) == ["scores", "features"]


@pytest.mark.parametrize("has_batch_axis", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_model_with_view_is_kept_in_plain_memory(has_batch_axis: bool, channels: int) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(channels, 2, 3)

    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = convolution

        def forward(self, rows: Tensor) -> Tensor:
            return self.convolution(rows).view(-1, 32) if has_batch_axis else self.convolution(rows[None]).view(32)

    layout = find_layout(Views(), attempts((channels, 6, 6)))
    assert layout.has_batch_axis == has_batch_axis
    batched = Batched(layout.module, "direct" if has_batch_axis else "vmap", has_batch_axis=has_batch_axis)
    rows = torch.randn(4, channels, 6, 6)
    expected = convolution(rows).flatten(1)
    placed = Hardware(torch.device("cpu"), "fp32").place(batched)
    torch.testing.assert_close(placed(rows.contiguous(memory_format=torch.channels_last)), expected)
