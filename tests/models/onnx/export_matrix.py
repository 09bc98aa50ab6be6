"""Torchvision classifiers x exporters x opsets x batches, opened and compared.

    python -m tests.models.onnx.export_matrix --out results.jsonl [ARCHITECTURE ...] [--exporter legacy] [--jobs 1]
                                              [--again wrong refused died] [--converter onnx2torch]
    python -m tests.models.onnx.export_matrix --out results.jsonl --table [EXPORT_MATRIX.md]

Every cell is written by torch, opened by `open_onnx` and run at batch 1, 4 and 7. Its scores must equal those of
the original module and those of the file in onnxruntime within 1e-4, and its gradient with respect to the input
the original module's within 1e-3, relative to the greatest value. A line of JSON a cell; cells that have a line
are not run again. Each architecture has a process of its own.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cake_cli.errors import CakeError
from cake_cli.models.onnx.opening import open_onnx
from cake_cli.models.opened import OpenedModel
from tests.models.onnx.architectures import architecture, build, torchvision_names
from tests.models.onnx.export_table import (
    GRADIENT,
    SCORES,
    Key,
    counts,
    is_right,
    key_of,
    read_results,
    versions,
    write_table,
)
from tests.models.onnx.exports import CELLS, Cell, write_cells

BATCHES = (1, 4, 7)
INPUTS_IN_DOUBLE = 4


def check(path: Path, original: nn.Module, converter: str | None = None) -> dict[str, Any]:
    """Opens a file and compares it with the module that it was made of.

    Returns:
        `verdict`: "right", "right by vmap" where the batch of the file could not be opened, "wrong" or
        "refused"; `batches`: for each the differences of scores, of scores to the runtime, of gradients;
        `detail`: what is wrong, or the refusal.
    """
    try:
        opened = open_onnx(path, converter=converter)
    except CakeError as fault:
        return {"verdict": "refused", "detail": fault.what}
    fixed = opened.module.fixed is not None
    compared = {str(rows): _compare(opened, original, rows, fixed=fixed) for rows in BATCHES}
    wrong = [f"batch {rows}: {one}" for rows, one in compared.items() if not is_right(one)]
    return {
        "verdict": "wrong" if wrong else "right by vmap" if fixed else "right",
        "batches": compared,
        "runtime": opened.facts["compared"].split(",")[0].removeprefix("with "),
        "mends": list(opened.mends),
    } | ({"detail": "; ".join(wrong)} if wrong else {})


def _compare(opened: OpenedModel, original: nn.Module, rows: int, *, fixed: bool) -> dict[str, float]:
    x = torch.randn(rows, *opened.input_shape, generator=torch.Generator().manual_seed(rows))
    found, slope = _with_gradient(by_rows(opened.module) if fixed else opened.module, x)
    expected, own_slope = _with_gradient(original, x)
    figures = {
        "scores": _relative(found, expected),
        "runtime": _relative(found, torch.from_numpy(opened.reference(x.numpy()))),
        "gradient": _relative(slope, own_slope) if own_slope.any() else float("inf"),
    }
    if rows > 1:
        figures["lively"] = float(expected.std(0).mean() / expected.abs().max())
    if figures["scores"] <= SCORES and figures["gradient"] > GRADIENT:
        figures["gradient in double"] = _in_double(opened, original, x, fixed=fixed)
    return figures


def _in_double(opened: OpenedModel, original: nn.Module, x: Tensor, *, fixed: bool) -> float:
    """The difference of gradients in float64, on the first of a few inputs where it is small.

    A ReLU at its kink turns on the last bit of float32. It may do so in float64 too, as exporters fold BatchNorm
    into weights that they round; then other inputs are asked. What is computed wrongly is wrong on all of them.
    """
    twin = copy.deepcopy(opened.module).double()
    own = copy.deepcopy(original).double()
    least = float("inf")
    for shift in range(INPUTS_IN_DOUBLE):
        rows = x.double().roll(shift * 5, dims=-1)
        slopes = [_with_gradient(module, rows)[1] for module in (by_rows(twin) if fixed else twin, own)]
        least = min(least, _relative(*slopes))
        if least <= GRADIENT:
            break
    return least


def by_rows(module: nn.Module) -> nn.Module:
    """A module that only takes one row, mapped over a batch."""
    return torch.func.vmap(lambda row: module(row[None])[0], chunk_size=None)


def _with_gradient(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    logits = module(x)
    weights = torch.linspace(-1, 1, logits.numel(), dtype=x.dtype).reshape(logits.shape)
    (slope,) = torch.autograd.grad((logits * weights).sum(), x)
    return logits.detach(), slope


def _relative(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape or not found.isfinite().all() or not expected.isfinite().all():
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def run_cells(name: str, cells: list[Cell], out: Path, converter: str | None) -> None:
    """Writes and checks one architecture; appends a line to `out` for each cell."""
    model, shape = build(name)
    about = {"architecture": name, "size": shape[-1], "changed": architecture(name).changed, "versions": versions()}
    with tempfile.TemporaryDirectory() as folder:
        for cell, path in write_cells(model, shape, Path(folder), cells):
            exported = isinstance(path, Path)
            result = check(path, model, converter) if exported else {"verdict": "not exported", "detail": path}
            append(out, about | asdict(cell) | result)
            gc.collect()


def append(out: Path, line: dict[str, Any]) -> None:
    """Adds a line, and says in a few words what it is."""
    with out.open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    if line["verdict"] != "right":
        cell = Cell(line["exporter"], line["opset"], line["symbolic"])
        print(f"  {line['architecture']} {cell}: {line['verdict']}: {line.get('detail', '')}", flush=True)


def _run_apart(name: str, cells: list[Cell], arguments: argparse.Namespace) -> None:
    """Runs one architecture in a process of its own, and notes the cells that it took down with it."""
    chosen = [f"{CELLS.index(cell)}" for cell in cells]
    command = [sys.executable, "-W", "ignore", "-m", "tests.models.onnx.export_matrix", name, "--out", arguments.out]
    command += ["--cells", *chosen] + (["--converter", arguments.converter] if arguments.converter else [])
    before = len(read_lines(arguments.out))
    code = subprocess.run(command, check=False).returncode
    if code != 0:
        done = {key_of(line) for line in read_lines(arguments.out)[before:]}
        for cell in cells:
            if (name, *asdict(cell).values()) not in done:
                line = {"architecture": name, **asdict(cell), "verdict": "died", "detail": f"exit code {code}"}
                append(Path(arguments.out), line | {"versions": versions()})
    print(f"{name}: {len(cells)} files", flush=True)


def read_lines(path: str) -> list[dict[str, Any]]:
    """All lines of a file of results, none where it is not there yet."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()] if Path(path).exists() else []


def main() -> int:
    """Runs what has no result yet, prints the counts; the exit code is 1 unless all that was exported is right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architectures", nargs="*", default=[], help="all of torchvision by default")
    parser.add_argument("--out", required=True, help="the file of results, one JSON object a line")
    parser.add_argument("--exporter", choices=["current", "legacy"], help="both by default")
    parser.add_argument("--converter", choices=["interpreter", "onnx2torch"])
    parser.add_argument("--again", nargs="*", default=[], help="verdicts whose cells are run again")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--table", nargs="?", const="", help="run nothing; write a table")
    parser.add_argument("--cells", nargs="*", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cells is not None:
        run_cells(arguments.architectures[0], [CELLS[i] for i in arguments.cells], Path(arguments.out),
                  arguments.converter)  # fmt: skip
        return 0
    results = read_results(arguments.out)
    if arguments.table is None:
        done: set[Key] = {key for key, line in results.items() if line["verdict"] not in arguments.again}
        with ThreadPoolExecutor(arguments.jobs) as pool:
            for name in arguments.architectures or torchvision_names():
                wanted = [cell for cell in CELLS if arguments.exporter in (None, cell.exporter)]
                left = [cell for cell in wanted if (name, *asdict(cell).values()) not in done]
                if left:
                    pool.submit(_run_apart, name, left, arguments)
        results = read_results(arguments.out)
    elif arguments.table:
        write_table(list(results.values()), Path(arguments.table))
    print("\n".join(counts(list(results.values()))))
    return 1 if any(line["verdict"] in ("wrong", "refused", "died") for line in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
