from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cake_cli.distillation.losses import distillation_loss, hard_cross_entropy, soft_cross_entropy
from cake_cli.distillation.trainer import Epoch, Labelled, measure_agreement, train
from cake_cli.errors import DataError, RunError
from cake_cli.events import SILENT
from cake_cli.hardware import Hardware


def samples(count: int = 200) -> Labelled:
    generator = torch.Generator().manual_seed(0)
    weights = 3 * torch.randn(6, 3, generator=generator)
    inputs = torch.randn(count, 6, generator=generator)
    return Labelled(inputs, inputs @ weights)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))


def fit(student: nn.Module, cpu: Hardware, **changes: object) -> list[Epoch]:
    epochs: list[Epoch] = []
    settings: dict[str, object] = {
        "heldout": None,
        "loss": distillation_loss("soft", 1.0),
        "epochs": 6,
        "batch_size": 32,
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "seed": 1,
        "hardware": cpu,
        "stage": SILENT.stage("", 1, ""),
        "on_epoch": epochs.append,
    }
    train(student, samples(), **(settings | changes))  # type: ignore[arg-type]
    return epochs


def test_soft_cross_entropy_by_hand() -> None:
    student, teacher = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    by_hand = -((teacher / 2).softmax(1) * (student / 2).log_softmax(1)).sum(1).mean() * 4
    torch.testing.assert_close(soft_cross_entropy(student, teacher, temperature=2.0), by_hand)


def test_hard_cross_entropy_takes_the_teachers_choice() -> None:
    student, teacher = torch.randn(5, 4), torch.randn(5, 4)
    torch.testing.assert_close(hard_cross_entropy(student, teacher), F.cross_entropy(student, teacher.argmax(1)))
    assert distillation_loss("hard", 1.0) is hard_cross_entropy


def test_a_student_learns(cpu: Hardware) -> None:
    student = network()
    epochs = fit(student, cpu, epochs=20, heldout=samples(50))
    assert epochs[-1].loss < epochs[0].loss
    assert epochs[-1].agreement is not None
    assert epochs[-1].agreement > 0.85
    assert measure_agreement(student, samples(), cpu) > 0.85
    assert not student.training


def test_the_learning_rate_is_one_cycle(cpu: Hardware) -> None:
    rates = [epoch.lr for epoch in fit(network(), cpu, epochs=10)]
    peak = rates.index(max(rates))
    assert 0 < peak < 5
    assert rates[-1] < 1e-3 < rates[0]


def test_training_repeats_exactly(cpu: Hardware) -> None:
    first, second = network(), network()
    fit(first, cpu)
    torch.randn(3)
    fit(second, cpu)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("stop", [1, 4])
def test_resumed_training_ends_bit_for_bit_the_same(tmp_path: Path, cpu: Hardware, stop: int) -> None:
    undisturbed = network()
    fit(undisturbed, cpu)
    checkpoint = tmp_path / "training.pt"

    class Killed(Exception):
        pass

    def stop_there(epoch: Epoch) -> None:
        if epoch.epoch == stop + 1:
            raise Killed

    with pytest.raises(Killed):
        fit(network(), cpu, checkpoint=checkpoint, on_epoch=stop_there)
    resumed = network()
    epochs = fit(resumed, cpu, checkpoint=checkpoint)
    assert [epoch.epoch for epoch in epochs] == list(range(stop + 1, 7))
    pairs = zip(undisturbed.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, cpu: Hardware) -> None:
    checkpoint = tmp_path / "training.pt"
    checkpoint.write_bytes(b"not a checkpoint")
    with pytest.raises(DataError, match=r"checkpoint .* is damaged"):
        fit(network(), cpu, checkpoint=checkpoint)


def test_a_loss_that_is_not_finite_names_the_epoch(cpu: Hardware) -> None:
    with pytest.raises(RunError, match="not finite in epoch 1") as caught:
        fit(network(), cpu, loss=lambda student, teacher: student.sum() * float("nan"))
    assert caught.value.fix == "--lr 0.02"


def test_a_bank_smaller_than_a_batch_is_one_batch(cpu: Hardware) -> None:
    assert len(fit(network(), cpu, batch_size=100_000, epochs=2)) == 2
