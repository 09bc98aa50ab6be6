"""What an input specification holds, refuses, and says."""

from __future__ import annotations

import json

import pytest

from cake_cli.errors import UsageError
from cake_cli.spec import InputSpec, format_shape


def test_an_image():
    spec = InputSpec((3, 32, 16), (0.5,) * 3, (0.2,) * 3)
    assert spec.is_image
    assert (spec.channels, spec.values, spec.is_identity) == (3, 1536, False)


def test_a_vector():
    spec = InputSpec((7,), range=None)
    assert not spec.is_image
    assert (spec.channels, spec.values, spec.is_identity) == (7, 7, True)


@pytest.mark.parametrize(
    ("fields", "flag"),
    [
        ({"shape": (3, 32)}, "--input-shape"),
        ({"shape": (0,)}, "--input-shape"),
        ({"shape": (3, -1, 8)}, "--input-shape"),
        ({"shape": ()}, "--input-shape"),
        ({"shape": (3, 8, 8), "mean": (0.1, 0.2)}, "--mean"),
        ({"shape": (3, 8, 8), "std": (1.0, 1.0)}, "--std"),
        ({"shape": (3, 8, 8), "std": (0.0,)}, "--std"),
        ({"shape": (3, 8, 8), "std": (-1.0,)}, "--std"),
        ({"shape": (3, 8, 8), "std": (float("nan"),)}, "--std"),
        ({"shape": (3, 8, 8), "mean": (float("inf"),)}, "--mean"),
        ({"shape": (3, 8, 8), "range": (1.0, 0.0)}, "--input-range"),
        ({"shape": (3, 8, 8), "range": (0.0, float("nan"))}, "--input-range"),
    ],
)
def test_what_cannot_be_names_its_flag(fields: dict, flag: str):
    with pytest.raises(UsageError) as caught:
        InputSpec(**fields)
    assert flag in f"{caught.value.what} {caught.value.fix}"


@pytest.mark.parametrize(
    ("shape", "values", "what", "fix"),
    [
        ((1, 8, 8), 2, "--mean has 2 values, the input has 1 channel", "give one value"),
        ((3, 8, 8), 2, "--mean has 2 values, the input has 3 channels", "give one value, or 3"),
        ((3, 8, 8), 0, "--mean has 0 values, the input has 3 channels", "give one value, or 3"),
    ],
)
def test_how_many_values_of_a_mean_there_can_be(shape: tuple[int, ...], values: int, what: str, fix: str):
    with pytest.raises(UsageError) as caught:
        InputSpec(shape, mean=(0.5,) * values)
    assert (caught.value.what, caught.value.fix) == (what, fix)


@pytest.mark.parametrize(
    "spec",
    [
        InputSpec((3, 8, 8), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), (0.0, 255.0), expects="raw", source="here"),
        InputSpec((5,), range=None),
    ],
)
def test_json_and_back(spec: InputSpec):
    assert InputSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    "broken",
    [{}, {"shape": 3}, {"shape": ["x"]}, {"range": [0]}, {"range": 1}, {"mean": None}, {"std": [[1]]}, {"shape": []}],
)
def test_damaged_json_is_a_usage_error(broken: dict):
    whole = InputSpec((1, 2, 2)).to_json()
    with pytest.raises(UsageError):
        InputSpec.from_json(whole | broken if broken else {})


def test_shapes_are_written_with_an_x_between():
    assert format_shape((3, 32, 32)) == "3x32x32"
    assert format_shape(("batch", 10)) == "batchx10"
    assert format_shape(()) == "scalar"
