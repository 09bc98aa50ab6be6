"""Agreement against queries: estimated gradients beside pure querying, of a teacher that gives outputs alone.

    python examples/benchmarks/blackbox.py examples/digits/teacher.onnx --data examples/digits/heldout.npz \
        --student cnn --queries 20000 100000 500000 --out runs/blackbox
    python examples/benchmarks/blackbox.py LENET5.safetensors --data mnist --student lenet5-half \
        --queries 100000 500000 2000000 --out runs/blackbox-mnist -- --data-root DIR

Each cell (a way, a number of queries and a seed) is a run directory of `cake distill` below --out. A cell that is there
is not made again, and one that was stopped is gone on with. All ways ask the teacher at most so often, labels included,
and train the same student with about as many steps; it is taken after its last step. The held-out data measure
it and choose nothing. Arguments after `--` go to `cake distill`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from cells import fault_of, make_cell, own_and_passed_on, spread, write_csv

from cake_cli.planning import NOISE_FOR_EACH, WAYPOINTS

BATCH, SET_SIZE = 128, 100
WAYS: dict[str, list[str]] = {
    "noise": ["--method", "noise"],
    "labels alone": ["--method", "smooth-noise"],
    "querying in rounds": ["--gradients", "estimated", "--rounds", "{rounds}"],
    "querying in rounds, labels beside": ["--gradients", "estimated", "--rounds", "{rounds}"],
    "estimated": ["--gradients", "estimated"],
    "estimated, naive": ["--gradients", "estimated", "--method", "naive"],
    "estimated, all frequencies": ["--gradients", "estimated", "--set", "synthesis.frequencies=0"],
    "estimated, rounds": ["--gradients", "estimated", "--rounds", "{rounds}"],
    "estimated, rounds, half labels": ["--gradients", "estimated", "--rounds", "{rounds}"],
}
"""The first two ask a label for each starting point, of N(0, I) and as by default. Querying in rounds moves samples by
the student's own gradient to where it differs from the teacher's answers: the teacher's part of the gradient is left
out, so a step is one query, and where a step asks is learned, too. With labels beside, seven starting points for each
sample are labelled and not moved; with half labels, as many as take half of the queries."""
COLUMNS = ("way", "queries", "seed", "asked", "samples", "epochs", "accuracy", "agreement", "teacher_accuracy", "error")


def main(arguments: list[str] | None = None) -> int:
    """Makes what is missing, then prints and writes the table, and draws the curves; the number of failed cells."""
    own, passed_on = own_and_passed_on(arguments)
    options = parse(own)
    options.out.mkdir(parents=True, exist_ok=True)
    cells = [(way, queries, seed) for seed in options.seeds for queries in options.queries for way in options.only]
    rows: list[dict[str, Any]] = []
    for number, (way, queries, seed) in enumerate(cells, start=1):
        row = measured(way, queries, seed, options, passed_on)
        rows.append(row)
        said = row["error"] or f"agreement {row['agreement']:.2%} after {row['asked']:,} queries"
        print(f"[{number}/{len(cells)}] {way}, {queries:,}, seed {seed}: {said}", file=sys.stderr, flush=True)
    write_csv(options.out / "blackbox.csv", rows, COLUMNS)
    table = markdown(rows, options)
    (options.out / "blackbox.md").write_text(table, encoding="utf-8")
    print(table)
    draw(rows, options.out / "blackbox.png")
    return sum(row["error"] != "" for row in rows)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", help="model file or endpoint, as for cake distill")
    parser.add_argument("--data", required=True, help="held-out data that measure the students")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the tables")
    parser.add_argument("--queries", type=int, nargs="+", default=[20_000, 100_000, 500_000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--student", default="cnn")
    parser.add_argument("--steps", type=int, default=8, help="of the ways that move samples")
    parser.add_argument("--directions", type=int, default=5, help="of the estimated ways")
    parser.add_argument("--rounds", type=int, default=4, help="of the ways with rounds")
    parser.add_argument("--updates", type=int, default=4000, help="training steps of every student, about")
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY",
                        help=f"some of: {'; '.join(WAYS)}")  # fmt: skip
    return parser.parse_args(arguments)


def directions_of(way: str, options: argparse.Namespace) -> int:
    """Along how many directions a way looks at each step."""
    return options.directions if way.startswith("estimated") else 0


def asked_for_each(way: str, options: argparse.Namespace) -> int:
    """Queries of a sample."""
    return 1 + options.steps * (1 + 2 * directions_of(way, options)) if "--gradients" in WAYS[way] else 1


def labels_of(way: str, queries: int, options: argparse.Namespace) -> int:
    """How many starting points are only labelled, beside samples that are moved; before they are cut into sets."""
    if way.endswith("half labels"):
        return queries // 2
    return queries * NOISE_FOR_EACH // (asked_for_each(way, options) + NOISE_FOR_EACH) if "beside" in way else 0


def samples_of(way: str, queries: int, options: argparse.Namespace) -> int:
    """How many samples so many queries pay for, before they are cut into sets."""
    return max(1, (queries - labels_of(way, queries, options)) // asked_for_each(way, options))


def epochs_of(way: str, queries: int, options: argparse.Namespace) -> int:
    """Of the last training; rounds train half as many again between them, so they get two thirds."""
    rounds = "--rounds" in WAYS[way]
    each = 1 + (min(WAYPOINTS, options.steps - 1) if rounds else 0)
    learned = samples_of(way, queries, options) * each + labels_of(way, queries, options)
    epochs = options.updates * BATCH / max(BATCH, learned)
    return max(1, round(epochs / 1.5 if rounds else epochs))


def set_size_of(way: str, queries: int, options: argparse.Namespace) -> int:
    """Samples of a set: fewer than usual where a round would have none, in rows of ten."""
    rounds = options.rounds if "--rounds" in WAYS[way] else 1
    return max(10, min(SET_SIZE, samples_of(way, queries, options) // rounds // 10 * 10))


def measured(way: str, queries: int, seed: int, options: argparse.Namespace, passed_on: list[str]) -> dict[str, Any]:
    """The figures of one cell."""
    path = options.out / f"{way.replace(',', '').replace(' ', '-')}-{queries}-{seed}"
    epochs = epochs_of(way, queries, options)
    flags = ["--rounds", "1", *(text.format(rounds=options.rounds) for text in WAYS[way])]
    size = set_size_of(way, queries, options)
    beside = labels_of(way, queries, options) // size * size
    flags += ["--set", f"training.noise_samples={beside}"]
    flags += ["--set", f"synthesis.set_size={size}"] if size < SET_SIZE else []
    record = make_cell(
        path, "distill", options.teacher, "--student", options.student, "--data", options.data, "--seed", seed,
        "--queries", queries - beside, "--steps", options.steps,
        "--set", f"synthesis.directions={directions_of(way, options)}", "--epochs", epochs, "--batch-size", BATCH,
        *flags, "--no-baseline", "--no-report", *passed_on)  # fmt: skip
    row: dict[str, Any] = {"way": way, "queries": queries, "seed": seed, "epochs": epochs, "error": fault_of(record)}
    if record is None or row["error"]:
        return row
    evaluation = record["evaluation"]
    return row | {
        "asked": record["teacher_passes"]["forward"] + record["training_passes"]["forward"],
        "samples": record["synthesis"]["samples"],
        "accuracy": evaluation["accuracy"]["student"],
        "agreement": evaluation["agreement"],
        "teacher_accuracy": evaluation["accuracy"]["teacher"],
    }


def markdown(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """Agreement by way and queries: mean and standard deviation over seeds, and each seed."""
    lines = [
        f"`{Path(options.teacher).name}` to `{options.student}`: agreement with the teacher on {options.data}, seeds "
        f"{', '.join(map(str, options.seeds))}; {options.steps} steps, with {options.directions} directions where "
        f"gradients are estimated; {options.rounds} rounds where there are rounds; about {options.updates:,} training "
        "steps each; student after the last step.",
        "",
        f"| way | {' | '.join(f'{queries:,} queries' for queries in options.queries)} |",
        f"| --- |{' --- |' * len(options.queries)}",
    ]
    for way in options.only:
        cells = []
        for queries in options.queries:
            own = [row for row in rows if (row["way"], row["queries"]) == (way, queries)]
            done = [row["agreement"] for row in own if not row["error"]]
            each = ", ".join(f"{100 * share:.1f}" for share in done)
            cells.append(f"{spread(done)} ({each})" if done else own[0]["error"])
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Agreement against queries, a line a way: the mean, and each seed as a point."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="queries", ylabel="agreement with the teacher", xscale="log")
    for number, way in enumerate(dict.fromkeys(row["way"] for row in rows)):
        own = [row for row in rows if row["way"] == way and not row["error"]]
        asked = sorted({row["queries"] for row in own})
        by_queries = [[row["agreement"] for row in own if row["queries"] == queries] for queries in asked]
        axes.plot(asked, [sum(shares) / len(shares) for shares in by_queries], color=f"C{number}", label=way)
        axes.scatter([row["queries"] for row in own], [row["agreement"] for row in own], color=f"C{number}", s=12)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    sys.exit(main())
