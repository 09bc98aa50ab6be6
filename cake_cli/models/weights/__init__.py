"""Weights without their architecture: read as data, fitted to architectures by keys and shapes."""

from cake_cli.models.weights.fitting import Fit, command, fitting
from cake_cli.models.weights.likeness import looks_like
from cake_cli.models.weights.opening import open_weights
from cake_cli.models.weights.reading import Weights, read_weights

__all__ = ["Fit", "Weights", "command", "fitting", "looks_like", "open_weights", "read_weights"]
