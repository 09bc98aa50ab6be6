"""Views: what they change, and that the teacher labels what the student sees."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cake_cli.distillation.feeding import Labelled
from cake_cli.distillation.views import Views, mixed, noisy, require_possible, shifted
from cake_cli.errors import UsageError
from cake_cli.hardware import Hardware


def teacher(rows: Tensor) -> Tensor:
    flat = rows.flatten(1)
    return torch.stack([flat.sum(1), flat[:, 0], flat.square().sum(1)], dim=1)


def stream() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def batch(count: int = 200, shape: tuple[int, ...] = (1, 8, 8), labels: Tensor | None = None) -> Labelled:
    rows = torch.randn(count, *shape, generator=stream())
    return Labelled(rows, teacher(rows), labels, rows.roll(1, 0))


@pytest.mark.parametrize("names", [("mix",), ("shift",), ("flip",), ("noise",), ("mix", "shift", "flip", "noise")])
def test_half_are_changed_and_all_are_labelled_as_seen(cpu: Hardware, names: tuple[str, ...]):
    views = Views(names, teacher, cpu)  # type: ignore[arg-type]
    given = batch()
    seen = views(given, stream())
    torch.testing.assert_close(seen.logits, teacher(seen.inputs))
    changed = (seen.inputs != given.inputs).flatten(1).any(1).float().mean()
    low, high = (0.35, 0.65) if len(names) == 1 else (0.85, 0.99)
    assert low < changed < high
    assert seen.partners is None
    again = Views(names, teacher, cpu)(given, stream())  # type: ignore[arg-type]
    assert torch.equal(again.inputs, seen.inputs)


def test_real_samples_stay_as_they_are(cpu: Hardware):
    labels = torch.where(torch.arange(200) % 2 == 0, 1, -1)
    given = batch(labels=labels)
    seen = Views(("mix", "shift", "flip", "noise"), teacher, cpu)(given, stream())
    assert torch.equal(seen.inputs[::2], given.inputs[::2])
    assert torch.equal(seen.logits[::2], given.logits[::2])
    assert not torch.equal(seen.inputs[1::2], given.inputs[1::2])


def test_a_mixture_lies_between_both():
    rows, partners = torch.zeros(50, 3), torch.ones(50, 3)
    found = mixed(rows, partners, stream())
    assert torch.equal(found[:, 0], found[:, 1]), "one share a sample"
    assert 0 <= float(found.min()) < 0.2 < 0.8 < float(found.max()) <= 1


@pytest.mark.parametrize("shape", [(3, 16, 24), (1, 4, 4)])
def test_a_shift_moves_whole_pixels(shape: tuple[int, ...]):
    channels, height, width = shape
    rows = torch.arange(20 * channels * height * width, dtype=torch.float32).view(20, *shape)
    rows = rows.contiguous(memory_format=torch.channels_last)
    found = shifted(rows, stream())
    assert found.shape == rows.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    far = (max(1, height // 8), max(1, width // 8))
    middle = found[:, :, height // 2, width // 2] - rows[:, :, height // 2, width // 2]
    moves = {(y, x): float(width * y + x) for y in range(-far[0], far[0] + 1) for x in range(-far[1], far[1] + 1)}
    assert set(middle.flatten().tolist()) <= set(moves.values())
    assert len(set(middle.flatten().tolist())) > 3
    assert (middle == middle[:, :1]).all(), "channels move together"


def test_noise_is_small():
    rows = torch.zeros(100, 1, 8, 8)
    assert float(noisy(rows, stream()).std()) == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize(
    ("names", "shape", "group", "said"),
    [
        (("shift", "noise"), (6,), 5, "vectors have no shift"),
        (("mix",), (1, 8, 8), 1, "no others in their rows"),
        (("noise",), (1, 8, 8), 0, "there are none"),
    ],
)
def test_views_that_cannot_be(names: tuple[str, ...], shape: tuple[int, ...], group: int, said: str):
    with pytest.raises(UsageError, match=said):
        require_possible(names, shape, group)  # type: ignore[arg-type]
    require_possible(("mix", "noise"), (6,), 2)
