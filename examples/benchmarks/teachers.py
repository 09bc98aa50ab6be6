"""The defaults on many teachers: `cake distill` as it is, beside its own noise baseline, on files of other people too.

    python examples/benchmarks/teachers.py --data DATA --models MODELS --out runs/teachers

Teachers of digits, MNIST, Fashion-MNIST and CIFAR-10: trained here once (kept in --cache), shipped with the examples,
or third-party files of a folder MODELS, each with the flags that its users would give. A teacher whose file is not
there is left out. Each cell (a teacher and a seed) is a run directory below --out that is made once; the student is
taken after its last step, and the held-out images measure it and choose nothing. Arguments after `--` go to
`cake distill`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cells import fault_of, make_cell, own_and_passed_on, spread, write_csv  # beside this file
from images import load_images, read_arrays
from students import trained_teacher

HERE = Path(__file__).resolve().parent
DIGITS = HERE.parent / "digits"
COLUMNS = ("teacher", "images", "student", "seed", "teacher_accuracy", "accuracy", "agreement", "noise_accuracy",
           "noise_agreement", "forward", "backward", "labelled", "seconds", "error")  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A teacher and what its user says of it."""

    images: str
    student: str
    file: str | None = None
    """Of the folder of models; None for one that is trained here."""
    network: str | None = None
    epochs: int = 3
    size: int = 32
    """Pixels along an axis of its input; images of 28 are padded with black."""
    flags: tuple[str, ...] = ()


RAW = ("--input-range", "0,1")
CASES = {
    "digits": Case("digits", "cnn", file="teacher.onnx"),
    "lenet5": Case("mnist", "lenet5-half", network="lenet5"),
    "cnn": Case("mnist", "lenet5-half", network="cnn", epochs=1),
    "mlp": Case("mnist", "lenet5-half", network="mlp"),
    "lenet5, fashion": Case("fashion-mnist", "lenet5-half", network="lenet5", epochs=10),
    "lenet5, cifar10": Case("cifar10", "lenet5-half", network="lenet5", epochs=15),
    "handwritten_digit.pt": Case("mnist", "lenet5", "handwritten_digit.pt", size=28,
                                 flags=(*RAW, "--input-shape", "1,28,28")),
    "makora_mnist_cnn.onnx": Case("mnist", "lenet5", "makora_mnist_cnn.onnx", size=28, flags=RAW),
    "vnn_verivital_convnet_maxpool.onnx": Case("mnist", "lenet5", "vnn_verivital_convnet_maxpool.onnx", size=28,
                                               flags=RAW),
    "zoo_mnist_12.onnx": Case("mnist", "lenet5", "zoo_mnist_12.onnx", size=28, flags=("--input-range", "0,255")),
    "whats_the_number.onnx": Case("mnist", "lenet5", "whats_the_number.onnx", size=28, flags=RAW),
    "fashion_edwin.onnx": Case("fashion-mnist", "lenet5", "fashion_edwin.onnx", size=28, flags=RAW),
    "anshaj_cifar10_keras.onnx": Case("cifar10", "lenet5", "anshaj_cifar10_keras.onnx", flags=RAW),
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Makes what is missing, then prints and writes the table; the number of cells that failed."""
    own, passed_on = own_and_passed_on(arguments)
    options = parse(own)
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in options.only:
        files = files_of(CASES[name], options)
        if files is None:
            print(f"{name}: its file or its images are not there; left out", file=sys.stderr)
            continue
        for seed in options.seeds:
            rows.append(row := measured(name, seed, *files, options, passed_on))
            said = row["error"] or f"{row['accuracy']:.2%}, noise {told(row['noise_accuracy'])}"
            print(f"{name}, seed {seed}: {said}", file=sys.stderr, flush=True)
    write_csv(options.out / "teachers.csv", rows, COLUMNS)
    table = markdown(rows)
    (options.out / "teachers.md").write_text(table, encoding="utf-8")
    print(table)
    return sum(row["error"] != "" for row in rows)


def told(share: float | None) -> str:
    """A share in percent."""
    return "not trained" if share is None else f"{share:.2%}"


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the images, as for reference.py; digits need none")
    parser.add_argument("--models", type=Path, help="folder of third-party files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the tables")
    parser.add_argument("--cache", type=Path, help="folder of trained teachers; --out by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device", default="cpu", help="where teachers are trained")
    parser.add_argument("--keep", action="store_true", help="keep the banks of finished cells")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), metavar="TEACHER",
                        help=f"some of: {'; '.join(CASES)}")  # fmt: skip
    return parser.parse_args(arguments)


def files_of(case: Case, options: argparse.Namespace) -> tuple[Path, Path] | None:
    """The teacher and the held-out images; None where one is not there."""
    if case.images == "digits":
        return DIGITS / "teacher.onnx", DIGITS / "heldout.npz"
    if options.data is None or (case.file is not None and options.models is None):
        return None
    heldout = options.out / f"{case.images}-{case.size}.npz"
    if not heldout.exists():
        pixels, labels = read_arrays(options.data, case.images, "test")
        edge = (case.size - pixels.shape[-1]) // 2
        np.savez_compressed(heldout, x=np.pad(pixels, ((0, 0), (0, 0), (edge, edge), (edge, edge))), y=labels)
    if case.network is None:
        file = options.models / str(case.file)
        return (file, heldout) if file.exists() else None
    images = load_images(options.data, case.images)
    cache = options.cache or options.out / "teachers" / case.images
    return trained_teacher(case.network, images, cache, case.epochs, options.device), heldout


def measured(
    name: str, seed: int, teacher: Path, heldout: Path, options: argparse.Namespace, passed_on: list[str]
) -> dict[str, Any]:
    """The figures of one teacher and seed."""
    case = CASES[name]
    path = options.out / f"{name.replace(',', '').replace(' ', '-')}-{seed}"
    record = make_cell(path, "distill", teacher, "--student", case.student, "--data", heldout, "--seed", seed,
                       *case.flags, "--no-report", *passed_on)  # fmt: skip
    row: dict[str, Any] = {"teacher": name, "images": case.images, "student": case.student, "seed": seed}
    row["error"] = fault_of(record)
    if record is None or row["error"]:
        return row
    if not options.keep:  # gigabytes, of half a million samples of CIFAR-10
        shutil.rmtree(path / "bank", ignore_errors=True)
    found = record["evaluation"]
    return row | {
        "teacher_accuracy": found["accuracy"]["teacher"],
        "accuracy": found["accuracy"]["student"],
        "agreement": found["agreement"],
        "noise_accuracy": found["accuracy"].get("noise_baseline"),  # None with --no-baseline
        "noise_agreement": found["models"].get("noise_baseline", {}).get("agreement"),
        "forward": record["teacher_passes"]["forward"],
        "backward": record["teacher_passes"]["backward"],
        "labelled": record["training_passes"]["forward"],
        "seconds": round(sum(record["seconds"].values()), 1),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """A line for each teacher."""
    lines = [
        "| teacher | images | student | teacher | student | agreement | student of noise | its agreement |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(row["teacher"] for row in rows):
        own = [row for row in rows if row["teacher"] == name]
        done = [row for row in own if not row["error"]]
        if not done:
            lines.append(f"| {name} | {own[0]['images']} | {own[0]['student']} | {own[0]['error']} | | | | |")
            continue
        figures = ("teacher_accuracy", "accuracy", "agreement", "noise_accuracy", "noise_agreement")
        known = {figure: [row[figure] for row in done if row[figure] is not None] for figure in figures}
        columns = " | ".join(spread(values) if values else "" for values in known.values())
        lines.append(f"| {name} | {done[0]['images']} | {done[0]['student']} | {columns} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
