"""What is measured of a model on load, on modules that do each thing wrong in turn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cake_cli.config import TeacherConfig
from cake_cli.errors import ModelFileError, UsageError
from cake_cli.models.classifier import Classifier
from cake_cli.models.loading import adapt
from cake_cli.models.opened import OpenedModel, OutputKind

WEIGHTS = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))


class From(nn.Module):
    """A module made of a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, rows: Tensor) -> Tensor:
        return self.function(rows)


def scores(rows: Tensor) -> Tensor:
    return torch.tanh(rows.flatten(1) @ WEIGHTS)


def opened(
    function: Callable[[Tensor], Tensor],
    *,
    shape: tuple[int, ...] = (1, 4, 4),
    kind: OutputKind = "logits",
    **more: object,
) -> OpenedModel:
    return OpenedModel(From(function), shape, kind, "test", **more)  # type: ignore[arg-type]


def classifier(model: OpenedModel, **settings: object) -> Classifier:
    return adapt(model, TeacherConfig(**settings), name="test", digest="0")  # type: ignore[arg-type]


def test_a_good_model_is_taken_as_it_is() -> None:
    model = classifier(opened(scores))
    rows = torch.randn(5, 1, 4, 4)
    torch.testing.assert_close(model(rows), scores(rows))
    assert (model.classes, model.batching, model.output_kind) == (3, "direct", "logits")
    assert any("gradient non-zero on 3 of 3" in check for check in model.checks)


def test_a_fixed_batch_is_mapped() -> None:
    def one_row(rows: Tensor) -> Tensor:
        return torch.tanh(rows.reshape(1, 16) @ WEIGHTS)

    model = classifier(opened(one_row, fixed_batch=1))
    rows = torch.randn(5, 1, 4, 4)
    assert model.batching == "vmap"
    torch.testing.assert_close(model(rows), scores(rows))


def test_rows_that_vanish_silently_are_noticed() -> None:
    model = classifier(opened(lambda rows: scores(rows)[:1], fixed_batch=1))
    rows = torch.randn(4, 1, 4, 4)
    torch.testing.assert_close(model(rows), scores(rows))


def test_a_fixed_batch_of_several_rows_is_padded() -> None:
    def four_rows(rows: Tensor) -> Tensor:
        return torch.tanh(rows.reshape(4, 16) @ WEIGHTS)

    model = classifier(opened(four_rows, fixed_batch=4))
    assert model.batching == "padded"
    for count in (1, 4, 9):
        rows = torch.randn(count, 1, 4, 4)
        torch.testing.assert_close(model(rows), scores(rows))


def test_where_mapping_fails_rows_go_one_by_one() -> None:
    def by_value(rows: Tensor) -> Tensor:
        flat = rows.reshape(1, 16)
        return torch.tanh(flat @ WEIGHTS) if float(flat.detach().sum()) > -1e9 else flat  # .item() has no batching rule

    model = classifier(opened(by_value, fixed_batch=1))
    rows = torch.randn(4, 1, 4, 4)
    assert model.batching == "loop"
    torch.testing.assert_close(model(rows), scores(rows))


def test_a_model_without_batch_axis() -> None:
    model = classifier(opened(lambda row: torch.tanh(row.flatten() @ WEIGHTS), has_batch_axis=False))
    rows = torch.randn(4, 1, 4, 4)
    torch.testing.assert_close(model(rows), scores(rows))


@pytest.mark.parametrize(("function", "message"), [
    (lambda rows: scores(rows) - scores(rows).mean(0), "depends on the other rows"),
    (lambda rows: scores(rows) * float("nan"), "not finite"),
    (lambda rows: rows * 2, r"not \(1, classes\)"),
    (lambda rows: torch.cat([scores(rows)] * 2), r"not \(1, classes\)"),
    (lambda rows: scores(rows).detach(), "no gradient in the input"),
    (lambda rows: scores(rows) * 0 + 1, "zero on all of 24"),
    (lambda rows: rows.flatten(1) @ torch.zeros(99, 3), "does not run on an input"),
])  # fmt: skip
def test_what_is_no_classifier_is_refused_with_the_figure(function: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        classifier(opened(function))
    assert caught.value.fix


def test_dead_starts_are_counted_on_more_rows() -> None:
    model = classifier(opened(lambda rows: scores(rows).relu() * (rows.flatten(1).mean(1, keepdim=True) > 0)))
    (said,) = (check for check in model.checks if "gradient" in check)
    alive = int(said.split(" of 24")[0].rpartition(" ")[2])
    assert 0 < alive < 24


def test_weights_that_are_nan_are_named() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    nn.init.constant_(module[1].weight, float("nan"))
    with pytest.raises(ModelFileError, match=r"weights hold NaN: 1 tensor, first '1\.weight'"):
        classifier(OpenedModel(module, (1, 4, 4), "logits", "test"))


def test_hidden_probabilities_become_logits() -> None:
    model = classifier(opened(lambda rows: scores(rows).softmax(1)))
    rows = torch.randn(4, 1, 4, 4)
    assert model.output_kind == "probs"
    torch.testing.assert_close(model(rows).softmax(1), scores(rows).softmax(1))


def test_one_score_is_two_classes() -> None:
    model = classifier(opened(lambda rows: scores(rows)[:, :1], kind="sigmoid"))
    rows = torch.randn(4, 1, 4, 4)
    assert model.classes == 2
    torch.testing.assert_close(model(rows).softmax(1)[:, 1], scores(rows)[:, 0].sigmoid())


def test_channels_last_files_take_our_order() -> None:
    weights = torch.randn(5 * 4 * 3, 2, generator=torch.Generator().manual_seed(1))
    model = classifier(opened(lambda rows: rows.reshape(len(rows), -1) @ weights, shape=(5, 4, 3)))
    assert model.spec.shape == (3, 5, 4)
    rows = torch.randn(2, 3, 5, 4)
    torch.testing.assert_close(model(rows), rows.permute(0, 2, 3, 1).reshape(2, -1) @ weights)


def test_a_flat_file_can_be_an_image() -> None:
    model = classifier(opened(scores, shape=(16,)), input_shape=(1, 4, 4))
    assert model.spec.shape == (1, 4, 4)
    assert model(torch.randn(2, 1, 4, 4)).shape == (2, 3)


def test_an_input_shape_that_does_not_fit_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="does not fit the file, whose input is 1x4x4"):
        classifier(opened(scores), input_shape=(1, 5, 5))


def test_a_raw_range_is_scaled_inside() -> None:
    model = classifier(opened(lambda rows: scores(rows / 255)), input_range=(0.0, 255.0))
    assert model.spec.expects == "raw"
    assert model.spec.mean == (127.5,)
    rows = torch.randn(3, 1, 4, 4)
    torch.testing.assert_close(model(rows), scores((rows * 255 / np.sqrt(12) + 127.5) / 255), rtol=1e-4, atol=1e-5)
    assert "--input-range" in model.spec.source


def test_normalisation_is_read_from_metadata_and_flags_win() -> None:
    spec = '{"shape": [1, 4, 4], "mean": [0.3], "std": [0.4], "range": [0, 1], "expects": "normalised", "source": "x"}'
    model = classifier(opened(scores, metadata={"cake.input": spec, "cake.class_names": '["a", "b", "c"]'}))
    assert (model.spec.mean, model.spec.source) == ((0.3,), "the file's metadata")
    assert model.class_names == ("a", "b", "c")
    told = classifier(opened(scores, metadata={"cake.input": spec}), mean=(0.5,), std=(0.2,))
    assert (told.spec.mean, told.spec.source) == ((0.5,), "--mean and --std")


def test_without_verification_the_record_says_so() -> None:
    model = classifier(opened(lambda rows: scores(rows) * 0), verify=False)
    assert any("--no-verify" in check for check in model.checks)
