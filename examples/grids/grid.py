"""The talk's two grids: teachers and students of other kinds, and of other sizes.

    python examples/grids/grid.py types --seeds 0 1 2
    python examples/grids/grid.py ladder --seeds 0 1 2
    python examples/grids/grid.py ladder --images cifar10 --data DIR --device cuda:0 --samples 50000 --steps 200 \
        --teacher-epochs 100

`types` has an MLP, a CNN, a ResNet and a Vision Transformer as teacher and as student; `ladder` has ResNets of
growing depth. Teachers learn real images once: scikit-learn's digits, or those below --data. Each cell is `cake
distill` with its noise baseline, a run directory below --out that is gone on with when the command is repeated.
Students are taken after their last step; held-out images measure them and choose nothing. Writes a CSV file, a table
and a heat map. Arguments after `--` go to `cake distill`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "benchmarks"), str(HERE.parent / "digits")]

from cells import fault_of, make_cell, own_and_passed_on, spread, write_csv  # noqa: E402  # beside this folder
from images import Images, load_images, name_of_machine  # noqa: E402
from make import split  # noqa: E402
from students import save_teacher  # noqa: E402

from cake_cli.hardware import pick  # noqa: E402
from cake_cli.models.architectures import build_student  # noqa: E402

COLUMNS = ("teacher", "student", "seed", "accuracy", "teacher_accuracy", "noise_accuracy", "agreement",
           "forward", "backward", "seconds", "device", "error")  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """Which networks, and how much of everything where the command does not say."""

    networks: tuple[str, ...]
    samples: int
    steps: int
    epochs: int


GRIDS = {
    "types": Grid(("mlp", "cnn", "resnet4", "vit:patch=2,dim=32,depth=3,heads=4"), samples=4000, steps=64, epochs=20),
    "ladder": Grid(("resnet4", "resnet18", "resnet34"), samples=1000, steps=32, epochs=20),
}


def main(arguments: list[str] | None = None) -> int:
    """Makes what is missing, then prints and writes the table; the number of cells that failed."""
    own, passed_on = own_and_passed_on(arguments)
    options = parse(own)
    options.out.mkdir(parents=True, exist_ok=True)
    images = digits() if options.images == "digits" else load_images(options.data, options.images)
    heldout = options.out / "heldout.npz"
    if not heldout.exists():
        np.savez_compressed(heldout, x=as_bytes(images), y=images.test_labels.numpy())
    teachers = {name: teacher(name, images, options) for name in options.teachers}
    cells = [(name, student, seed) for seed in options.seeds for name in teachers for student in options.students]
    rows: list[dict[str, Any]] = []
    for number, (name, student, seed) in enumerate(cells, start=1):
        record = make_cell(
            options.out / f"{kind(name)}-to-{kind(student)}-{seed}", "distill", teachers[name], "--student", student,
            "--data", heldout, "--seed", seed, "--samples", options.samples, "--steps", options.steps, "--rounds", 1,
            "--epochs", options.epochs, "--device", options.device, "--no-report", *passed_on)  # fmt: skip
        rows.append({"teacher": kind(name), "student": kind(student), "seed": seed} | figures(record))
        said = rows[-1]["error"] or f"{rows[-1]['accuracy']:.1%}, noise {rows[-1]['noise_accuracy']:.1%}"
        print(f"[{number}/{len(cells)}] {kind(name)} to {kind(student)}, seed {seed}: {said}", file=sys.stderr)
    write_csv(options.out / f"{options.grid}.csv", rows, COLUMNS)
    table = markdown(rows, options)
    (options.out / f"{options.grid}.md").write_text(table, encoding="utf-8")
    print(table)
    done = [row for row in rows if not row["error"]]
    if done:
        heat_map(done, options.out / f"{options.grid}.png")
    return len(rows) - len(done)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options, those of the grid where none are given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", choices=list(GRIDS))
    parser.add_argument("--images", choices=["digits", "mnist", "cifar10"], default="digits")
    parser.add_argument("--data", type=Path, help="folder of MNIST or CIFAR-10, as for examples/benchmarks")
    parser.add_argument("--teachers", nargs="+", help="networks; those of the grid by default")
    parser.add_argument("--students", nargs="+", help="networks; those of the grid by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--samples", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--teacher-epochs", type=int, default=60)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="folder of the runs and the tables; runs/grids/GRID by default")
    options = parser.parse_args(arguments)
    grid = GRIDS[options.grid]
    options.out = options.out or Path("runs/grids") / options.grid
    options.teachers, options.students = options.teachers or grid.networks, options.students or grid.networks
    for name in ("samples", "steps", "epochs"):
        setattr(options, name, getattr(options, name) or getattr(grid, name))
    return options


def kind(name: str) -> str:
    """The name without its options."""
    return name.partition(":")[0]


# --- teachers -----------------------------------------------------------------------------------------------------


def digits() -> Images:
    """Scikit-learn's digits, 1,297 to learn and 500 held out, normalised: (N, 1, 8, 8)."""
    x, y, x_held, y_held = split()
    mean, std = float(x.mean() / 255), float(x.std() / 255)
    rows, held = ((torch.from_numpy(part).float()[:, None] / 255 - mean) / std for part in (x, x_held))
    return Images(rows, torch.from_numpy(y).long(), held, torch.from_numpy(y_held).long(), (mean,), (std,))


def as_bytes(images: Images) -> np.ndarray:
    """The held-out images as they came, (N, C, H, W) of bytes."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (images.mean, images.std))
    pixels: np.ndarray = ((images.test * std + mean) * 255).round().to(torch.uint8).numpy()
    return pixels


def teacher(name: str, images: Images, options: argparse.Namespace) -> Path:
    """The file of a network that has learnt the real images; made where there is none."""
    path: Path = options.out / f"teacher-{kind(name)}.safetensors"
    if path.exists():
        return path
    hardware = pick(options.device)
    torch.manual_seed(0)
    network = hardware.place(build_student(name, images.shape, 10)).train()
    learn(network, images, options.teacher_epochs, hardware)
    save_teacher(path, network, name, images)
    return path


def learn(network: nn.Module, images: Images, epochs: int, hardware: Any) -> None:
    """AdamW, one cycle, images moved by up to an eighth of their size."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=5e-2)
    steps = epochs * (len(images.train) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps + 1)
    order = torch.cat([torch.randperm(len(images.train)) for _ in range(epochs)])
    for index in torch.split(order, 64)[:steps]:
        batch = hardware.place_rows(moved(images.train[index]))
        with hardware.autocast():
            logits = network(batch)
        loss = F.cross_entropy(logits.float(), images.train_labels[index].to(hardware.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()


def moved(images: Tensor) -> Tensor:
    """A batch (N, C, H, W) moved by up to an eighth, the border filled with its darkest value."""
    far, size = images.shape[-1] // 8, images.shape[-1]
    padded = F.pad(images, (far, far, far, far), value=float(images.min()))
    down, right = torch.randint(0, 2 * far + 1, (2,)).tolist()
    return padded[:, :, down : down + size, right : right + size]


# --- results ------------------------------------------------------------------------------------------------------


def figures(record: dict[str, Any] | None) -> dict[str, Any]:
    """What a cell's record says."""
    fault = fault_of(record)
    if record is None or fault:
        return {"error": fault}
    found = record["evaluation"]
    return {
        "accuracy": found["accuracy"]["student"],
        "teacher_accuracy": found["accuracy"]["teacher"],
        "noise_accuracy": found["accuracy"]["noise_baseline"],
        "agreement": found["agreement"],
        "forward": record["teacher_passes"]["forward"],
        "backward": record["teacher_passes"]["backward"],
        "seconds": round(sum(record["seconds"].values()), 1),
        "device": record["device"],
        "error": "",
    }


def of(rows: list[dict[str, Any]], teacher: str, student: str, figure: str) -> list[float]:
    """A figure of a cell, by seed."""
    return [row[figure] for row in rows if row["teacher"] == teacher and row["student"] == student]


def markdown(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """Teachers down, students across: the student's accuracy, and that of noise, mean and deviation over seeds."""
    done = [row for row in rows if not row["error"]]
    students = [kind(name) for name in options.students]
    lines = [
        f"{options.images}: {options.samples:,} samples, {options.steps} steps, {options.epochs} epochs, seeds "
        f"{', '.join(map(str, options.seeds))}; {name_of_machine(options.device)}, torch {torch.__version__}.",
        "Accuracy on held-out images after the last step, mean ± standard deviation; below it that of the same student "
        "on noise that the teacher labelled.",
        "",
        f"| teacher (accuracy) | {' | '.join(students)} |",
        f"| --- |{' --- |' * len(students)}",
    ]
    for name in dict.fromkeys(row["teacher"] for row in rows):
        own = [row["teacher_accuracy"] for row in done if row["teacher"] == name]
        cells = []
        for student in students:
            reached, noise = (of(done, name, student, figure) for figure in ("accuracy", "noise_accuracy"))
            cells.append(f"{spread(reached)}<br>noise {spread(noise)}" if reached else "failed, see the CSV file")
        lines.append(f"| {name} ({f'{own[0]:.1%}' if own else 'not measured'}) | {' | '.join(cells)} |")
    passes = sorted({(row["forward"], row["backward"]) for row in done})
    lines += ["", "Teacher passes of a cell: " + ", ".join(f"{f:,} forward + {b:,} backward" for f, b in passes) + "."]
    return "\n".join(lines) + "\n"


def heat_map(rows: list[dict[str, Any]], path: Path) -> None:
    """The mean accuracy of each cell as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    teachers, students = (list(dict.fromkeys(row[side] for row in rows)) for side in ("teacher", "student"))
    means = [[100 * statistics.mean(of(rows, t, s, "accuracy") or [float("nan")]) for s in students] for t in teachers]
    figure, axes = plt.subplots(figsize=(1.5 + 1.1 * len(students), 1.0 + 0.8 * len(teachers)), layout="constrained")
    axes.imshow(means, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(students)), students)
    axes.set_yticks(range(len(teachers)), teachers)
    axes.set_xlabel("student")
    axes.set_ylabel("teacher")
    middle = (np.nanmin(means) + np.nanmax(means)) / 2
    for down, line in enumerate(means):
        for across, value in enumerate(line):
            axes.text(across, down, f"{value:.1f}", ha="center", va="center", color="black" if value > middle else "w")
    axes.set_title("accuracy of the student, %")
    figure.savefig(path, dpi=150, metadata={"Software": ""})


if __name__ == "__main__":
    sys.exit(main())
