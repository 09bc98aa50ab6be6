"""The table of timm's architectures: in step with timm, exact, and without choosing where several fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cake_cli.config import TeacherConfig
from cake_cli.errors import ModelFileError
from cake_cli.models.formats import sniff
from cake_cli.models.loading import load_classifier
from cake_cli.models.weights import command, fitting, read_weights
from cake_cli.models.weights.timm_table import FILE, timm_names

timm = pytest.importorskip("timm")
from tests.models.weights.timm_table import build  # noqa: E402  # it needs timm

KNOWN = ("test_vit", "test_efficientnet", "resnet10t", "mobilenetv3_small_050", "deit_tiny_distilled_patch16_224")
NAMES = [name for name in KNOWN if timm.is_model(name)]


def shapes_of(name: str, **options: int) -> dict[str, tuple[int, ...]]:
    state = build(name, **options).state_dict()
    return {key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize("name", NAMES)
def test_the_table_is_in_step_with_timm(name: str) -> None:
    assert name in [found[0] for found in timm_names(shapes_of(name))]
    assert (name, 7, 1) in timm_names(shapes_of(name, num_classes=7, in_chans=1))


def test_one_other_shape_fits_nothing() -> None:
    shapes = shapes_of("resnet10t")
    assert timm_names(shapes | {"layer1.0.conv1.weight": (64, 64, 5, 5)}) == []
    assert timm_names({key: shape for key, shape in shapes.items() if key != "layer1.0.bn1.bias"}) == []


def test_the_table_is_whole() -> None:
    rows = [line.split() for line in FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert len(rows) > 1_000
    assert {len(row) for row in rows} == {5}
    assert len({row[0] for row in rows}) == len(rows)


def test_collisions_are_listed_and_not_chosen_from(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    network = timm.create_model("mobilenetv3_small_050", num_classes=3)
    torch.save({"state_dict": {f"model.{key}": value for key, value in network.state_dict().items()}}, path)
    weights = read_weights(sniff(path))
    fits = fitting(weights)
    assert {"timm:mobilenetv3_small_050", "timm:tf_mobilenetv3_small_minimal_100"} & {f.architecture for f in fits}
    assert {fit.classes for fit in fits} == {3}
    if len(fits) > 1:
        assert "--arch NAME" in command(weights, fits)
        with pytest.raises(ModelFileError, match="which compute different things"):
            load_classifier(path)


def test_what_is_listed_opens(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(timm.create_model("resnet10t", num_classes=3).state_dict(), path)
    fits = fitting(read_weights(sniff(path)))
    assert "timm:resnet10t" in [fit.architecture for fit in fits]
    found = load_classifier(path, TeacherConfig(arch="timm:resnet10t", input_shape=(3, 32, 32)))
    assert found.classes == 3
