r"""Accuracy at equal counted teacher passes: what helps, what does not, and what the best can do without.

    python examples/benchmarks/accuracy.py digits --passes 500000 --seeds 0 1 2
    python examples/benchmarks/accuracy.py lenet5 --data DATA --passes 500000 2000000 --seeds 0 1 2
    python examples/benchmarks/accuracy.py lenet5 --data DATA \
        --leave-one-out scenes,rounds,disagreement,shorter,noise,waypoints,normalised,clamp

A forward pass with an input gradient counts 2, a labelling forward pass 1, those of views in training among them: each
variant makes as many samples as its budget allows. All students of a budget learn about as many rows as one-shot
CAKE's would in --epochs, rounds half as many again between rounds and labels alone half as many again, and are taken
after their last step; held-out images measure them and choose nothing. Each cell is a run of `cake distill` below --out
and then a line of cells.jsonl: the command can be stopped and repeated until all are there. Writes a CSV file, a table
and a picture. For rounds the expected agreement, which takes no real data, stands beside the agreement on real data of
the same student. Arguments after `--` go to `cake distill`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from cells import fault_of, make_cell, own_and_passed_on, spread, write_csv  # beside this file
from foretelling import ROUND_COLUMNS, foretold, students_of_rounds
from images import Images, load_images, name_of_machine
from students import trained_teacher
from variants import PAIRS, PARTS, VARIANTS, Pair

from cake_cli.cli.app import run
from cake_cli.planning import NOISE_FOR_EACH, WAYPOINTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HERE = Path(__file__).resolve().parent
DIGITS = HERE.parent / "digits"
SET_SIZE = 100
MOST_PANELS = 2
"""Budgets that a picture shows side by side; more are an axis."""
COLUMNS = ("pair", "passes", "variant", "seed", "accuracy", "agreement", "teacher_accuracy", "synthetic_fidelity",
           "counted", "samples", "learned_rows", "seconds", "device", "error")  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One run."""

    pair: str
    passes: int
    variant: str
    parts: tuple[str, ...]
    seed: int

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it from others in cells.jsonl."""
        return (self.pair, self.passes, self.variant, self.seed)

    @property
    def method(self) -> str | None:
        """Another method than CAKE, if it is one."""
        return next((part.removeprefix("method ") for part in self.parts if part.startswith("method ")), None)

    @property
    def length(self) -> str | None:
        """Whether samples take fewer steps."""
        return next((part for part in self.parts if part in ("short", "shorter")), None)

    @property
    def beside(self) -> int:
        """Starting points that are labelled and not moved, for each sample."""
        named = [part.split() for part in self.parts if part.split()[0] == "noise"]
        return (NOISE_FOR_EACH if len(named[0]) == 1 else int(named[0][1])) if named else 0


def main(arguments: list[str] | None = None) -> int:
    """Makes what is missing, then prints and writes the table; the number of cells that failed."""
    own, passed_on = own_and_passed_on(arguments)
    options = parse(own)
    options.out.mkdir(parents=True, exist_ok=True)
    pair = PAIRS[options.pair]
    variants = VARIANTS if options.leave_one_out is None else left_out(options.leave_one_out)
    names = options.only or list(variants)
    cells = [
        Cell(options.pair, passes, name, variants[name], seed)
        for passes in options.passes for seed in options.seeds for name in names
    ]  # fmt: skip
    known = {(row["pair"], row["passes"], row["variant"], row["seed"]): row for row in read_lines(options.out)}
    if options.known:
        cells = [cell for cell in cells if cell.key in known]
    missing = [cell for cell in cells if known.get(cell.key, {"error": "missing"})["error"] and not options.known]
    teacher, heldout = files_of(pair, options) if missing else (None, None)
    for number, cell in enumerate(missing, start=1):
        known[cell.key] = row = make(cell, pair, teacher, heldout, options, passed_on)
        with (options.out / "cells.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        said = row["error"] or f"accuracy {row['accuracy']:.2%}, {row['counted']:,} passes"
        print(f"[{number}/{len(missing)}] {', '.join(map(str, cell.key))}: {said}", file=sys.stderr, flush=True)
    rows = [known[cell.key] for cell in cells]
    stem = options.pair if options.leave_one_out is None else f"{options.pair}-leave-one-out"
    write_csv(options.out / f"{stem}.csv", [{name: row.get(name) for name in COLUMNS} for row in rows], COLUMNS)
    students = students_of_rounds(rows)
    if students:
        write_csv(options.out / f"{stem}-rounds.csv", students, ROUND_COLUMNS)
    table = markdown(rows, options)
    (options.out / f"{stem}.md").write_text(table, encoding="utf-8")
    print(table)
    done = [row for row in rows if not row["error"]]
    if done:
        picture(done, options.out / f"{stem}.png")
    return len(rows) - len(done)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pair", choices=list(PAIRS))
    parser.add_argument("--passes", type=int, nargs="+", default=[500_000], help="budgets of counted teacher passes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help=f"some of: {'; '.join(VARIANTS)}")
    parser.add_argument("--leave-one-out", type=lambda text: tuple(text.split(",")), metavar="PART,..",
                        help=f"these together, and without each in turn; parts: {', '.join(PARTS)}")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--disagreement", type=float, default=2.0)
    parser.add_argument("--steps", type=int, help="of each sample; those of the pair by default")
    parser.add_argument("--epochs", type=int, default=300, help="of one-shot CAKE")
    parser.add_argument("--most-noise", type=int, default=500_000, help="samples that a method without steps may label")
    parser.add_argument("--data", type=Path, help="folder of the images, as for reference.py; digits need none")
    parser.add_argument("--cache", type=Path, help="folder of trained teachers; --out by default")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--keep", action="store_true", help="keep the banks of finished cells")
    parser.add_argument("--known", action="store_true", help="run nothing: table and picture of what is there")
    options = parser.parse_args(arguments)
    chosen = set(options.only or ()) - set(VARIANTS) if options.leave_one_out is None else set()
    unknown = chosen | set(options.leave_one_out or ()) - set(PARTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    options.steps = options.steps or PAIRS[options.pair].steps
    return options


def left_out(parts: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """All parts together, and without each."""
    return {"all": parts} | {f"without {part}": tuple(other for other in parts if other != part) for part in parts}


def read_lines(out: Path) -> list[dict[str, Any]]:
    """The cells so far; a line that was cut short is passed over."""
    file, rows = out / "cells.jsonl", []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


# --- a cell -------------------------------------------------------------------------------------------------------


def files_of(pair: Pair, options: argparse.Namespace) -> tuple[Path, Path]:
    """The teacher, trained where that was not done, and the held-out images."""
    if pair.images == "digits":
        return DIGITS / pair.teacher, DIGITS / "heldout.npz"
    if options.data is None:
        raise SystemExit(f"{options.pair} needs --data")
    images = load_images(options.data, pair.images)
    teacher = trained_teacher(pair.teacher, images, options.cache or options.out, pair.teacher_epochs, options.device)
    heldout = options.out / f"{pair.images}.npz"
    if not heldout.exists():
        np.savez_compressed(heldout, x=as_bytes(images), y=images.test_labels.numpy())
    return teacher, heldout


def as_bytes(images: Images) -> np.ndarray:
    """The held-out images as they came, (N, C, H, W) of bytes."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (images.mean, images.std))
    pixels: np.ndarray = ((images.test * std + mean) * 255).round().to(torch.uint8).numpy()
    return pixels


def make(
    cell: Cell, pair: Pair, teacher: Path, heldout: Path, options: argparse.Namespace, passed_on: list[str]
) -> dict[str, Any]:
    """Runs a cell, or goes on with it; its line."""
    name = "-".join(str(part).replace(",", "").replace(" ", "-") for part in cell.key)
    path = options.out / "runs" / name
    flags = flags_of(cell, options)
    record = make_cell(path, "distill", teacher, "--student", pair.student, "--data", heldout, "--seed", cell.seed,
                       *flags, "--device", options.device, "--no-baseline", "--no-report", *passed_on)  # fmt: skip
    row: dict[str, Any] = dict(zip(("pair", "passes", "variant", "seed"), cell.key, strict=True))
    row |= {"error": fault_of(record), "flags": [str(flag) for flag in flags]}
    if record is None or row["error"]:
        return row
    found, taught = record["evaluation"], record["training_passes"]["forward"]
    row |= {
        "accuracy": found["accuracy"]["student"],
        "agreement": found["agreement"],
        "teacher_accuracy": found["accuracy"]["teacher"],
        "synthetic_fidelity": record.get("synthetic_fidelity"),
        "counted": record["teacher_passes"]["forward"] + record["teacher_passes"]["backward"] + taught,
        "samples": record["synthesis"]["samples"],
        "learned_rows": rows_learned(record),
        "rounds": [seen(entry, path, teacher, heldout) for entry in record.get("rounds") or ()],
        "seconds": round(sum(record["seconds"].values()), 1),
        "device": record["device"],
    }
    if not options.keep:
        shutil.rmtree(path / "bank", ignore_errors=True)
    return row


def flags_of(cell: Cell, options: argparse.Namespace) -> list[object]:
    """What the cell's parts come to: methods, and as many samples and epochs as the budget allows."""
    epochs, one_shot = options.epochs, in_sets(cell.passes / (2 * options.steps + 1))
    steps = max(1, options.steps // {"short": 4, "shorter": 16}.get(cell.length, 1))
    learned = one_shot * epochs * (1.5 if "longer" in cell.parts else 1)
    start = next((part for part in ("smooth", "exposed", "scenes") if part in cell.parts), "normal")
    flags: list[object] = ["--set", f"synthesis.init={start}"]
    flags += [] if "normalised" in cell.parts else ["--set", "synthesis.optimizer=sgd"]
    flags += [] if "clamp" in cell.parts else ["--set", "synthesis.bounds=none"]
    if cell.method in ("noise", "smooth-noise"):
        samples = in_sets(min(cell.passes, options.most_noise))
        epochs = max(1, round(1.5 * learned / samples))  # as many rows as those of rounds
        return [*flags, "--method", cell.method, "--samples", samples, "--epochs", epochs]
    looked_at = 0.0
    if "views" in cell.parts:  # half of the passes at most
        again = 1.5 if "rounds" in cell.parts else 1
        learned = min(learned, cell.passes / 2 / again)
        looked_at = learned * again
    beside = cell.beside
    samples = in_sets((cell.passes - looked_at) / (2 * steps + 1 + beside))
    ways = min(WAYPOINTS, steps - 1) if "waypoints" in cell.parts else 0
    epochs = learned / samples / (1 + beside + ways)
    epochs = max(1, int(epochs) if "views" in cell.parts else round(epochs))
    flags += ["--samples", samples, "--steps", steps, "--epochs", epochs]
    flags += ["--set", f"training.noise_samples={beside * samples}", "--set", f"training.waypoints={ways}"]
    flags += [] if cell.method is None else ["--method", cell.method]
    if "rounds" not in cell.parts:
        flags += ["--rounds", 1]
    else:
        flags += ["--disagreement", options.disagreement if "disagreement" in cell.parts else 0]
    most = -(-samples // SET_SIZE // options.rounds) * SET_SIZE
    for part in cell.parts:
        flags += [text.format(rounds=options.rounds, round=most) for text in PARTS.get(part, [])]
    return flags


def in_sets(samples: float) -> int:
    """Rounded down to whole sets, one at least."""
    return max(1, int(samples) // SET_SIZE) * SET_SIZE


def rows_learned(record: dict[str, Any]) -> int:
    """How many rows went through the student, over all rounds."""
    between = sum((entry.get("epochs") or 0) * (entry.get("learned") or 0) for entry in record.get("rounds") or ())
    return between + record["plan"]["epochs"] * record["learned"]


def seen(entry: dict[str, Any], path: Path, teacher: Path, heldout: Path) -> dict[str, Any]:
    """A round's expected agreement, and the agreement on held-out images of the student that it is of."""
    expected, file = entry.get("expected_agreement"), path / "bank" / f"student-{entry['round']}.safetensors"
    real = None
    if expected is not None and file.is_file():
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            run(["evaluate", str(file), "--data", str(heldout), "--against", str(teacher), "--json"])
        real = json.loads(said.getvalue())["agreement"]
    return {"round": entry["round"], "expected": expected, "moved": entry.get("agreement_on_samples"),
            "fidelity": entry.get("synthetic_fidelity"), "real": real}  # fmt: skip


# --- results ------------------------------------------------------------------------------------------------------


def markdown(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """A table for each budget, the best first; and how well the expected agreement foretold the real one."""
    pair = PAIRS[options.pair]
    lines = [
        f"`{pair.teacher}` to `{pair.student}` ({pair.images}): {options.steps} steps, seeds "
        f"{', '.join(map(str, options.seeds))}, {options.rounds} rounds where there are rounds; "
        f"{name_of_machine(options.device)}, torch {torch.__version__}. Held-out images, student after the last step.",
    ]
    for passes in dict.fromkeys(row["passes"] for row in rows):
        lines += ["", f"{passes:,} counted teacher passes:", "",
                  "| variant | accuracy (each seed) | agreement | counted passes | samples | rows learned |",
                  "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
        own = [row for row in rows if row["passes"] == passes]
        tables = {
            name: [row for row in own if row["variant"] == name] for name in dict.fromkeys(r["variant"] for r in own)
        }
        for name, cells in sorted(tables.items(), key=lambda item: -mean(item[1])):
            done = [row for row in cells if not row["error"]]
            if not done:
                lines.append(f"| {name} | {cells[0]['error']} | | | | |")
                continue
            each = ", ".join(f"{100 * row['accuracy']:.1f}" for row in done)
            lines.append(
                f"| {name} | {spread([row['accuracy'] for row in done])} ({each}) "
                f"| {spread([row['agreement'] for row in done])} | {done[0]['counted']:,} | {done[0]['samples']:,} "
                f"| {done[0]['learned_rows']:,} |"
            )
    taught = sorted({row["teacher_accuracy"] for row in rows if not row["error"]})
    lines += ["", f"Teacher: {', '.join(f'{accuracy:.1%}' for accuracy in taught) or 'not measured'}."]
    return "\n".join([*lines, "", *foretold(students_of_rounds(rows))]) + "\n"


def mean(cells: list[dict[str, Any]]) -> float:
    """Mean accuracy of the cells that are there; below all others where there is none."""
    return statistics.mean([row["accuracy"] for row in cells if not row["error"]] or [-1.0])


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy of every seed by variant, a panel for each budget; of three budgets and more against the passes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    budgets = sorted({row["passes"] for row in rows})
    names = sorted(dict.fromkeys(row["variant"] for row in rows),
                   key=lambda name: mean([row for row in rows if row["variant"] == name]))  # fmt: skip
    panels = 1 if len(budgets) > MOST_PANELS else len(budgets)
    size = (6.4, 4.4) if panels < len(budgets) else (3.2 + 3.2 * panels, 1.0 + 0.3 * len(names))
    figure, axes = plt.subplots(1, panels, figsize=size, sharey=True, squeeze=False, layout="constrained")
    if panels < len(budgets):
        against_passes(axes[0, 0], rows, list(reversed(names)))
    else:
        for panel, budget in zip(axes[0], budgets, strict=True):
            own = [row for row in rows if row["passes"] == budget]
            panel.plot([100 * row["accuracy"] for row in own], [names.index(row["variant"]) for row in own], "o",
                       alpha=0.7)  # fmt: skip
            panel.set_yticks(range(len(names)), names)
            panel.grid(axis="x", alpha=0.3)
            panel.set_xlabel("accuracy, %")
            panel.set_title(f"{budget:,} teacher passes")
    figure.savefig(path, dpi=150, metadata={"Software": ""})


def against_passes(axes: Axes, rows: list[dict[str, Any]], names: list[str]) -> None:
    """A line of mean accuracies for each variant, every seed as a point, over the passes that were counted."""
    for name in names:
        own = [row for row in rows if row["variant"] == name]
        known = [[row for row in own if row["passes"] == budget] for budget in sorted({row["passes"] for row in own})]
        middle = [statistics.mean(row["counted"] for row in cells) for cells in known]
        line = axes.plot(middle, [100 * mean(cells) for cells in known], label=name)[0]
        each = [(row["counted"], 100 * row["accuracy"]) for row in own]
        axes.plot(*zip(*each, strict=True), "o", color=line.get_color(), alpha=0.5, markersize=4)
    axes.set_xscale("log")
    axes.set_xlabel("counted teacher passes")
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


if __name__ == "__main__":
    sys.exit(main())
