from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cake_cli.distillation import checkpoints
from cake_cli.distillation.feeding import Labelled
from cake_cli.distillation.fidelity import measure_agreement
from cake_cli.distillation.losses import distillation_loss
from cake_cli.distillation.optimizers import UpdateRule
from cake_cli.distillation.trainer import Epoch, _draw, train
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
        "rule": UpdateRule("sgd", 0.1, 5e-4),
        "seed": 1,
        "hardware": cpu,
        "stage": SILENT.stage("", 1, ""),
        "on_epoch": epochs.append,
    }
    settings |= changes
    train(student, settings.pop("samples", samples()), **settings)  # type: ignore[arg-type]
    return epochs


def test_any_seed_orders_samples(cpu: Hardware) -> None:
    torch.manual_seed(0)
    for seed in (20241122133700, 2**63 - 1):
        assert fit(network(), cpu, seed=seed, epochs=1)[0].loss > 0


def test_no_epoch_of_a_process_draws_what_another_of_another_draws(cpu: Hardware) -> None:
    feed, drawn = samples(), set()
    for seed in range(6):
        for rank in range(3):
            _, own = _draw(feed, 32, seed, None, cpu, rank, 3)
            drawn |= {torch.initial_seed(), own.initial_seed() + 2**62}
    assert len(drawn) == 2 * 6 * 3


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
    assert max(rates) == pytest.approx(0.1, rel=0.01)
    assert rates[-1] < 1e-3 < rates[0]


def test_training_repeats_exactly(cpu: Hardware) -> None:
    first, second = network(), network()
    fit(first, cpu)
    torch.randn(3)
    fit(second, cpu)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.fixture
def each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes, a checkpoint is written after each epoch."""
    monkeypatch.setattr(checkpoints, "SHARE", math.inf)


@pytest.mark.usefixtures("each_epoch")
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


@pytest.mark.parametrize("step", [1, 5, 8])
def test_a_loss_that_is_not_finite_names_the_step(cpu: Hardware, step: int) -> None:
    calls = []

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        calls.append(1)
        return student.sum(1) * (float("nan") if len(calls) == step else 1e-3)

    with pytest.raises(RunError, match=f"not finite at step {(step - 1) % 6 + 1} of epoch {(step + 5) // 6}") as caught:
        fit(network(), cpu, loss=loss)
    assert caught.value.fix == "--lr 0.02"


def test_samples_that_are_not_finite_are_to_blame(cpu: Hardware) -> None:
    given = samples()
    given.inputs[[7, 9]] = float("inf")
    with pytest.raises(DataError, match=r"2 of the 200 samples of training step 1 are not finite"):
        fit(network(), cpu, samples=given, batch_size=200)


def test_a_bank_smaller_than_a_batch_is_one_batch(cpu: Hardware) -> None:
    assert len(fit(network(), cpu, batch_size=100_000, epochs=2)) == 2


def weights(student: nn.Module) -> list[Tensor]:
    return [value.clone() for value in student.state_dict().values()]


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def test_short_epochs_do_not_each_leave_a_checkpoint(
    tmp_path: Path, cpu: Hardware, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that a second an epoch and half a second a checkpoint move: ten of them are a twentieth."""
    clock, kept = [0.0], []

    def save(path: Path, parts: object, epoch: int) -> None:
        clock[0] += 0.5
        kept.append(epoch)

    def passed(epoch: Epoch) -> None:
        clock[0] += 1.0

    monkeypatch.setattr(checkpoints, "save", save)
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    fit(network(), cpu, checkpoint=tmp_path / "training.pt", epochs=25, on_epoch=passed)
    assert kept == [1, 11, 21, 25], "the first, the last, and one in ten between"


@pytest.mark.usefixtures("each_epoch")
@pytest.mark.parametrize("more", [{}, {"ema": 0.9}, {"lr_schedule": "cosine"}, {"clip": 0.1}])
def test_killed_in_the_middle_of_an_epoch_it_ends_the_same(
    tmp_path: Path, cpu: Hardware, more: dict[str, object]
) -> None:
    undisturbed = network()
    fit(undisturbed, cpu, **more)
    calls = []

    class Killed(BaseException):
        pass

    def killed(student: Tensor, teacher: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 15:  # the third step of the third epoch
            raise Killed
        return distillation_loss("soft", 1.0)(student, teacher)

    with pytest.raises(Killed):
        fit(network(), cpu, checkpoint=tmp_path / "training.pt", loss=killed, **more)
    resumed = network()
    epochs = fit(resumed, cpu, checkpoint=tmp_path / "training.pt", **more)
    assert [epoch.epoch for epoch in epochs] == [3, 4, 5, 6], "the epoch that was cut short is repeated"
    assert same(resumed, undisturbed)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, cpu: Hardware) -> None:
    fit(network(), cpu, checkpoint=tmp_path / "training.pt")
    with pytest.raises(DataError, match="is damaged"):
        fit(nn.Linear(6, 3), cpu, checkpoint=tmp_path / "training.pt")


def test_learning_rates_of_the_other_schedules(cpu: Hardware) -> None:
    cosine = [epoch.lr for epoch in fit(network(), cpu, lr_schedule="cosine")]
    assert cosine == sorted(cosine, reverse=True)
    assert cosine[-1] < 1e-9 < 0.09 < cosine[0]
    assert {epoch.lr for epoch in fit(network(), cpu, lr_schedule="constant")} == {0.1}


def test_the_average_of_the_weights_becomes_the_student(cpu: Hardware) -> None:
    plain, averaged = network(), network()
    trail: list[list[Tensor]] = []

    class Watched(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            trail.append(weights(averaged))
            return averaged(rows)  # type: ignore[no-any-return]

    fit(plain, cpu, epochs=1)
    fit(averaged, cpu, epochs=1, ema=0.999, forward=Watched())
    assert not same(plain, averaged)
    steps = [*trail[1:], weights(plain)]  # after each step; the weights that are averaged are those without
    expected = steps[0]
    for count, step in enumerate(steps[1:], start=1):
        decay = (1 + count) / (10 + count)
        expected = [
            torch.lerp(a, b, 1 - decay) if a.is_floating_point() else a for a, b in zip(expected, step, strict=True)
        ]
    for found, wanted in zip(weights(averaged), expected, strict=True):
        if found.is_floating_point():
            torch.testing.assert_close(found, wanted)


def test_a_long_gradient_is_shortened_and_a_short_one_is_not(cpu: Hardware) -> None:
    def moved(clip: float) -> float:
        """How far one step of plain SGD with a rate of one takes all weights together: the gradient's norm."""
        student = nn.Linear(6, 3)
        for weight in student.parameters():
            nn.init.zeros_(weight)
        rule = UpdateRule("sgd", 1.0, 0.0, momentum=0.0)
        fit(student, cpu, epochs=1, batch_size=200, rule=rule, clip=clip, lr_schedule="constant")
        return float(torch.cat([weight.detach().flatten() for weight in student.parameters()]).norm())

    free = moved(0.0)
    assert moved(free * 2) == pytest.approx(free)
    assert moved(free / 4) == pytest.approx(free / 4, rel=1e-4)


def test_a_class_that_counts_for_nothing_is_not_learned(cpu: Hardware) -> None:
    given = samples()
    classes = given.logits.argmax(1)
    student = network()
    fit(student, cpu, class_weights=torch.tensor([1.0, 1.0, 0.0]), loss=distillation_loss("hard", 1.0), epochs=40)
    found = student(given.inputs).argmax(1)
    assert bool((classes == 2).any())
    assert not bool((found == 2).any())
    assert float((found == classes)[classes != 2].float().mean()) > 0.9


def test_true_labels_pull_where_there_are_any(cpu: Hardware) -> None:
    given = samples()
    against = (given.logits.argmax(1) + 1) % 3
    labels = torch.where(torch.arange(200) < 100, against, -1)
    for weight, low, high in ((1.0, 0.6, 1.0), (0.0, 0.0, 0.3)):
        student = network()
        fit(student, cpu, samples=Labelled(given.inputs, given.logits, labels), hard_weight=weight, epochs=40)
        assert low <= (student(given.inputs).argmax(1)[:100] == against[:100]).float().mean() <= high


def test_what_stands_for_the_student_is_what_learns(cpu: Hardware) -> None:
    alone, through = network(), network()
    fit(alone, cpu)
    calls = []

    def forward(rows: Tensor) -> Tensor:
        calls.append(len(rows))
        return through(rows)  # type: ignore[no-any-return]

    fit(through, cpu, forward=forward)
    assert calls == [32] * 36
    assert same(alone, through)


def test_every_epoch_trains_in_training_mode_and_in_an_order_of_its_own(cpu: Hardware) -> None:
    """Though what is held out was measured in between, which takes the student out of it."""
    student, modes, firsts = network(), [], []

    def forward(rows: Tensor) -> Tensor:
        modes.append(student.training)
        firsts.append(rows[0].clone())
        return student(rows)  # type: ignore[no-any-return]

    fit(student, cpu, epochs=3, heldout=samples(50), batch_size=100, forward=forward)
    assert modes == [True] * 6
    assert len(torch.stack(firsts[::2]).unique(dim=0)) == 3


def test_agreement_is_that_of_the_weights_that_are_kept(cpu: Hardware) -> None:
    student, held = network(), samples(200)
    epochs = fit(student, cpu, epochs=1, ema=0.999, heldout=held, batch_size=8)
    assert epochs[-1].agreement == measure_agreement(student, held, cpu)
