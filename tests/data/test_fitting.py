import pytest
import torch

from cake_cli.data.fitting import Fitting
from cake_cli.data.layout import find_layout
from cake_cli.errors import DataError
from cake_cli.spec import InputSpec


def test_uint8_goes_through_the_range_then_mean_and_std():
    spec = InputSpec(shape=(3, 1, 1), mean=(0.0, 1.0, -1.0), std=(1.0, 2.0, 4.0), range=(-1.0, 1.0))
    rows = torch.tensor([[0, 255, 51]], dtype=torch.uint8).reshape(1, 3, 1, 1)
    assert Fitting(spec, "x").images(rows).flatten().tolist() == pytest.approx([-1.0, 0.0, (-0.6 + 1) / 4])


def test_uint8_without_a_range_is_raw():
    spec = InputSpec(shape=(2,), range=None)
    assert Fitting(spec, "x").vectors(torch.tensor([[3, 200]], dtype=torch.uint8)).tolist() == [[3.0, 200.0]]


def test_vectors_have_their_own_mean_per_value():
    spec = InputSpec(shape=(2,), mean=(1.0, 2.0), std=(1.0, 4.0), range=None)
    assert Fitting(spec, "x").vectors(torch.tensor([[3.0, 10.0]])).tolist() == [[2.0, 2.0]]


def test_floats_are_raw_values():
    spec = InputSpec(shape=(1, 1, 2), mean=(0.5,), std=(0.5,))
    fitting = Fitting(spec, "x")
    assert fitting.images(torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)).flatten().tolist() == [-1.0, 1.0]
    assert fitting.notes == ()


def test_floats_outside_the_range_are_noted():
    fitting = Fitting(InputSpec(shape=(2,)), "x")
    fitting.vectors(torch.tensor([[0.0, 255.0]]))
    assert "from 0 to 255" in fitting.notes[0]
    assert "--input-range" in fitting.notes[0]


def test_normalised_floats_are_not_noted_where_they_are_assumed():
    rows = torch.tensor([[-3.4, 4.1]])
    for source, noted in (("assumed: about N(0, 1)", 0), ("--input-range", 1)):
        fitting = Fitting(InputSpec(shape=(2,), range=(0.0, 1.0), source=source), "x")
        fitting.vectors(rows)
        assert len(fitting.notes) == noted


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(DataError, match="not finite"):
        Fitting(InputSpec(shape=(2,), range=None), "x").vectors(torch.tensor([[0.0, bad]]))


def test_resizing_is_antialiased_bilinear_and_noted():
    stripes = (torch.arange(16) % 4 == 0).repeat(16, 1) * 255
    fitting = Fitting(InputSpec(shape=(1, 4, 4)), "x")
    small = fitting.images(stripes.to(torch.uint8).reshape(1, 1, 16, 16))
    assert small.shape == (1, 1, 4, 4)
    assert (small - 0.25).abs().max() < 0.1  # without antialiasing no stripe would be met, and all be 0
    assert "4x4" in fitting.notes[0]
    assert "16x16" in fitting.notes[0]


def test_grey_becomes_rgb_and_rgb_grey():
    grey = torch.tensor([[[[100]]]], dtype=torch.uint8)
    fitting = Fitting(InputSpec(shape=(3, 1, 1), range=(0, 255)), "x")
    assert fitting.images(grey).flatten().tolist() == [100.0] * 3
    assert "repeated" in fitting.notes[0]
    fitting = Fitting(InputSpec(shape=(1, 1, 1), range=(0, 255)), "x")
    colour = torch.tensor([200, 100, 50], dtype=torch.uint8).reshape(1, 3, 1, 1)
    assert fitting.images(colour).item() == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    assert "grey" in fitting.notes[0]


def test_vector_spec_flattens_images_in_colour_or_in_grey():
    image = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 2, 2)
    assert Fitting(InputSpec(shape=(12,), range=None), "x").images(image).tolist() == [list(map(float, range(12)))]
    assert Fitting(InputSpec(shape=(4,), range=None), "x").images(image).shape == (1, 4)
    with pytest.raises(DataError, match="vectors of 5"):
        Fitting(InputSpec(shape=(5,), range=None), "x").images(image)


def test_image_spec_takes_vectors_when_sizes_agree():
    fitting = Fitting(InputSpec(shape=(1, 2, 2)), "x")
    assert fitting.vectors(torch.tensor([[0.0, 0.25, 0.5, 1.0]])).tolist() == [[[[0.0, 0.25], [0.5, 1.0]]]]
    with pytest.raises(DataError, match="5 values a row"):
        fitting.vectors(torch.zeros(1, 5))


def test_channels_that_mean_nothing_are_refused():
    with pytest.raises(DataError, match="images of 2 channels, the model takes 3"):
        Fitting(InputSpec(shape=(3, 4, 4)), "x").images(torch.zeros(1, 2, 4, 4))


@pytest.mark.parametrize(
    ("shape", "spec_shape", "layout"),
    [
        ((5, 64), (64,), "vectors"),
        ((5, 8, 8), (1, 8, 8), "NHW"),
        ((5, 8, 8, 3), (3, 8, 8), "NHWC"),
        ((5, 3, 8, 8), (3, 8, 8), "NCHW"),
        ((5, 8, 8, 1), (3, 8, 8), "NHWC"),
        ((5, 1, 8, 8), (3, 32, 32), "NCHW"),
        ((5, 3, 8, 3), (3, 8, 3), "NCHW"),
        ((5, 8, 3, 3), (3, 8, 3), "NHWC"),
        ((5, 8, 8, 3), (192,), "NHWC"),
        ((5, 7, 8, 8), (7, 8, 8), "NCHW"),
        ((5, 8, 8, 7), (7, 16, 16), "NHWC"),
        ((5, 3, 3, 3), (3, 3, 3), "NCHW"),
    ],
)
def test_layouts(shape, spec_shape, layout):
    assert find_layout(shape, InputSpec(shape=spec_shape), "x") == layout


@pytest.mark.parametrize("shape", [(5,), (5, 9, 8, 7), (5, 1, 1, 8, 8)])
def test_no_layout(shape):
    with pytest.raises(DataError, match="neither images nor vectors"):
        find_layout(shape, InputSpec(shape=(1, 8, 8)), "x")
