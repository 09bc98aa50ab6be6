"""BatchNorm statistics against their definition, and the teachers in which there are none to be had."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from cake_cli.errors import UsageError
from cake_cli.models.classifier import Classifier
from cake_cli.spec import InputSpec
from cake_cli.synthesis.statistics import BatchNormStatistics, batchnorm_layers, in_order, listening
from cake_cli.synthesis.terms import Candidates

SETS, SIZE = 3, 4


def network() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(27, 6),
        nn.BatchNorm1d(6),
        nn.Linear(6, 4),
    )
    for layer in module:
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2.0)
    return module.eval().requires_grad_(False)


def classifier(module: nn.Module) -> Classifier:
    return Classifier(module, InputSpec((2, 5, 5)), 4, "teacher", "0" * 64)


def candidates(teacher: Classifier, rows: torch.Tensor) -> Candidates:
    with listening(batchnorm_layers(teacher)) as heard:
        logits = teacher(rows)
    return Candidates(rows, logits, torch.arange(len(rows)) % 4, 2, SIZE, in_order(heard))


def rows() -> torch.Tensor:
    return torch.randn(SETS * SIZE, 2, 5, 5, generator=torch.Generator().manual_seed(1))


def test_by_hand() -> None:
    teacher = classifier(network())
    first, second = teacher.module[1], teacher.module[5]
    found = BatchNormStatistics(batchnorm_layers(teacher))(candidates(teacher, rows())).reshape(SETS, SIZE)
    for own, values in zip(rows().split(SIZE), found, strict=True):
        inner = teacher.module[0](own)  # (B, 3, 3, 3)
        deep = teacher.module[:5](own)  # (B, 6)
        places = inner.permute(1, 0, 2, 3).flatten(1)
        expected = (
            (places.mean(1) - first.running_mean).norm()
            + (places.var(1, correction=0) - first.running_var).norm()
            + (deep.mean(0) - second.running_mean).norm()
            + (deep.var(0, correction=0) - second.running_var).norm()
        )
        torch.testing.assert_close(values, expected.expand(SIZE))


def test_a_step_against_the_gradient_brings_the_statistics_nearer() -> None:
    teacher = classifier(network())
    term = BatchNormStatistics(batchnorm_layers(teacher))
    leaf = rows().requires_grad_()
    before = term(candidates(teacher, leaf)).sum()
    (slope,) = torch.autograd.grad(before, leaf)
    assert float(term(candidates(teacher, rows() - 1e-3 * slope)).sum()) < float(before.detach())


def test_nothing_is_left_in_the_teacher() -> None:
    teacher = classifier(network())
    with listening(batchnorm_layers(teacher)) as heard:
        teacher(rows())
    teacher(rows())
    assert len(heard) == 2
    assert not any(layer._forward_pre_hooks for layer in teacher.module)


def test_a_teacher_without_batchnorm() -> None:
    with pytest.raises(UsageError, match="has no BatchNorm layers") as caught:
        batchnorm_layers(classifier(nn.Sequential(nn.Flatten(), nn.Linear(50, 4))))
    assert "batchnorm_weight=0" in str(caught.value.fix)


def test_batchnorm_without_running_statistics() -> None:
    module = nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten(), nn.Linear(50, 4))
    with pytest.raises(UsageError, match="has no BatchNorm layers with running statistics"):
        batchnorm_layers(classifier(module.eval()))


def test_torchscript_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and still in use
        scripted = torch.jit.trace(network(), rows())
    with pytest.raises(UsageError, match="TorchScript shows nothing of its inside"):
        batchnorm_layers(classifier(nn.Sequential(nn.Identity(), scripted)))


def test_a_teacher_that_takes_single_rows_is_refused() -> None:
    with pytest.raises(UsageError, match="does not take whole batches"):
        batchnorm_layers(replace(classifier(network()), batching="loop"))


def test_a_layer_that_is_run_twice_is_refused() -> None:
    shared = nn.BatchNorm2d(2)
    module = nn.Sequential(shared, nn.ReLU(), shared, nn.Flatten(), nn.Linear(50, 4)).eval().requires_grad_(False)
    with pytest.raises(UsageError, match="not each run once"):
        batchnorm_layers(classifier(module))
