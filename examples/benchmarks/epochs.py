r"""How often few samples should be learned, found without real data.

    python examples/benchmarks/epochs.py TEACHER --student ARCH --out runs/epochs \
        --samples 300 900 --epochs 4 8 16 32 64 --seeds 0 1 2

Students of `cake distill --samples N --epochs E` are held against the teacher on two sets that no student has seen,
both of a seed of their own: starting points, and samples of `cake` made from such. The epochs whose students agree
most there would be chosen; with --data held-out real data stand beside them and choose nothing. Each cell is a run
directory below --out that is made once. Writes epochs.csv and prints a table. Arguments after `--` go to every command
of `cake`, such as `-- --input-range 0,1`.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from cells import fault_of, made, make_cell, own_and_passed_on, spread, write_csv  # beside this file

from cake_cli.models.students import load_student
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.samples import Samples

COLUMNS = ("teacher", "student", "samples", "epochs", "seed", "starts", "moved", "real", "counted", "error")
HELDOUT_SEED = 1_000_003
MOVED, STARTS = 1000, 5000
KINDS = ("starts", "moved")
"""What students are held against: starting points with the teacher's label, and samples along its boundaries."""


def main(arguments: list[str] | None = None) -> int:
    """Makes what is missing, then prints and writes the table; the number of cells that failed."""
    own, passed_on = own_and_passed_on(arguments)
    options = parse(own)
    options.out.mkdir(parents=True, exist_ok=True)
    known = heldout(options, passed_on)
    rows = []
    for samples, epochs, seed in itertools.product(options.samples, options.epochs, options.seeds):
        rows.append(row := measured(samples, epochs, seed, known, options, passed_on))
        said = row["error"] or ", ".join(f"{kind} {row[kind]:.1%}" for kind in KINDS)
        print(f"{samples} samples, {epochs} epochs, seed {seed}: {said}", file=sys.stderr, flush=True)
    write_csv(options.out / "epochs.csv", rows, COLUMNS)
    print("\n".join(markdown(rows)))
    return sum(row["error"] != "" for row in rows)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--student", required=True)
    parser.add_argument("--samples", type=int, nargs="+", default=[300, 900])
    parser.add_argument("--epochs", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=Path, help="held-out real data, which choose nothing")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the table")
    return parser.parse_args(arguments)


def heldout(options: argparse.Namespace, passed_on: list[str]) -> dict[str, Samples]:
    """What no student sees, by its kind; made once.

    Raises:
        SystemExit: if `cake` refused to make it.
    """

    def bank(kind: str, *flags: object) -> SampleBank:
        path = options.out / f"heldout-{kind}"
        if not made(path / "manifest.json", "synthesize", options.teacher, *flags, "--seed", HELDOUT_SEED, *passed_on,
                    "--out", path):  # fmt: skip
            raise SystemExit("cake refused to make what is held out: see above")
        return SampleBank.open(path)

    moved = bank("moved", "--samples", MOVED)
    method = "smooth-noise" if len(moved.spec.shape) == 3 else "noise"  # a vector has no scenes
    return {"starts": bank("starts", "--method", method, "--samples", STARTS).samples(), "moved": moved.samples()}


def measured(
    samples: int, epochs: int, seed: int, known: dict[str, Samples], options: argparse.Namespace, passed_on: list[str]
) -> dict[str, Any]:
    """The figures of one student."""
    path = options.out / f"{samples}-{epochs}-{seed}"
    data = [] if options.data is None else ["--data", options.data]
    record = make_cell(
        path, "distill", options.teacher, "--student", options.student, "--samples", samples, "--epochs", epochs,
        "--seed", seed, *data, "--no-baseline", "--no-report", *passed_on,
    )  # fmt: skip
    row: dict[str, Any] = {"teacher": options.teacher.name, "student": options.student, "samples": samples}
    row |= {"epochs": epochs, "seed": seed, "error": fault_of(record)}
    if record is None or row["error"]:
        return row
    found, passes = record.get("evaluation"), record["teacher_passes"]
    counted = passes["forward"] + passes["backward"] + record["training_passes"]["forward"]
    network = load_student(path / "student.safetensors")
    row |= {kind: agreement(network, rows) for kind, rows in known.items()}
    return row | {"real": None if found is None else found["agreement"], "counted": counted}


def agreement(network: Any, rows: Samples) -> float:
    """Share of the rows on which a student's most probable class is the teacher's."""
    with torch.no_grad():
        same = [
            network(inputs).argmax(1) == logits.argmax(1)
            for inputs, logits in zip(rows.inputs.split(1000), rows.logits.split(1000), strict=True)
        ]
    return float(torch.cat(same).float().mean())


def markdown(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each number of samples and of epochs."""
    kinds = [*KINDS, *(["real"] if any(row.get("real") is not None for row in rows) else [])]
    yield f"| samples | epochs | {' | '.join(kinds)} |"
    yield "| --- |" + " --- |" * (1 + len(kinds))
    done = [row for row in rows if not row["error"]]
    for (samples, epochs), cells in itertools.groupby(done, lambda row: (row["samples"], row["epochs"])):
        own = list(cells)
        yield f"| {samples} | {epochs} | {' | '.join(spread([row[kind] for row in own]) for kind in kinds)} |"


if __name__ == "__main__":
    sys.exit(main())
