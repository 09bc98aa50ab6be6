"""cake and the reference implementation on the same teacher, sets, steps and machine, in one run.

    git clone https://github.com/ml-research/CAKE CHECKOUT
    pip install pytorch-lightning rtpt wandb hydra-core timm scikit-learn   # what the reference's sampling imports
    python examples/benchmarks/reference.py --reference CHECKOUT --data DATA

Each side makes a bank from the same teacher with the reference's preset, in turn, in a process of its own; then one and
the same student recipe learns from each bank, and is measured on real test images. The reference runs as it is: from
its checkout, by `theirs.py`. Seconds are those of synthesis with the writing of samples, without imports and loading.
Teachers are trained once and kept in --cache. README.md beside this file has the commands and what they took.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from images import Images, load_images, name_of_machine
from students import accuracy, learned, trained_teacher

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


@dataclass(frozen=True)
class Budget:
    """What is made from a teacher, and who learns from it."""

    data: str
    preset: str
    """The reference's name of it, and `cake`'s recipe."""
    recipe: str
    samples: int
    steps: int
    set_size: int
    student: str
    epochs: int
    teacher_epochs: int


BUDGETS = {
    "lenet5": Budget("mnist", "mnist", "paper-mnist", 4000, 100, 500, "lenet5-half", 30, 3),
    "cnn": Budget("mnist", "mnist", "paper-mnist", 1000, 50, 500, "lenet5-half", 60, 1),
    "resnet18": Budget("cifar10", "cifar-10", "paper-cifar", 10_000, 256, 500, "resnet18", 30, 30),
    "resnet34": Budget("cifar10", "cifar-10", "paper-cifar", 10_000, 256, 500, "resnet18", 30, 30),
}


@dataclass(frozen=True)
class Row:
    """One bank and the student that learned from it."""

    teacher: str
    side: str
    seed: int
    samples: int
    steps: int
    seconds: float
    rate: float
    """Sample-steps a second."""
    accuracy: float
    """Of the student, on the test images."""


def main() -> None:
    """Runs what the command line asks for and writes the figures."""
    options = _options()
    rows: list[Row] = []
    for name in options.teachers.split(","):
        budget = BUDGETS[name]
        budget = Budget(
            **asdict(budget) | {key: value for key in ("samples", "steps") if (value := getattr(options, key))}
        )
        images = load_images(options.data, budget.data)
        file = trained_teacher(name, images, options.cache, budget.teacher_epochs, options.device)
        print(f"{name}: teacher {accuracy(file, images, options.device):.2%} on {len(images.test_labels)} test images")
        for seed in range(options.seeds):
            sides = [_theirs, _ours] if seed % 2 == 0 else [_ours, _theirs]
            rows += [_row(side, name, budget, seed, file, images, options) for side in sides]
            _write(rows, options)
    print(_markdown(rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, help="a checkout of ml-research/CAKE")
    parser.add_argument("--reference-python", default=sys.executable, help="a Python with its dependencies and cake's")
    parser.add_argument("--data", type=Path, required=True, help="torchvision's root, or a folder with a read.py")
    parser.add_argument("--teachers", default="lenet5", help=f"of {', '.join(BUDGETS)}, with commas between")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, help="instead of the teacher's own budget")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto", help="of cake; the reference always uses autocast, bf16 on CPUs")
    parser.add_argument("--cache", type=Path, default=ROOT / "runs" / "benchmarks", help="for teachers")
    parser.add_argument("--out", type=Path, default=HERE, help="where the .csv and .md are written")
    options = parser.parse_args()
    unknown = set(options.teachers.split(",")) - set(BUDGETS)
    if unknown:
        parser.error(f"no such teacher: {', '.join(unknown)}")
    if not (options.reference / "src" / "sampling.py").is_file():
        parser.error(f"{options.reference} is no checkout of ml-research/CAKE")
    return options


Side = Callable[..., tuple[torch.Tensor, torch.Tensor, float]]
"""Makes a bank: inputs (N, C, H, W), logits (N, K), and seconds."""


def _row(
    side: Side, name: str, budget: Budget, seed: int, file: Path, images: Images, options: argparse.Namespace
) -> Row:
    with tempfile.TemporaryDirectory() as work:
        inputs, logits, seconds = side(name, budget, seed, file, images, options, Path(work))
    student = learned(inputs, logits, budget.student, images, epochs=budget.epochs, seed=seed, device=options.device)
    row = Row(
        name, side.__name__.strip("_"), seed, len(inputs), budget.steps, round(seconds, 3),
        round(len(inputs) * budget.steps / seconds, 1), round(accuracy(student, images, options.device), 4),
    )  # fmt: skip
    print(f"  {row.side:<6} seed {seed}   {row.seconds:.1f} s   {row.rate:,.0f} sample-steps/s   {row.accuracy:.2%}")
    return row


def _theirs(
    name: str, budget: Budget, seed: int, file: Path, images: Images, options: argparse.Namespace, work: Path
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Inputs (N, C, H, W), log-probabilities (N, K) and seconds of the reference."""
    job = {
        "checkout": str(options.reference.resolve()),
        "work": str(work),
        "preset": budget.preset,
        "overrides": [
            f"sampling.num_steps={budget.steps}",
            f"sampling.batch_size={budget.set_size}",
            f"sampling.num_batches={budget.samples // budget.set_size}",
        ],
        "architecture": name,
        "weights": str(file),
        "shape": list(images.shape),
        "classes": 10,
        "device": options.device,
        "seed": seed,
        "out": str(work / "samples.npz"),
    }
    (work / "job.json").write_text(json.dumps(job))
    _run([options.reference_python, str(HERE / "theirs.py"), str(work / "job.json")], cwd=options.reference)
    with np.load(work / "samples.npz") as made:
        soft = torch.from_numpy(made["soft_labels"]).clamp_min(1e-12)
        return torch.from_numpy(made["inputs"]), soft.log(), float(made["seconds"])


def _ours(
    name: str, budget: Budget, seed: int, file: Path, images: Images, options: argparse.Namespace, work: Path
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Inputs (N, C, H, W), logits (N, K) and seconds of `cake synthesize` with the reference's preset."""
    command = [
        *[sys.executable, "-m", "cake_cli", "synthesize", str(file), "-o", str(work / "bank")],
        *["--recipe", budget.recipe, "--samples", str(budget.samples), "--steps", str(budget.steps)],
        *["--set", f"synthesis.set_size={budget.set_size}", "--seed", str(seed)],
        *["--device", options.device, "--precision", options.precision, "--json", "--progress", "none"],
    ]
    told = json.loads(_run(command, cwd=ROOT))
    from cake_cli.synthesis.bank import SampleBank

    samples = SampleBank.open(work / "bank").samples()
    return samples.inputs.clone(), samples.logits.clone(), float(told["seconds"])


def _run(command: list[str], cwd: Path) -> str:
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(  # noqa: S603
        command, cwd=cwd, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{shutil.which(command[0])} {command[1]} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def _write(rows: list[Row], options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    stem = f"reference-{options.device.partition(':')[0]}-{options.teachers.replace(',', '-')}"
    with (options.out / f"{stem}.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    about = [
        f"Machine: {name_of_machine(options.device)}. Python {platform.python_version()}, torch {torch.__version__}.",
        f"Command: `python {' '.join(sys.argv)}`",
    ]
    (options.out / f"{stem}.md").write_text("\n\n".join([*about, _markdown(rows)]) + "\n")


def _markdown(rows: list[Row]) -> str:
    """A line for each teacher and side: medians over seeds, each seed's accuracy, and how many times faster."""
    lines = [
        "| teacher | side | samples × steps | seconds | sample-steps/s | faster | student accuracy (each seed) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(row.teacher for row in rows):
        theirs = _median(rows, name, "theirs", "rate")
        for side, label in (("theirs", "reference"), ("ours", "cake")):
            own = [row for row in rows if (row.teacher, row.side) == (name, side)]
            if not own:
                continue
            seconds = _median(rows, name, side, "seconds")
            rate, scores = _median(rows, name, side, "rate"), [row.accuracy for row in own]
            each = ", ".join(f"{100 * score:.1f}" for score in scores)
            lines.append(
                f"| {name} | {label} | {own[0].samples:,} × {own[0].steps} | {seconds:.1f} "
                f"| {rate:,.0f} | {rate / theirs if theirs else float('nan'):.2f}× "
                f"| {statistics.mean(scores):.2%} ({each}) |"
            )
    return "\n".join(lines)


def _median(rows: list[Row], teacher: str, side: str, figure: str) -> float:
    values = [getattr(row, figure) for row in rows if (row.teacher, row.side) == (teacher, side)]
    return statistics.median(values) if values else 0.0


if __name__ == "__main__":
    main()
