"""Which of the tensors that a foreign module returns holds the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass

from torch import Tensor, nn

from cake_cli.errors import ModelFileError, UsageError, did_you_mean
from cake_cli.spec import format_shape


def named_tensors(output: object) -> dict[str, Tensor]:
    """The tensors of an output by name: keys of a mapping, fields of a named tuple, else positions."""
    if isinstance(output, Tensor):
        return {"0": output}
    if isinstance(output, Mapping):
        entries = {str(key): value for key, value in output.items()}
    elif hasattr(output, "_fields") and isinstance(output, Sequence):
        entries = dict(zip(output._fields, output, strict=True))  # type: ignore[attr-defined]
    elif isinstance(output, Sequence) and not isinstance(output, str):
        entries = {str(index): value for index, value in enumerate(output)}
    elif is_dataclass(output):
        entries = {entry.name: getattr(output, entry.name) for entry in fields(output)}
    else:
        entries = {}
    return {name: value for name, value in entries.items() if isinstance(value, Tensor)}


def choose_scores(output: object, wanted: str | None) -> str | None:
    """The name of the scores in an output of one row; None where the output is one plain tensor.

    Args:
        output: what the module returned for one row.
        wanted: the name that the user gave.

    Raises:
        UsageError: if there is no output of the name that is wanted.
        ModelFileError: if no tensor, or more than one, could be scores (1, K) or (K,).
    """
    found = named_tensors(output)
    if wanted is not None:
        if wanted not in found:
            hint = did_you_mean(wanted, found)
            told = f"there is no output {wanted!r}" + (f", {hint}" if hint else "") + f"; it has {_listed(found)}"
            raise UsageError(told, f"--output {next(iter(found))}" if found else "leave --output out")
        return None if isinstance(output, Tensor) else wanted
    if isinstance(output, Tensor):
        return None
    likely = [name for name, tensor in found.items() if tensor.dim() <= 2 and tensor.numel() > 1]
    if "logits" in likely:
        return "logits"
    if len(likely) == 1:
        return likely[0]
    if not found:
        raise ModelFileError(
            f"the model returns a {type(output).__name__} without tensors",
            "give a model that returns its scores as one tensor",
        )
    raise ModelFileError(f"the model has {len(found)} outputs: {_listed(found)}", f"--output {next(iter(found))}")


def _listed(found: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} ({format_shape(tuple(tensor.shape))})" for name, tensor in found.items())


class Scores(nn.Module):
    """One tensor of what a module returns."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module = module
        self.name = name

    def forward(self, rows: Tensor) -> Tensor:
        """(N, *shape) to (N, K)."""
        return named_tensors(self.module(rows))[self.name]
