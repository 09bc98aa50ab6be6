from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cake_cli.errors import DataError, EnvironmentFault
from cake_cli.report.sheet import sample_sheet
from cake_cli.report.tiles import channels_note, encode, pixels, shrink
from cake_cli.spec import InputSpec
from cake_cli.synthesis.samples import Samples
from tests.report import made


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 5), (4, 3, 3), (1, 1, 1), (2,), (5,), (1,)])
def test_draws_any_input(tmp_path: Path, shape: tuple[int, ...]) -> None:
    spec = InputSpec(shape, range=(0.0, 1.0) if len(shape) == 3 else None)
    samples = made.draw(made.teacher(spec, 4), 60)
    path = tmp_path / "samples.png"
    sample_sheet(samples, spec, 4, ("a", "$b", "日本", "_d"), path)
    with Image.open(path) as picture:
        assert min(picture.size) > 40
    assert [file.name for file in tmp_path.iterdir()] == ["samples.png"]


def test_a_constant_bank_is_drawn_too(tmp_path: Path) -> None:
    samples = Samples(torch.zeros(3, 4), torch.eye(4)[:3], torch.full((3,), -1), torch.zeros(3))
    sample_sheet(samples, InputSpec((4,), range=None), 4, None, tmp_path / "samples.png")
    images = Samples(torch.zeros(3, 1, 2, 2), torch.eye(4)[:3], torch.full((3,), -1), torch.zeros(3))
    sample_sheet(images, InputSpec((1, 2, 2), range=None), 4, None, tmp_path / "images.png")


def test_no_samples_is_a_fault(tmp_path: Path) -> None:
    none = made.draw(made.teacher(made.DIGITS, 4), 0)
    with pytest.raises(DataError, match="no samples"):
        sample_sheet(none, made.DIGITS, 4, None, tmp_path / "samples.png")


def test_an_unwritable_place_is_a_fault(tmp_path: Path) -> None:
    samples = made.draw(made.teacher(made.DIGITS, 4), 8)
    with pytest.raises(EnvironmentFault):
        sample_sheet(samples, made.DIGITS, 4, None, tmp_path / "missing" / "samples.png")


def test_pixels_of_any_number_of_channels() -> None:
    one = pixels(np.full((1, 2, 3), 0.5, np.float32), (0.0, 1.0))
    assert one.shape == (2, 3, 3)
    assert set(one.flatten().tolist()) == {128}
    two = pixels(np.stack([np.zeros((2, 2)), np.ones((2, 2))]).astype(np.float32), (0.0, 1.0))
    assert set(two.flatten().tolist()) == {128}
    five = pixels(np.arange(5, dtype=np.float32).reshape(5, 1, 1), (0.0, 4.0))
    assert five.flatten().tolist() == [0, 64, 128]
    assert [bool(channels_note(count)) for count in (1, 2, 3, 4)] == [False, True, False, True]


def test_large_and_long_pictures_become_small() -> None:
    assert shrink(np.zeros((400, 200, 3), np.uint8)).size == (48, 96)
    assert shrink(np.zeros((1, 300, 3), np.uint8)).size == (96, 96)
    assert shrink(np.zeros((8, 8, 3), np.uint8)).size == (8, 8)
    assert len(encode(shrink(np.zeros((8, 8, 3), np.uint8)))) < 100
