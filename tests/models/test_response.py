"""The scale at which outputs respond, and the word about it where it is far from what was assumed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cake_cli.models import response
from cake_cli.models.classifier import Classifier
from cake_cli.models.response import Response, doubt_of, measure_response
from cake_cli.spec import InputSpec


class Scaled(nn.Module):
    """A network for inputs of about `scale`, (N, 3, 8, 8) or (N, 6) to (N, 4)."""

    def __init__(self, scale: float, values: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale = scale
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(values, 32), nn.Tanh(), nn.Linear(32, 4))
        self.body[1].weight.data *= 4
        self.body[3].weight.data *= 20

    def forward(self, rows: Tensor) -> Tensor:
        return self.body(rows / self.scale)


def classifier(scale: float, spec: InputSpec) -> Classifier:
    return Classifier(Scaled(scale, spec.values), spec, 4, "net", "0" * 64)


@pytest.mark.parametrize(
    ("shape", "fix"), [((3, 8, 8), "--input-range 0,1 or 0,255"), ((6,), "--input-range LOW,HIGH")]
)
@pytest.mark.parametrize("scale", [0.01, 1.0, 1000.0])
def test_the_scale_is_found_to_a_power_of_ten(shape: tuple[int, ...], fix: str, scale: float) -> None:
    spec = InputSpec(shape)
    found = measure_response(classifier(scale, spec), 1000)
    assert found.scale is not None
    assert scale / 10 <= found.scale <= scale
    assert f"about {found.scale:g}" in found.sentence()
    doubt = found.doubt(spec)
    assert (doubt is None) == (scale == 1.0)
    assert doubt is None or (fix in doubt and ("larger" in doubt) == (scale > 1))


def test_a_range_that_is_known_is_not_advised_again() -> None:
    doubt = Response(dict.fromkeys((0.01, 0.1, 1.0, 10.0), 0.0) | {100.0: 0.5}).doubt
    assert "--input-range 0,1 or 0,255" in (doubt(InputSpec((3, 8, 8), source="assumed")) or "")
    known = doubt(InputSpec((3, 8, 8), range=(0.0, 255.0), source="--input-range"))
    assert (known or "").endswith("is it trained, and does it take values from 0 to 255?")


def test_only_what_is_assumed_and_costs_nothing_is_doubted() -> None:
    assumed = InputSpec((3, 8, 8), source="assumed: of about N(0, 1)")
    far = classifier(1000.0, assumed)
    assert "larger than those of N(0, 1)" in (doubt_of(far, 1000) or "")
    assert doubt_of(classifier(1.0, assumed), 1000) is None
    assert doubt_of(replace(far, spec=replace(assumed, source="--mean and --std")), 1000) is None
    assert doubt_of(replace(far, seconds_a_row=0.1), 1000) is None


def test_a_constant_responds_to_nothing() -> None:
    found = Response({0.1: 0.0, 1.0: 0.001, 10.0: 0.0})
    assert found.scale is None
    assert found.doubt(InputSpec((6,))) is None
    assert "no scale that was tried" in found.sentence()


def test_a_large_network_gets_fewer_scales_and_a_giant_none(monkeypatch: pytest.MonkeyPatch) -> None:
    network = classifier(1.0, InputSpec((6,)))
    for operations, scales in ((response.WORK / 24, 6), (response.WORK / 8, 4), (response.WORK / 3, 3)):
        assert len(measure_response(network, int(operations)).changes) == scales
    found = measure_response(network, int(response.WORK))
    assert found.changes == {}
    assert "not measured" in found.sentence()
    monkeypatch.setattr(response, "SECONDS", -1.0)
    assert measure_response(network, 1000).changes == {}
