from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cake_cli.errors import RunError
from cake_cli.synthesis.health import Health, require_spread
from cake_cli.synthesis.samples import Samples

MASK = torch.tensor([True, True, False, False, False, False, False, False])


def samples(logits: torch.Tensor) -> Samples:
    count = len(logits)
    return Samples(torch.zeros(count, 1), logits, torch.zeros(count, dtype=torch.int64), torch.ones(count))


def health(histogram: tuple[int, ...]) -> Health:
    return Health(sum(histogram), 0.5, 0.5, 0.5, histogram)


def test_saturated_is_a_probability_of_one_in_float32() -> None:
    found = Health.of(samples(torch.tensor([[0.0, 0.0], [10.0, 0.0], [20.0, 0.0], [200.0, 0.0]])))
    assert found.saturated == pytest.approx(0.5)
    assert found.dead is None
    assert found.histogram == (4, 0)


def test_dead_and_redrawn_come_from_the_engine() -> None:
    found = Health.of(samples(torch.zeros(8, 2)), dead=MASK[:8], redrawn=~MASK[:8])
    assert (found.dead, found.redrawn) == (0.25, 6)


def test_one_class_has_a_balance_of_nothing() -> None:
    assert health((7, 0, 0)).describe(aimed=False).endswith("balance 0.00")
    assert health((4, 4)).balance == pytest.approx(1)


def test_parts_are_weighed_by_their_size() -> None:
    first, second = (
        Health.of(samples(torch.zeros(6, 3)), dead=MASK[:6]),
        Health.of(samples(torch.zeros(2, 3)), dead=MASK[2:4], redrawn=MASK[:2]),
    )
    both = Health.combine([first, second])
    assert (both.samples, both.dead, both.redrawn, both.saturated) == (8, pytest.approx(2 / 8), 2, 0.0)
    unknown = Health.combine([first, health((1, 1, 1))])
    assert (unknown.dead, unknown.saturated) == (None, None)


def test_old_manifests_are_read() -> None:
    old = {"samples": 2, "on_target": 1.0, "confidence": 0.9, "entropy": 0.1, "histogram": [1, 1]}
    assert Health(**old).saturated is None


def test_the_lines_say_what_is_known() -> None:
    known = Health(10, 0.5, 0.75, 0.25, (5, 5), 0.1, 0.2, 3)
    assert known.describe(aimed=True) == "on target 50.0%   balance 1.00"
    assert known.describe(aimed=False) == "balance 1.00"
    assert known.describe_labels() == "confidence 0.75   entropy 0.25   saturated 10.0%   dead 20.0%   redrawn 3"
    assert health((5, 5)).describe_labels() == "confidence 0.50   entropy 0.50"


def test_a_collapse_is_refused_at_the_end() -> None:
    with pytest.raises(RunError, match=r"puts 99% of them in one of its 3 classes") as caught:
        require_spread(health((99, 1, 0)), planned=100)
    assert caught.value.fix
    require_spread(health((60, 40, 0)), planned=100)


def test_a_collapse_is_refused_before_the_end_once_enough_is_there() -> None:
    require_spread(health((499, 0)), planned=2000)
    require_spread(health((900, 0)), planned=5000)
    with pytest.raises(RunError, match="100% of the first 1,000 in one of its 2 classes"):
        require_spread(health((1000, 0)), planned=5000)
    require_spread(health((900, 100)), planned=5000)


def test_sets_are_measured_one_by_one() -> None:
    logits = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])
    parts = Health.of_sets(samples(logits), 2, dead=MASK[:4], redrawn=None)
    columns = Health.columns(parts)
    assert columns["histogram"] == [(2, 0), (0, 2)]
    assert columns["on_target"] == [1.0, 0.0]
    assert (columns["dead"], columns["redrawn"]) == ([1.0, 0.0], [0, 0])
    assert Health.combine(parts) == Health.of(samples(logits), dead=MASK[:4])


def test_variety_is_the_share_of_the_variance_within_classes() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.eye(4).repeat(50, 1)  # (200, 4): the classes in turn
    centres = torch.randn(4, 1, 3, 3, generator=draw).repeat(50, 1, 1, 1)
    noise = torch.randn(200, 1, 3, 3, generator=draw)

    def variety(inputs: torch.Tensor) -> float:
        found = Health.of(replace(samples(logits), inputs=inputs)).variety
        assert found is not None
        return found

    assert variety(noise) == pytest.approx(1.0, abs=0.02)
    assert variety(centres) == 0.0
    means = centres[:4].flatten(1)
    expected = 1 / (1 + float((means - means.mean(dim=0)).square().sum(dim=1).mean()) / 9)  # unit variance within
    assert variety(centres + noise) == pytest.approx(expected, abs=0.05)
    assert Health.of(samples(torch.eye(4))).variety is None, "one sample of a class says nothing"


def test_classes_of_one_picture_each_are_warned_of() -> None:
    alike, varied = replace(health((50, 50)), variety=0.05), replace(health((50, 50)), variety=0.4)
    assert "nearly alike (variety 5.0%)" in str(alike.doubt(aimed=True))
    assert (varied.doubt(aimed=True), health((50, 50)).doubt(aimed=True)) == (None, None)
    assert varied.describe_labels().endswith("variety 0.40")
    assert Health.combine([alike, varied]).variety == pytest.approx(0.225)


def test_labels_that_teach_little_are_doubted_where_nothing_was_aimed_at() -> None:
    narrow, even = health((97, 3, 0)), replace(health((40, 30, 30)), entropy=1.0)
    assert "puts 97% of them in one of its 3 classes" in str(narrow.doubt(aimed=False))
    undecided = replace(even, entropy=1.095, confidence=0.35)
    assert "undecided about them (confidence 0.35)" in str(undecided.doubt(aimed=False))
    assert (even.doubt(aimed=False), narrow.doubt(aimed=True), undecided.doubt(aimed=True)) == (None, None, None)


def test_classes_are_listed_while_they_fit() -> None:
    assert health((3, 1200)).describe_classes() == "0 3, 1 1,200"
    assert health((3, 1200)).describe_classes(("cat", "dog")) == "cat 3, dog 1,200"
    assert health((0, 5, *[7] * 98)).describe_classes() == "0 to 7 in each of 100, none in 1"
