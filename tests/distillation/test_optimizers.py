"""Which optimizer a student gets, and that the run says which."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cake_cli.distillation.optimizers import BETAS, UpdateRule
from cake_cli.models.architectures import build_student


@pytest.mark.parametrize(
    ("architecture", "name", "lr"),
    [
        ("cnn", "sgd", 0.1),
        ("mlp:8", "sgd", 0.1),
        ("resnet4", "sgd", 0.1),
        ("vit:patch=4,dim=8,depth=1,heads=2", "adamw", 3e-3),
        ("convnext_tiny", "adamw", 3e-3),
    ],
)
def test_networks_with_layer_normalisation_learn_by_adamw(architecture: str, name: str, lr: float):
    rule = UpdateRule.for_network(build_student(architecture, (3, 32, 32), 10))
    assert (rule.name, rule.lr) == (name, lr)


def test_what_is_asked_for_wins():
    network = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    assert UpdateRule.for_network(network, "sgd", lr=0.5, weight_decay=0.0) == UpdateRule("sgd", 0.5, 0.0)
    rule = UpdateRule.for_network(network, lr=0.02)
    assert (rule.name, rule.lr, rule.weight_decay) == ("adamw", 0.02, 0.01)
    built = rule.build(network)
    assert isinstance(built, torch.optim.AdamW)
    assert (built.defaults["lr"], built.defaults["betas"]) == (0.02, BETAS)
    assert UpdateRule.for_network(network, "sgd", momentum=0.5).build(network).defaults["momentum"] == 0.5


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_rate_and_decay_arrive(name: str):
    built = UpdateRule(name, 0.5, 0.25).build(nn.Linear(2, 2))  # type: ignore[arg-type]
    assert (built.defaults["lr"], built.defaults["weight_decay"]) == (0.5, 0.25)
