"""Resizing and sampling between grid points."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cake_cli.models.onnx.interpreter.host import Host, check_size
from cake_cli.models.onnx.interpreter.node import Node, UnsupportedOperator
from cake_cli.models.onnx.interpreter.table import Table

TABLE = Table()


@TABLE.add("Upsample", host=[1])
def _upsample(node: Node, x: Tensor, scales: Host | None = None) -> Tensor:
    factors = scales.floats if scales is not None else list(node.get("scales") or ())
    if not factors:
        factors = [1.0, 1.0, node.number("height_scale"), node.number("width_scale")]
    kind = "linear" if node.text("mode", "nearest") in ("linear", "bilinear") else "nearest"
    sizes = [math.floor(size * factor) for size, factor in zip(x.shape, factors, strict=True)]
    how = Interpolation(kind, "asymmetric", "floor", -0.75, False, False, 0.0)
    return _by_axes(x, list(range(x.dim())), sizes, factors, how, [(0.0, 1.0)] * x.dim())


@TABLE.add("Resize", host=[1, 2, 3])
def _resize(
    node: Node, x: Tensor, roi: Host | None = None, scales: Host | None = None, sizes: Host | None = None
) -> Tensor:
    if node.opset < 11:
        return _upsample(node, x, roi)
    axes = [axis % x.dim() for axis in node.integers("axes") or range(x.dim())]
    lengths = [x.shape[axis] for axis in axes]
    if sizes is not None and sizes.values:
        wanted, factors = _kept_ratio(node, lengths, sizes.ints)
    elif scales is not None and scales.values:
        factors = scales.floats
        wanted = [math.floor(length * factor) for length, factor in zip(lengths, factors, strict=True)]
    else:
        raise UnsupportedOperator(f"{node.title} without sizes or scales")
    how = Interpolation(
        node.text("mode", "nearest"),
        node.text("coordinate_transformation_mode", "half_pixel"),
        node.text("nearest_mode", "round_prefer_floor"),
        node.number("cubic_coeff_a", -0.75),
        node.flag("antialias"),
        node.flag("exclude_outside"),
        node.number("extrapolation_value"),
    )
    windows = [(0.0, 1.0)] * len(axes)
    if roi is not None and len(roi.values) == 2 * len(axes):
        windows = list(zip(roi.floats[: len(axes)], roi.floats[len(axes) :], strict=True))
    return _by_axes(x, axes, wanted, factors, how, windows)


def _kept_ratio(node: Node, lengths: list[int], sizes: list[int]) -> tuple[list[int], list[float]]:
    """The output sizes and scales that `keep_aspect_ratio_policy` makes of the wanted sizes."""
    factors = [size / length for size, length in zip(sizes, lengths, strict=True)]
    policy = node.text("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return sizes, factors
    factor = min(factors) if policy == "not_larger" else max(factors)
    return [math.floor(length * factor + 0.5) for length in lengths], [factor] * len(lengths)


class Interpolation(NamedTuple):
    """How values between grid points are found: the attributes of Resize."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float
    antialias: bool
    exclude: bool
    outside: float


def _by_axes(
    x: Tensor,
    axes: list[int],
    wanted: list[int],
    factors: list[float],
    how: Interpolation,
    windows: list[tuple[float, float]],
) -> Tensor:
    """Every axis by a matrix of its own, (wanted, size): resizing is linear and separable."""
    sizes = list(x.shape)
    for axis, size in zip(axes, wanted, strict=True):
        sizes[axis] = size
    check_size(sizes)
    dtype = x.dtype
    x = x if x.is_floating_point() else x.float()
    for axis, size, factor, window in zip(axes, wanted, factors, windows, strict=True):
        length = x.shape[axis]
        if size == length and factor == 1 and how.coordinates != "tf_crop_and_resize":
            continue
        matrix = torch.as_tensor(_matrix(length, size, factor, how, window), dtype=x.dtype, device=x.device)
        x = torch.tensordot(x, matrix, dims=([axis], [1])).movedim(-1, axis)
    if how.coordinates == "tf_crop_and_resize":
        inside = torch.ones((), dtype=torch.bool, device=x.device)
        for axis, size, factor, window in zip(axes, wanted, factors, windows, strict=True):
            if factor == 1 and window == (0.0, 1.0):
                continue
            source = round(size / factor)
            place = _coordinates(source, size, factor, how, window)
            known = torch.as_tensor((place >= 0) & (place <= source - 1), device=x.device)
            inside = inside & known.reshape([-1 if index == axis else 1 for index in range(x.dim())])
        x = torch.where(inside, x, torch.full((), how.outside, dtype=x.dtype, device=x.device))
    return x.to(dtype)


def _coordinates(length: int, size: int, factor: float, how: Interpolation, window: tuple[float, float]) -> np.ndarray:
    """Where each of `size` output points lies on the input axis of `length` points."""
    place = np.arange(size, dtype=np.float64)
    kind, single = how.coordinates, size == 1
    start, end = window
    ways: dict[str, Callable[[], np.ndarray]] = {
        "asymmetric": lambda: place / factor,
        "align_corners": lambda: place * (length - 1) / max(size - 1, 1),
        "half_pixel": lambda: (place + 0.5) / factor - 0.5,
        "pytorch_half_pixel": lambda: np.zeros(1) if single else (place + 0.5) / factor - 0.5,
        "half_pixel_symmetric": lambda: length / 2 * (1 - size / (factor * length)) + (place + 0.5) / factor - 0.5,
        "tf_crop_and_resize": lambda: (
            np.full(1, 0.5 * (start + end) * (length - 1))
            if single
            else start * (length - 1) + place * (end - start) * (length - 1) / (size - 1)
        ),
    }
    if kind not in ways:
        raise UnsupportedOperator(f"Resize with coordinate_transformation_mode {kind}")
    return ways[kind]()


@lru_cache(maxsize=64)
def _matrix(length: int, size: int, factor: float, how: Interpolation, window: tuple[float, float]) -> np.ndarray:
    """The weights of `length` input points for each of `size` output points, (size, length)."""
    mode, _, nearest, cubic, antialias, exclude, _ = how
    place = _coordinates(length, size, factor, how, window)
    if mode == "nearest":
        rounded = {
            "round_prefer_floor": np.ceil(place - 0.5),
            "round_prefer_ceil": np.floor(place + 0.5),
            "floor": np.floor(place),
            "ceil": np.ceil(place),
        }[nearest]
        matrix = np.zeros((size, length))
        matrix[np.arange(size), np.clip(rounded, 0, length - 1).astype(int)] = 1
        return matrix
    stretch = max(1.0, 1 / factor) if antialias else 1.0
    reach = (2 if mode == "cubic" else 1) * stretch
    first = math.floor(place.min(initial=0) - reach) - 1
    points = np.arange(first, math.ceil(place.max(initial=0) + reach) + 2)
    distance = np.abs(place[:, None] - points[None, :]) / stretch
    weights = _cubic(distance, cubic) if mode == "cubic" else np.clip(1 - distance, 0, None)
    if exclude:
        weights = weights * ((points >= 0) & (points < length))
    weights = weights / weights.sum(1, keepdims=True)
    matrix = np.zeros((size, length))
    for column, point in enumerate(np.clip(points, 0, length - 1)):  # points outside show the edge
        matrix[:, point] += weights[:, column]
    return matrix


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel (Keys, 1981, equation 4)."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


@TABLE.add("GridSample")
def _grid_sample(node: Node, x: Tensor, grid: Tensor) -> Tensor:
    mode = node.text("mode", "linear")
    names = {
        "linear": "bilinear",
        "bilinear": "bilinear",
        "nearest": "nearest",
        "cubic": "bicubic",
        "bicubic": "bicubic",
    }
    if mode not in names or (names[mode] == "bicubic" and x.dim() != 4):
        raise UnsupportedOperator(f"{node.title} with mode {mode}")
    padding = node.text("padding_mode", "zeros")
    return F.grid_sample(x, grid, names[mode], padding, node.flag("align_corners"))


@TABLE.add("AffineGrid", host=[1])
def _affine_grid(node: Node, theta: Tensor, size: Host) -> Tensor:
    check_size(size.ints)
    return F.affine_grid(theta, size.ints, node.flag("align_corners"))
