"""Draws figure.png: where each method puts its samples, and the boundary that a student learns from them.

    pip install scikit-learn onnxscript        # only make.py needs them
    python examples/two_moons/figure.py

For each method and seed it distils teacher.onnx into a small MLP through `cake` and measures, on a grid of the plane,
how often student and teacher choose the same class: everywhere, and within 0.2 (normalised units) of the teacher's
boundary. agreement.csv has every seed; the figure shows the first. A few minutes on two CPU cores.
"""

import argparse
import csv
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from torch import Tensor
from torch.nn import functional as F

from cake_cli.events import SILENT
from cake_cli.models.students import load_student
from cake_cli.pipeline import distill
from cake_cli.planning import prepare
from cake_cli.runs import RunDirectory
from cake_cli.settings import resolve
from cake_cli.synthesis.bank import SampleBank

HERE = Path(__file__).resolve().parent
EXTENT = 2.5
"""The grid reaches from -EXTENT to EXTENT in both normalised coordinates."""
CELLS = 201
NEAR = 0.2
"""Distance to the teacher's boundary, in normalised units, that counts as near."""

COMMON = {
    "synthesis.samples": 400,
    "synthesis.set_size": 100,
    "synthesis.groups": 2,
    "synthesis.steps": 250,
    "synthesis.init": "normal",
    "synthesis.cls_weight": 1.0,
    "synthesis.contrastive_weight": 0.1,
    "training.epochs": 300,
    "training.batch_size": 32,
    "training.clip": 0.0,
    "training.heldout_fraction": 0.0,
    "evaluation.report": False,
}
METHODS: dict[str, tuple[str, dict[str, object]]] = {
    "noise": ("Noise, only labelled", {"synthesis.method": "noise"}),
    "naive": ("Naive inversion", {"synthesis.method": "naive"}),
    "generative": ("Generative inversion", {"synthesis.method": "generative"}),
    "implicit": ("CAKE, implicit noise", {"synthesis.method": "cake"}),
    "langevin": ("CAKE, Langevin noise", {"synthesis.noise": "both", "synthesis.step_size": 0.01}),
}
DRAWN = ("naive", "generative", "implicit", "langevin")


@dataclass(frozen=True)
class Result:
    """One student."""

    samples: Tensor
    """(N, 2), what it learned from."""
    decided: Tensor
    """(CELLS, CELLS), its classes on the grid."""
    near: float
    """Agreement with the teacher near the teacher's boundary."""
    everywhere: float
    """Agreement with the teacher on the grid."""


def grid() -> Tensor:
    """The points of the plane, (CELLS², 2)."""
    line = torch.linspace(-EXTENT, EXTENT, CELLS)
    return torch.cartesian_prod(line, line)


def near_boundary(decided: Tensor) -> Tensor:
    """Where a class (CELLS, CELLS) changes within NEAR: a mask (CELLS, CELLS)."""
    reach = round(NEAR / (2 * EXTENT / (CELLS - 1)))
    classes = decided[None, None].float()  # (1, 1, CELLS, CELLS)
    highest = F.max_pool2d(classes, 2 * reach + 1, 1, reach)
    lowest = -F.max_pool2d(-classes, 2 * reach + 1, 1, reach)
    return (highest != lowest)[0, 0]


def run(method: str, seed: int, out: Path, overrides: dict[str, object]) -> tuple[Result, Tensor]:
    """Distils once; returns the student's result and the teacher's probabilities of class 1 on the grid."""
    flags = COMMON | METHODS[method][1] | overrides
    flags |= {"seed": seed, "teacher.file": str(HERE / "teacher.onnx"), "student.architecture": "mlp:32,32"}
    flags["synthesis.rounds"] = 1
    config = resolve(flags=flags)
    prepared = prepare(config, student=True)
    directory = RunDirectory.create(out, config, command="distill", force=False)
    distill(prepared, directory, SILENT)
    student, teacher = load_student(directory.student_path), prepared.teacher
    if teacher is None:
        raise SystemExit("there is no teacher")
    with torch.no_grad():
        sure = teacher(grid()).softmax(dim=1)[:, 1].reshape(CELLS, CELLS)
        decided = student(grid()).argmax(dim=1).reshape(CELLS, CELLS)
    same = decided == (sure > 0.5)
    near = same[near_boundary(sure > 0.5)]
    samples = SampleBank.open(directory.bank_path).samples().inputs
    return Result(samples, decided, float(near.float().mean()), float(same.float().mean())), sure


def draw(results: dict[str, Result], sure: Tensor, means: dict[str, float], path: Path) -> None:
    """Teacher's decision function, samples, and both boundaries, a panel for each method."""
    mpl.use("agg")
    figure, panels = plt.subplots(1, len(results), figsize=(3.1 * len(results), 3.7), layout="constrained")
    line = torch.linspace(-EXTENT, EXTENT, CELLS)
    for panel, (method, result) in zip(panels, results.items(), strict=True):
        panel.contourf(line, line, sure.T, levels=12, cmap="RdBu", alpha=0.45, vmin=0, vmax=1)
        panel.contour(line, line, sure.T, levels=[0.5], colors="black", linewidths=1.4)
        panel.contour(line, line, result.decided.T, levels=[0.5], colors="tab:orange", linewidths=1.8, linestyles="--")
        panel.scatter(*result.samples.T, s=5, c="black", alpha=0.55, linewidths=0)
        panel.set(xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT), xticks=[], yticks=[], aspect="equal")
        panel.set_title(f"{METHODS[method][0]}\n{means[method]:.1%} agreement near the boundary", fontsize=9.5)
    figure.suptitle("Samples; the teacher's boundary (black) and the student's (orange, dashed)", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Runs every method and seed, writes agreement.csv and figure.png, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the figure and the table")
    parser.add_argument("--samples", type=int, default=COMMON["synthesis.samples"])
    parser.add_argument("--epochs", type=int, default=COMMON["training.epochs"])
    arguments = parser.parse_args()
    overrides = {"synthesis.samples": arguments.samples, "training.epochs": arguments.epochs}
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows, first, means, teacher = [], {}, {}, torch.empty(0)
    for method, (title, _) in METHODS.items():
        near = []
        for seed in arguments.seeds:
            with tempfile.TemporaryDirectory() as scratch:
                result, teacher = run(method, seed, Path(scratch) / "run", overrides)
            first.setdefault(method, result)
            near.append(result.near)
            rows.append([method, seed, f"{result.near:.4f}", f"{result.everywhere:.4f}"])
        means[method] = statistics.mean(near)
        spread = statistics.stdev(near) if len(near) > 1 else 0.0
        print(f"{title:24} near the boundary {means[method]:.1%}, standard deviation {spread:.1%}", flush=True)
    with (arguments.out / "agreement.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["method", "seed", "near", "everywhere"], *rows])
    draw({method: first[method] for method in DRAWN}, teacher, means, arguments.out / "figure.png")


if __name__ == "__main__":
    main()
