"""Every method of `cake` on one teacher: the same samples, steps, student and schedule, several seeds.

    python examples/benchmarks/methods.py examples/digits/teacher.onnx --data examples/digits/heldout.npz \
        --seeds 0 1 2 --out runs/methods

Each cell (a method and a seed) is a run directory of `cake distill` below --out. A cell that is there is not made
again, and one that was stopped is gone on with, so the command can be repeated until all are done. The student is
taken after its last step; the held-out data measure it and choose nothing. Arguments after `--` go to `cake distill`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from cells import fault_of, make_cell, own_and_passed_on, spread, write_csv

METHODS: dict[str, list[str]] = {
    "noise": ["--method", "noise"],
    "smooth noise": ["--method", "smooth-noise"],
    "naive": ["--method", "naive"],
    "generative": ["--method", "generative"],
    "cake": [],
    "cake, snn": ["--contrastive", "snn"],
    "cake, triplet": ["--contrastive", "triplet"],
    "cake, no contrast": ["--set", "synthesis.contrastive_weight=0"],
    "cake, no noise": ["--noise", "none"],
    "cake, Langevin": ["--noise", "langevin"],
    "cake, both noises": ["--noise", "both"],
    "cake, Adam": ["--set", "synthesis.optimizer=adam"],
}
FIGURES = ("accuracy", "agreement", "teacher_accuracy", "on_target", "balance", "confidence", "forward", "backward")


def main(arguments: list[str] | None = None) -> int:
    """Makes what is missing, then prints and writes the table; the number of cells that failed."""
    own, passed_on = own_and_passed_on(arguments)
    options = parse(own)
    options.out.mkdir(parents=True, exist_ok=True)
    cells = [(method, seed) for seed in options.seeds for method in options.only]
    rows: list[dict[str, Any]] = []
    for number, (method, seed) in enumerate(cells, start=1):
        row = measured(method, seed, options, passed_on)
        rows.append(row)
        said = row["error"] or f"accuracy {row['accuracy']:.2%}, agreement {row['agreement']:.2%}"
        print(f"[{number}/{len(cells)}] {method}, seed {seed}: {said}", file=sys.stderr, flush=True)
    write_csv(options.out / "methods.csv", rows, ("method", "seed", *FIGURES, "samples", "device", "error"))
    table = markdown(rows, options)
    (options.out / "methods.md").write_text(table, encoding="utf-8")
    print(table)
    return sum(row["error"] != "" for row in rows)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", help="model file, as for cake distill")
    parser.add_argument("--data", required=True, help="held-out data that measure the students")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the tables")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--student", default="cnn")
    parser.add_argument("--samples", type=int, default=8000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--only", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD",
                        help=f"some of: {'; '.join(METHODS)}")  # fmt: skip
    return parser.parse_args(arguments)


def measured(method: str, seed: int, options: argparse.Namespace, passed_on: list[str]) -> dict[str, Any]:
    """The figures of one method and seed."""
    path = options.out / f"{method.replace(',', '').replace(' ', '-')}-{seed}"
    record = make_cell(
        path, "distill", options.teacher, "--student", options.student, "--data", options.data, "--seed", seed,
        "--samples", options.samples, "--steps", options.steps, "--epochs", options.epochs, "--rounds", 1,
        *METHODS[method],
        "--no-baseline", "--no-report", *passed_on)  # fmt: skip
    row: dict[str, Any] = {"method": method, "seed": seed, "error": fault_of(record)}
    if record is None or row["error"]:
        return row
    evaluation, synthesis = record["evaluation"], record["synthesis"]
    aimed = "noise" not in synthesis["method"]
    return row | {
        "accuracy": evaluation["accuracy"]["student"],
        "agreement": evaluation["agreement"],
        "teacher_accuracy": evaluation["accuracy"]["teacher"],
        "on_target": synthesis["health"]["on_target"] if aimed else None,
        "balance": synthesis["balance"],
        "confidence": synthesis["health"]["confidence"],
        "forward": record["teacher_passes"]["forward"],
        "backward": record["teacher_passes"]["backward"],
        "samples": synthesis["samples"],
        "device": record["device"],
    }


def markdown(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """The table by method: mean and standard deviation over seeds, and each seed."""
    done = [row for row in rows if not row["error"]]
    lines = [
        f"`{Path(options.teacher).name}` to `{options.student}`: {options.samples:,} samples, {options.steps} steps, "
        f"{options.epochs} epochs, seeds {', '.join(map(str, options.seeds))}; student after the last step.",
        "",
        "| method | accuracy (each seed) | agreement | on target | balance | passes, forward + backward |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in done if row["method"] == method]
        if not own:
            fault = next(row["error"] for row in rows if row["method"] == method)
            lines.append(f"| {method} | {fault} | | | | |")
            continue
        each = ", ".join(f"{100 * row['accuracy']:.1f}" for row in own)
        aimed = own[0]["on_target"] is not None
        lines.append(
            f"| {method} | {of(own, 'accuracy')} ({each}) | {of(own, 'agreement')} "
            f"| {of(own, 'on_target') if aimed else ''} | {statistics.mean(row['balance'] for row in own):.2f} "
            f"| {own[0]['forward']:,} + {own[0]['backward']:,} |"
        )
    taught = sorted({row["teacher_accuracy"] for row in done if row["teacher_accuracy"] is not None})
    lines += ["", f"Teacher: {', '.join(f'{accuracy:.1%}' for accuracy in taught) or 'not measured'}."]
    return "\n".join(lines) + "\n"


def of(rows: list[dict[str, Any]], figure: str) -> str:
    """Mean and standard deviation of a figure over seeds."""
    return spread([row[figure] for row in rows])


if __name__ == "__main__":
    sys.exit(main())
