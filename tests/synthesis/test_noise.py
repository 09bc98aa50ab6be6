from __future__ import annotations

import math

import pytest
import torch

from cake_cli.config import Init, Noise, StepSchedule
from cake_cli.synthesis.noise import add_langevin, draw_labels, draw_start, step_size, stream


def test_linear_schedule_is_the_papers() -> None:
    sizes = [step_size(s, 8, first=0.1, decades=4.0, schedule="linear") for s in range(8)]
    assert sizes == pytest.approx([0.1 * 10 ** (-4 * s / 8) for s in range(8)])


def test_cosine_schedule_has_the_same_ends_and_a_slow_start() -> None:
    linear, cosine = (
        [step_size(s, 100, first=0.1, decades=4.0, schedule=kind) for s in range(101)] for kind in ("linear", "cosine")
    )
    assert cosine[0] == pytest.approx(linear[0])
    assert cosine[100] == pytest.approx(linear[100])
    assert cosine[10] > linear[10]
    assert cosine[50] == pytest.approx(linear[50])


@pytest.mark.parametrize("noise", ["langevin", "none"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_without_implicit_noise_all_sets_have_the_middle_step_size(noise: Noise, schedule: StepSchedule) -> None:
    sizes = {step_size(s, 9, first=0.1, decades=4.0, schedule=schedule, noise=noise) for s in range(9)}
    assert sorted(sizes) == [pytest.approx(1e-3)]
    assert step_size(3, 9, first=0.3, decades=0.0, schedule=schedule, noise=noise) == 0.3


def test_both_kinds_of_noise_let_the_step_size_fall() -> None:
    implicit, both = (
        [step_size(s, 9, first=0.1, decades=4.0, schedule="linear", noise=noise) for s in range(9)]
        for noise in ("implicit", "both")
    )
    assert implicit == both


def test_labels_of_a_row_are_distinct_and_of_all_classes() -> None:
    labels = draw_labels(200, 3, 7, stream(0, 0, "labels"))
    assert labels.shape == (200, 3)
    assert all(len(set(row)) == 3 for row in labels.tolist())
    assert set(labels.flatten().tolist()) == set(range(7))


def test_streams_depend_on_seed_set_and_purpose_only() -> None:
    first = draw_start((4,), 5, stream(3, 1, "start"))
    draw_start((4,), 50, stream(3, 0, "start"))
    assert torch.equal(first, draw_start((4,), 5, stream(3, 1, "start")))
    others = [stream(4, 1, "start"), stream(3, 2, "start"), stream(3, 1, "labels")]
    assert not any(torch.equal(first, draw_start((4,), 5, other)) for other in others)


def test_langevin_noise_has_the_right_scale_in_each_set() -> None:
    rows = torch.zeros(2 * 5000, 3)
    add_langevin(rows, [0.5, 0.02], [stream(0, 0, "langevin"), stream(0, 1, "langevin")])
    assert float(rows[:5000].std()) == pytest.approx(math.sqrt(2 * 0.5), rel=0.03)
    assert float(rows[5000:].std()) == pytest.approx(math.sqrt(2 * 0.02), rel=0.03)


@pytest.mark.parametrize("init", ["normal", "uniform", "smooth"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 12), (2, 1, 1)])
def test_starting_points_have_mean_zero_and_variance_one(init: Init, shape: tuple[int, ...]) -> None:
    rows = draw_start(shape, 4000, stream(0, 0, "start"), init)
    assert rows.shape == (4000, *shape)
    assert float(rows.mean()) == pytest.approx(0.0, abs=0.06)
    assert float(rows.std()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 12), (2, 1, 1)])
def test_exposed_starts_lie_within_the_range_and_reach_both_ends(shape: tuple[int, ...]) -> None:
    low, high = torch.tensor([-0.5, -2.0, -1.0])[: shape[0], None, None], torch.full((shape[0], 1, 1), 3.0)
    rows = draw_start(shape, 500, stream(0, 0, "start"), "exposed", (low, high))
    assert rows.shape == (500, *shape)
    assert torch.equal(rows.amin((0, 2, 3)), low.flatten())
    assert torch.equal(rows.amax((0, 2, 3)), high.flatten())
    again = draw_start(shape, 500, stream(0, 0, "start"), "exposed", (low, high))
    assert torch.equal(rows, again)


def test_exposed_starts_differ_in_brightness_and_contrast_and_have_no_noise_of_single_pixels() -> None:
    bounds = (torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    rows = draw_start((1, 16, 16), 1000, stream(0, 0, "start"), "exposed", bounds)
    brightness, contrast = rows.mean((1, 2, 3)), rows.std((1, 2, 3))
    assert float(brightness.quantile(0.9) - brightness.quantile(0.1)) > 0.5
    assert float(contrast.quantile(0.9)) > 4 * float(contrast.quantile(0.1))
    smooth = draw_start((1, 16, 16), 1000, stream(0, 0, "start"), "smooth")
    rough = [float(one.diff(dim=3).square().mean() / one.var()) for one in (rows, smooth)]
    assert rough[0] < 0.6 * rough[1]


def test_without_a_range_exposed_starts_are_smooth() -> None:
    shown, smooth = (draw_start((1, 8, 8), 9, stream(0, 0, "start"), init) for init in ("exposed", "smooth"))
    assert torch.equal(shown, smooth)


def test_smooth_starts_are_smoother_than_normal_ones() -> None:
    def roughness(init: Init) -> float:
        return float(draw_start((1, 16, 16), 200, stream(0, 0, "start"), init).diff(dim=3).abs().mean())

    assert roughness("smooth") < 0.75 * roughness("normal")


def test_vectors_start_normal_where_images_start_smooth() -> None:
    inits: tuple[Init, ...] = ("smooth", "exposed", "normal")
    smooth, exposed, normal = (draw_start((5,), 9, stream(0, 0, "start"), init) for init in inits)
    assert torch.equal(smooth, normal)
    assert torch.equal(exposed, normal)
