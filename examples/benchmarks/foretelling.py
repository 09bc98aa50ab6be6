"""How well what is known of a student without real data foretells its agreement with the teacher on real data.

    python examples/benchmarks/foretelling.py examples/benchmarks/results/expected-agreement-rounds.csv

Reads the files of students between rounds that accuracy.py writes (`PAIR-rounds.csv`) and prints Pearson's
correlations: within each run that has three such students, and over all students together.
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

RUN = ("pair", "passes", "variant", "seed")
KNOWN = {
    "expected": "expected agreement, on unseen starting points",
    "moved": "agreement on unseen samples of the round",
}
"""What is known of a student between two rounds without real data."""
ROUND_COLUMNS = (*RUN, "round", *KNOWN, "real")


def main(paths: list[str]) -> int:
    """Prints what the files together say."""
    students: list[dict[str, Any]] = []
    for path in paths:
        with Path(path).open(encoding="utf-8", newline="") as stream:
            for line in csv.DictReader(stream):
                students.append(line | {key: float(line[key]) if line[key] else None for key in (*KNOWN, "real")})
    print("\n".join(foretold(students)) or "no students of rounds in these files")
    return 0


def students_of_rounds(cells: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each student between two rounds of some cells of accuracy.py, whose real agreement was measured.

    Where a round has no starting points beside it, the agreement on its own samples is all that is expected of the
    student: such a student has no ``expected`` here.
    """
    return [
        {name: cell[name] for name in RUN}
        | {"round": entry["round"], "real": entry["real"], "moved": _value(entry.get("moved"))}
        | {"expected": None if entry.get("expected") == entry.get("moved") else _value(entry.get("expected"))}
        for cell in cells
        for entry in cell.get("rounds") or ()
        if entry["real"] is not None
    ]


def foretold(students: Sequence[dict[str, Any]]) -> list[str]:
    """A table of correlations within a run and over all students, and of how far known and real shares lie apart."""
    lines = []
    for key, name in KNOWN.items():
        runs: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
        for student in students:
            if student[key] is not None:
                runs.setdefault(tuple(student[part] for part in RUN), []).append((student[key], student["real"]))
        within = [_correlation(own) for own in runs.values() if len(own) > 2]
        everyone = [pair for own in runs.values() for pair in own]
        if not within:
            continue
        off = [real - found for found, real in everyone]
        span = f"{statistics.mean(within):.2f} ({min(within):.2f} to {max(within):.2f}; {len(within)} runs)"
        over_all = f"{_correlation(everyone):.2f} ({len(everyone)} students)"
        lines.append(f"| {name} | {span} | {over_all} | {min(off):+.2f} to {max(off):+.2f} |")
    head = ["| correlation with the real agreement | within a run | over all | the real one is off by |",
            "| --- | --- | --- | --- |"]  # fmt: skip
    return [*head, *lines] if lines else []


def _value(measured: dict[str, Any] | None) -> float | None:
    return None if measured is None else float(measured["value"])


def _correlation(pairs: list[tuple[float, float]]) -> float:
    """Pearson's."""
    return float(np.corrcoef(np.array(pairs).T)[0, 1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
