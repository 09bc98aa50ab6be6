"""The results of the export matrix as counts and as a table."""

from __future__ import annotations

import json
import subprocess
from collections import Counter, defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

Key = tuple[str, str, int, bool]
PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime")
Line = dict[str, Any]

SCORES, GRADIENT = 1e-4, 1e-3
"""The greatest differences, relative to the greatest value, that count as equal."""
LIVELY = 5e-3
"""How much of the greatest score must be the input's doing for a comparison to mean something."""

WHOLE = 80 * 12
"""Torchvision's architectures, and the ways to write each."""

HEAD = """# Every classification architecture of torchvision, exported and opened

Written by `python -m tests.models.onnx.export_matrix --out results.jsonl`, then the same with
`--table tests/models/onnx/EXPORT_MATRIX.md`.

A file is right if, at batch 1, 4 and 7, the scores of the opened module are within 1e-4 of those of the
original module and of the file in onnxruntime, and its gradient with respect to the input is within 1e-3 of
the original's, relative to the greatest value. Where float32 gradients differ by more, a ReLU may stand at its
kink: both are then computed in float64, on up to four inputs, since a weight that the exporter has folded and
rounded can move a kink there too. The weights are random and scaled so that the scores depend on the
input. The legacy exporter has no fused attention at opset 13: there it is written out before the export.
The last three columns of the second table are the greatest differences found in any of the files.
"""


def key_of(line: Line) -> Key:
    """Architecture, exporter, opset, symbolic."""
    return line["architecture"], line["exporter"], line["opset"], line["symbolic"]


def read_results(path: str) -> dict[Key, Line]:
    """The last line of each cell."""
    if not Path(path).exists():
        return {}
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return {key_of(line): line for line in lines}


def versions() -> dict[str, str]:
    """What a result was measured with: packages, and the commit of this code (+ where it was changed since)."""
    found = {name: version(name) for name in PACKAGES}
    commit = _git("rev-parse", "--short", "HEAD")
    return found | {"commit": commit + ("+" if _git("status", "--porcelain", "--", "cake_cli") else "")}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def counts(lines: list[Line]) -> list[str]:
    """How many architectures are right, by exporter, opset and declared batch, and at which batches."""
    cells: dict[tuple[str, bool, int], list[Line]] = defaultdict(list)
    for line in lines:
        cells[line["exporter"], line["symbolic"], line["opset"]].append(line)
    told = []
    for (exporter, symbolic, opset), found in sorted(cells.items()):
        kinds = Counter(line["verdict"] for line in found)
        told.append(
            f"{exporter:8} opset {opset:2} {'symbolic' if symbolic else 'fixed':8} batch: {len(found):3} files  "
            + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
            + "; at batch " + ", ".join(f"{rows}: {at_batch(found, rows)}" for rows in ("1", "4", "7"))
        )  # fmt: skip
    return told


def at_batch(lines: list[Line], rows: str) -> int:
    """How many files are right when that many rows are given."""
    return sum(is_right(line["batches"][rows]) for line in lines if "batches" in line)


def is_right(figures: dict[str, float]) -> bool:
    """Whether the figures of one file at one batch are within bounds, and of rows that differ at all."""
    bent = figures.get("gradient in double", figures["gradient"])
    agree = figures["scores"] <= SCORES and figures["runtime"] <= SCORES and bent <= GRADIENT
    return agree and figures.get("lively", 1.0) >= LIVELY


def write_table(lines: list[Line], path: Path) -> None:
    """Writes a page: with what and how it was measured, the counts, and a row for each architecture."""
    path.write_text("\n".join([HEAD, *_measured_with(lines), "", *_counted(lines), "", *_rows(lines), ""]))


def _measured_with(lines: list[Line]) -> list[str]:
    packages = sorted({f"{name} {line['versions'][name]}" for line in lines for name in PACKAGES})
    commits = Counter(line["versions"]["commit"] for line in lines)
    told = ", ".join(f"{count} at `{commit}`" for commit, count in commits.most_common())
    left = WHOLE - len(lines)
    missing = [f"**{left} of {WHOLE} files are not measured yet.** The first command goes on where it stopped."]
    return [f"Measured with {', '.join(packages)}, on a CPU. Files by commit: {told}.", *(missing if left > 0 else [])]


def _counted(lines: list[Line]) -> list[str]:
    told = [
        "| exporter | opset | declared batch | files | right | by vmap | refused or wrong | not exported "
        "| batch 1 | batch 4 | batch 7 |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    cells: dict[tuple[str, bool, int], list[Line]] = defaultdict(list)
    for line in lines:
        cells[line["exporter"], line["symbolic"], line["opset"]].append(line)
    for (exporter, symbolic, opset), found in [*sorted(cells.items()), (("all", False, 0), lines)]:
        kinds = Counter(line["verdict"] for line in found)
        bad = kinds["refused"] + kinds["wrong"] + kinds["died"]
        figures = [len(found), kinds["right"], kinds["right by vmap"], bad, kinds["not exported"]]
        figures += [at_batch(found, rows) for rows in ("1", "4", "7")]
        where = "" if exporter == "all" else "symbolic" if symbolic else "fixed"
        told.append(f"| {exporter} | {opset or ''} | {where} | {' | '.join(map(str, figures))} |")
    return told


def _rows(lines: list[Line]) -> list[str]:
    told = [
        "| architecture | input | what was changed | files right | scores | to onnxruntime | gradient |",
        "|---|---|---|---|---|---|---|",
    ]
    by_name: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        by_name[line["architecture"]].append(line)
    for name, found in sorted(by_name.items()):
        good = sum(line["verdict"].startswith("right") for line in found)
        figures = [one for line in found for one in line.get("batches", {}).values()]
        worst = [max((one[key] for one in figures), default=float("nan")) for key in ("scores", "runtime")]
        worst.append(max((one.get("gradient in double", one["gradient"]) for one in figures), default=float("nan")))
        size, changed = found[0].get("size", "?"), found[0].get("changed", "")
        told.append(
            f"| {name} | 3x{size}x{size} | {changed} | {good} of {len(found)} | "
            + " | ".join(f"{value:.0e}" for value in worst)
            + " |"
        )
    bad = [line for line in lines if not line["verdict"].startswith("right")]
    for line in bad:
        batch = "symbolic" if line["symbolic"] else "fixed"
        told.append("") if line is bad[0] else None
        told.append(
            f"- {line['architecture']}, {line['exporter']} {line['opset']} {batch}: {line['verdict']}: "
            f"{line.get('detail', '')}"
        )
    return told
