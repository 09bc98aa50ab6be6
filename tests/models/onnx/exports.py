"""The ways torch writes a classifier as ONNX."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Cell:
    """One way of writing a file."""

    exporter: str
    opset: int
    symbolic: bool

    def __str__(self) -> str:
        return f"{self.exporter:8} opset {self.opset:2} {'symbolic' if self.symbolic else 'fixed'} batch"


CELLS = tuple(
    [Cell("current", opset, symbolic) for symbolic in (False, True) for opset in (18, 20, 23)]
    + [Cell("legacy", opset, symbolic) for symbolic in (False, True) for opset in (13, 17, 20)]
)


def write_cells(
    model: nn.Module, shape: tuple[int, ...], folder: Path, cells: Sequence[Cell] = CELLS
) -> Iterator[tuple[Cell, Path | str]]:
    """Writes a model in every way; yields the file, which is gone afterwards, or why the exporter failed."""
    programs: dict[bool, object] = {}
    for cell in cells:
        path = folder / f"{cell.exporter}_{cell.opset}_{cell.symbolic}.onnx"
        try:
            if cell.exporter == "legacy":
                programs.clear()
                export_legacy(model, shape, path, opset=cell.opset, symbolic=cell.symbolic)
            else:
                programs[cell.symbolic] = export_current(
                    model, shape, path, opset=cell.opset, symbolic=cell.symbolic, exported=programs.get(cell.symbolic)
                )
        except Exception as fault:
            yield cell, f"{type(fault).__name__}: {fault}".splitlines()[0][:200]
        else:
            yield cell, path
        for left in folder.iterdir():
            left.unlink()


def _plain_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *settings: object, **more: object
) -> Tensor:
    """Scaled dot-product attention as a product, a softmax and a product; without dropout or causality."""
    assert not any((*settings, *more.values()))
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    return torch.softmax(scores if attn_mask is None else scores + attn_mask, -1) @ value


@contextmanager
def _written_out_attention(opset: int) -> Iterator[None]:
    """Without the fused attention of inference, and before opset 14 that of training: the legacy exporter
    has no symbol for them."""
    before, fused = torch.backends.mha.get_fastpath_enabled(), F.scaled_dot_product_attention
    torch.backends.mha.set_fastpath_enabled(False)
    if opset < 14:
        F.scaled_dot_product_attention = _plain_attention
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
        F.scaled_dot_product_attention = fused


def export_current(
    model: nn.Module, shape: tuple[int, ...], path: Path, *, opset: int, symbolic: bool, exported: object = None
) -> object:
    """Writes a file with the exporter of today; returns the exported program for the next opset."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exported is None:
            example = torch.randn(2 if symbolic else 1, *shape)
            shapes = ({0: torch.export.Dim("batch")},) if symbolic else None
            exported = torch.export.export(model, (example,), dynamic_shapes=shapes, strict=False)
        program = torch.onnx.export(exported, (), None, opset_version=opset, dynamo=True, verbose=False)
        program.save(str(path))
    return exported


def export_legacy(model: nn.Module, shape: tuple[int, ...], path: Path, *, opset: int, symbolic: bool) -> None:
    """Writes a file with the exporter that traces."""
    axes = {"input": {0: "batch"}, "logits": {0: "batch"}} if symbolic else None
    with warnings.catch_warnings(), _written_out_attention(opset), redirect_stdout(StringIO()):  # it prints graphs
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.randn(1, *shape),), str(path), opset_version=opset, dynamo=False, verbose=False,
            input_names=["input"], output_names=["logits"], dynamic_axes=axes,
        )  # fmt: skip
