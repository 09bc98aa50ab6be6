"""Torchvision classifiers x exporters x opsets x batches, opened and compared.

    python -m tests.models.onnx.export_matrix [ARCHITECTURE ...] [--exporter legacy] [--converter onnx2torch]

Every cell is written by torch, opened by `open_onnx`, run at batch 1, 4 and 7, and compared with the
original module: outputs within 1e-4, the gradient with respect to the input within 1e-3, both relative.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cake_cli.errors import CakeError
from cake_cli.models.onnx.opening import open_onnx
from tests.models.onnx.exports import ARCHITECTURES, build, export_current, export_legacy

BATCHES = (1, 4, 7)


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
    model: nn.Module, shape: tuple[int, ...], folder: Path, exporter: str | None = None
) -> Iterator[tuple[Cell, Path | str]]:
    """Writes a model in every way; yields the file, or why the exporter failed."""
    programs: dict[bool, object] = {}
    for cell in (each for each in CELLS if exporter in (None, each.exporter)):
        path = folder / f"{cell.exporter}_{cell.opset}_{cell.symbolic}.onnx"
        try:
            if cell.exporter == "legacy":
                export_legacy(model, shape, path, opset=cell.opset, symbolic=cell.symbolic)
            else:
                programs[cell.symbolic] = export_current(
                    model, shape, path, opset=cell.opset, symbolic=cell.symbolic, exported=programs.get(cell.symbolic)
                )
        except Exception as fault:
            yield cell, f"not exported: {str(fault).splitlines()[0][:100]}"
        else:
            yield cell, path


def check(path: Path, original: nn.Module, converter: str | None = None) -> str:
    """ "right", "right by vmap" where the file's batch could not be opened, or what is wrong."""
    try:
        opened = open_onnx(path, converter=converter)
    except CakeError as fault:
        return f"refused: {fault.what}"
    fixed = opened.module.fixed is not None
    for rows in BATCHES:
        x = torch.randn(rows, *opened.input_shape, generator=torch.Generator().manual_seed(rows))
        found, slope = _with_gradient(by_rows(opened.module) if fixed else opened.module, x)
        expected, own_slope = _with_gradient(original, x)
        if not own_slope.any():
            return "wrong: the original has no gradient to compare with"
        apart, bent = _relative(found, expected), _relative(slope, own_slope)
        if apart <= 1e-4 and bent > 1e-3:  # a ReLU at its kink turns on the last bit: ask again in double precision
            bent = _bent_in_double(opened.module, original, x, fixed=fixed)
        if apart > 1e-4 or bent > 1e-3:
            return f"wrong at batch {rows}: outputs {apart:.1e}, gradient {bent:.1e}"
    return "right by vmap" if fixed else "right"


def _bent_in_double(module: nn.Module, original: nn.Module, x: Tensor, *, fixed: bool) -> float:
    twin = copy.deepcopy(module).double()
    slope = _with_gradient(by_rows(twin) if fixed else twin, x.double())[1]
    return _relative(slope, _with_gradient(copy.deepcopy(original).double(), x.double())[1])


def by_rows(module: nn.Module) -> nn.Module:
    """A module that only takes one row, mapped over a batch."""
    return torch.func.vmap(lambda row: module(row[None])[0], chunk_size=None)


def _with_gradient(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    logits = module(x)
    weights = torch.linspace(-1, 1, logits.numel()).reshape(logits.shape)
    (slope,) = torch.autograd.grad((logits * weights).sum(), x)
    return logits.detach(), slope


def _relative(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def main() -> int:
    """Prints each cell and the counts; the exit code is 1 unless all that was exported is right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architectures", nargs="*", default=[], help="all by default")
    parser.add_argument("--converter", choices=["interpreter", "onnx2torch"])
    parser.add_argument("--exporter", choices=["current", "legacy"], help="both by default")
    arguments = parser.parse_args()
    counts: dict[Cell, Counter[str]] = defaultdict(Counter)
    for name in arguments.architectures or ARCHITECTURES:
        started = time.perf_counter()
        model, shape = build(name)
        with tempfile.TemporaryDirectory() as folder:
            for cell, path in write_cells(model, shape, Path(folder), arguments.exporter):
                result = path if isinstance(path, str) else check(path, model, arguments.converter)
                kind = result.split(":")[0].split(" at ")[0]
                counts[cell][kind] += 1
                if kind != "right":
                    print(f"  {name} {cell}: {result}", flush=True)
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    bad = 0
    for cell, row in counts.items():
        print(f"{cell}: " + ", ".join(f"{count} {kind}" for kind, count in row.most_common()))
        bad += sum(count for kind, count in row.items() if kind in ("wrong", "refused"))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
