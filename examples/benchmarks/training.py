"""Ways to train a student: losses, averages, views, and Hinton's distillation with real data beside the data-free one.

    python examples/benchmarks/training.py examples/digits/teacher.onnx --data examples/digits/heldout.npz \
        --real-data digits --out runs/training --seeds 0 1 2

For each seed one bank is made by `cake synthesize`, and each way is `cake train` on it; those with real data learn
that, too, or alone, in as many steps. "noise" is the same student on as many starting points, labelled by the teacher
but not moved. Students are taken after their last step; held-out data measure them and choose nothing. A cell that is
there is not made again. --real-data is a form of data that `cake` reads, or `digits`: those of scikit-learn that the
example's teacher has learnt.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "digits")]

from cells import fault_of, made, make_cell, own_and_passed_on, spread, write_csv  # noqa: E402  # beside this file

WAYS: dict[str, list[str]] = {
    "ce, one-cycle (the default)": [],
    "cosine schedule": ["--lr-schedule", "cosine"],
    "kl, T = 4": ["--loss", "kl", "--temperature", "4"],
    "logits": ["--loss", "logits", "--lr", "0.01"],
    "EMA 0.99": ["--ema", "0.99"],
    "view: mix": ["--views", "mix"],
    "view: shift": ["--views", "shift"],
    "view: flip": ["--views", "flip"],
    "view: noise": ["--views", "noise"],
    "Hinton and the bank": ["--real-data", "", "--lambda", "0.5", "--loss", "kl", "--temperature", "4"],
}
REAL: dict[str, list[str]] = {
    "Hinton, real data alone": ["--lambda", "0.5", "--loss", "kl", "--temperature", "4"],
    "true labels alone": ["--lambda", "1"],
}
FIGURES = ("accuracy", "agreement", "kl", "ece", "teacher_accuracy", "noise_accuracy", "data_free", "seconds", "error")


def main(arguments: list[str] | None = None) -> int:
    """Makes what is missing, then prints and writes the table; the number of cells that failed."""
    own, passed_on = own_and_passed_on(arguments)
    options = parse(own)
    options.passed_on = passed_on
    options.out.mkdir(parents=True, exist_ok=True)
    real = real_data(options)
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        bank = options.out / f"bank-{seed}"
        if not made(bank / "manifest.json", "synthesize", options.teacher, "--seed", seed, "--samples",
                    options.samples, "--steps", options.steps, *options.passed_on, "--out", bank):  # fmt: skip
            print(f"{bank} was not made: see above", file=sys.stderr)
            return 1
        for way in [*WAYS, *REAL]:
            record = cell(way, seed, bank, real, options)
            rows.append({"way": way, "seed": seed} | figures(record))
            said = rows[-1]["error"] or f"accuracy {rows[-1]['accuracy']:.2%}, agreement {rows[-1]['agreement']:.2%}"
            print(f"{way}, seed {seed}: {said}", file=sys.stderr, flush=True)
    write_csv(options.out / "training.csv", rows, ("way", "seed", *FIGURES))
    table = markdown(rows, options)
    (options.out / "training.md").write_text(table, encoding="utf-8")
    print(table)
    return sum(row["error"] != "" for row in rows)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", help="model file, as for cake distill")
    parser.add_argument("--data", required=True, help="held-out data that measure the students")
    parser.add_argument("--real-data", required=True, help="what the rows of Hinton's distillation learn")
    parser.add_argument("--real-samples", type=int, default=1297, help="how many those are")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the tables")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--student", default="cnn")
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=30)
    return parser.parse_args(arguments)


def real_data(options: argparse.Namespace) -> str:
    """What --real-data names; the digits of the example become a file."""
    if options.real_data != "digits":
        return str(options.real_data)
    from make import split

    file = options.out / "real.npz"
    x, y, _, _ = split()
    np.savez_compressed(file, x=x, y=y)
    return str(file)


def cell(way: str, seed: int, bank: Path, real: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """The record of one way and seed."""
    plain = way == next(iter(WAYS))
    path = options.out / f"{''.join(c if c.isalnum() else '-' for c in way)}-{seed}"
    common = ["--student", options.student, "--data", options.data, "--seed", seed, "--no-report",
              "--baseline" if plain else "--no-baseline", *options.passed_on]  # fmt: skip
    if way in WAYS:
        flags = [real if flag == "" else flag for flag in WAYS[way]]
        return make_cell(path, "train", bank, "--teacher", options.teacher, *common, "--epochs", options.epochs, *flags)
    epochs = round(options.epochs * options.samples / options.real_samples)  # as many steps
    return make_cell(path, "distill", options.teacher, *common, "--real-data", real, "--epochs", epochs, *REAL[way])


def figures(record: dict[str, Any] | None) -> dict[str, Any]:
    """What a cell's record says."""
    fault = fault_of(record)
    if record is None or fault:
        return {"error": fault}
    found = record["evaluation"]
    return {
        "accuracy": found["accuracy"]["student"],
        "agreement": found["agreement"],
        "kl": found["kl"],
        "ece": found["ece"],
        "teacher_accuracy": found["accuracy"]["teacher"],
        "noise_accuracy": found["accuracy"]["noise_baseline"],
        "data_free": record["data_free"],
        "seconds": round(sum(record["seconds"].values()), 1),
        "error": "",
    }


def markdown(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """A line a way: mean and standard deviation over seeds, and each seed."""
    done = [row for row in rows if not row["error"]]
    noise = [row["noise_accuracy"] for row in done if row["noise_accuracy"] is not None]
    taught = next((row["teacher_accuracy"] for row in done), None)
    lines = [
        f"`{Path(options.teacher).name}` to `{options.student}`: {options.samples:,} samples, {options.steps} steps, "
        f"{options.epochs} epochs, seeds {', '.join(map(str, options.seeds))}; student after the last step.",
        f"Teacher: {'not measured' if taught is None else f'{taught:.1%}'}. "
        f"The same student on noise: {spread(noise) if noise else 'not measured'}.",
        "",
        "| way | accuracy (each seed) | agreement | KL | data-free |",
        "| --- | --- | --- | --- | --- |",
    ]
    for way in dict.fromkeys(row["way"] for row in rows):
        own = [row for row in done if row["way"] == way]
        if not own:
            lines.append(f"| {way} | {next(row['error'] for row in rows if row['way'] == way)} | | | |")
            continue
        accuracy = [row["accuracy"] for row in own]
        lines.append(
            f"| {way} | {spread(accuracy)} ({', '.join(f'{100 * value:.1f}' for value in accuracy)}) "
            f"| {spread([row['agreement'] for row in own])} | {statistics.mean(row['kl'] for row in own):.3f} "
            f"| {'yes' if own[0]['data_free'] else 'no'} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
