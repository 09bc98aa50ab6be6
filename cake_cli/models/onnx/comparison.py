"""Numbers on both sides: probe rows, what they become, and how far apart the results are."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from cake_cli.models.onnx.signature import Rows
from cake_cli.models.opened import OutputKind

TOLERANCE = 1e-4
"""The greatest difference, relative to the greatest value, that counts as equal."""
NOISE = 4.0
"""How many times its own rounding error a module may be apart from another runtime, which rounds in other places."""
NOISIEST = 2.5e-3
"""The greatest rounding error that is believed to be one."""


def probe_rows(rows: Rows, is_float: bool) -> np.ndarray:
    """Rows to try a model on, the same every time: standard normal and uniform ones in turn.

    They are brought to the scale of the input where the file tells it.

    Returns:
        float32 (R, *row) with R at least 3, at least the batch that the file declares, and one more than that
        where it is 3; whole numbers from 0 to 255 where the input is of bytes.
    """
    draw = np.random.default_rng(0)
    count = 4 if rows.declared == 3 else max(3, rows.declared or 1)
    probe = draw.standard_normal((count, *rows.shape)).astype(np.float32)
    probe[1::2] = draw.random(probe[1::2].shape, dtype=np.float32)
    if rows.scaling is not None:
        probe = rows.scaling.raw(probe)
    return probe if is_float else np.round(np.abs(probe) * 60).clip(0, 255)


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The greatest difference over the greatest absolute value; infinite for other shapes or non-finite values."""
    if found.shape != expected.shape or not np.isfinite(found).all() or not np.isfinite(expected).all():
        return float("inf")
    scale = max(float(np.abs(expected).max(initial=0.0)), 1e-6)
    return float(np.abs(found - expected).max(initial=0.0)) / scale


def in_file_terms(logits: np.ndarray, kind: OutputKind) -> np.ndarray:
    """Logits (N, K) as what the file ends in."""
    values = torch.from_numpy(logits)
    if kind == "probs":
        return torch.softmax(values, 1).numpy()
    if kind == "log-probs":
        return torch.log_softmax(values, 1).numpy()
    return torch.sigmoid(values).numpy() if kind == "sigmoid" else logits


def guess_kind(outputs: np.ndarray) -> OutputKind:
    """What (N, K) outputs are when no softmax is seen in the graph."""
    if outputs.shape[1] < 2 or not np.isfinite(outputs).all():
        return "logits"
    if (outputs >= 0).all() and np.abs(outputs.sum(1) - 1).max() < 1e-4:
        return "probs"
    if (outputs <= 1e-6).all() and np.abs(np.exp(outputs).sum(1) - 1).max() < 1e-4:
        return "log-probs"
    return "logits"


def run_module(module: nn.Module, batch: np.ndarray) -> np.ndarray:
    """A module's outputs as float32, without a gradient."""
    with torch.no_grad():
        result: Tensor = module(torch.from_numpy(batch))
    return result.float().numpy()


def rounding_error(module: nn.Module, batch: np.ndarray) -> float:
    """How far a module is from itself in float64, relative to the greatest value; zero where it does not run so."""
    try:
        with torch.no_grad():
            exact: Tensor = copy.deepcopy(module).double()(torch.from_numpy(batch).double())
    except Exception:  # a graph may insist on float32
        return 0.0
    error = relative_difference(run_module(module, batch), exact.numpy())
    return error if error <= NOISIEST else 0.0
