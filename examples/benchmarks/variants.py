"""What `accuracy.py` compares: pairs of teacher and student, and what a variant is put together from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """A teacher, a student, and the steps of each sample."""

    images: str
    teacher: str
    student: str
    steps: int
    teacher_epochs: int = 3


PAIRS = {
    "digits": Pair("digits", "teacher.onnx", "cnn", steps=128),
    "digits-to-mlp": Pair("digits", "teacher.onnx", "mlp:256,128", steps=128),
    "lenet5": Pair("mnist", "lenet5", "lenet5-half", steps=128),
    "cnn-to-mlp": Pair("mnist", "cnn", "mlp", steps=128, teacher_epochs=1),
    "mlp-to-cnn": Pair("mnist", "mlp", "cnn", steps=128),
    "fashion": Pair("fashion-mnist", "lenet5", "lenet5-half", steps=128, teacher_epochs=10),
    "wrn": Pair("cifar10", "wrn-16-1", "wrn-10-1", steps=128, teacher_epochs=15),
    "cifar10": Pair("cifar10", "resnet34", "resnet18", steps=200, teacher_epochs=100),
}

PARTS: dict[str, list[str]] = {
    "smooth": [],
    "exposed": [],
    "scenes": [],
    "normalised": ["--set", "synthesis.optimizer=normalised"],
    "clamp": ["--set", "synthesis.bounds=clamp"],
    "rounds": ["--rounds", "{rounds}"],
    "disagreement": [],
    "no-replay": ["--replay", "{round}"],
    "views": ["--views", "mix,shift"],
    "ema": ["--ema", "0.99"],
    "temperature": ["--temperature", "4", "--loss", "kl"],
    "logits": ["--loss", "logits", "--lr", "0.01"],
    "hard": ["--set", "training.labels=hard"],
    "noise": [],
    "noise 3": [],
    "noise 15": [],
    "noise 31": [],
    "noise 80": [],
    "waypoints": [],
    "choice": ["--set", "training.chosen=0.5"],
    "much choice": ["--set", "training.chosen=0.8"],
    "langevin": ["--noise", "langevin"],
    "curriculum": ["--set", "synthesis.curriculum=true"],
    "balance": ["--set", "training.class_balance=1"],
    "root balance": ["--set", "training.class_balance=0.5"],
    "entropy": ["--set", "synthesis.entropy_weight=20"],
    "short": [],
    "shorter": [],
    "longer": [],
}
"""What can be put together. Samples start from N(0, I), with smooth from noise of many scales, with exposed from such
noise at many brightnesses and contrasts, with scenes from that, shapes and lines; they move by plain gradient descent
wherever it leads, with normalised by steps of a given length, with clamp within the range of inputs; with short, a
quarter of the steps makes four times the samples, with shorter a sixteenth sixteen times; with longer, students learn
half as many rows again, as they do in rounds; with noise, seven starting points (or the number that follows) are
labelled and learned beside each sample, and with waypoints seven points on its way, as by default in rounds; with
choice, students choose half of the starting points of later rounds, with much choice four fifths. With curriculum the
disagreement's weight rises from round to round; with balance rare classes count for more in training, and with entropy
sets are drawn to as many samples of each class."""

OLD_LOOP = ("smooth", "rounds", "disagreement", "short")
EXPOSED_LOOP = ("exposed", "rounds", "disagreement", "shorter", "noise")
LOOP = ("scenes", "rounds", "disagreement", "shorter", "noise", "waypoints", "normalised", "clamp")
VARIANTS: dict[str, tuple[str, ...]] = {
    "noise": ("method noise",),
    "smooth noise": ("method smooth-noise", "smooth"),
    "exposed noise": ("method smooth-noise", "exposed"),
    "scenes, labelled": ("method smooth-noise", "scenes"),
    "naive": ("method naive", "smooth"),
    "generative": ("method generative", "smooth"),
    "cake, normal start": (),
    "cake": ("smooth",),
    "cake, exposed": ("exposed",),
    "cake, exposed, shorter": ("exposed", "shorter", "longer"),
    "cake, exposed, shorter, noise beside": ("exposed", "shorter", "noise", "longer"),
    "rounds": ("smooth", "rounds"),
    "rounds, disagreement": ("smooth", "rounds", "disagreement"),
    "smooth loop": OLD_LOOP,
    "smooth loop, shorter": ("smooth", "rounds", "disagreement", "shorter"),
    "exposed loop": EXPOSED_LOOP,
    "loop": LOOP,
    "loop, chosen starts": (*LOOP, "choice"),
    "loop, exposed": tuple("exposed" if part == "scenes" else part for part in LOOP),
    "loop, plain descent": tuple(part for part in LOOP if part != "normalised"),
    "loop, no clamp": tuple(part for part in LOOP if part != "clamp"),
    "loop, no waypoints": tuple(part for part in LOOP if part != "waypoints"),
    "loop, no noise beside": tuple(part for part in LOOP if part != "noise"),
    "loop, 3 labels beside": tuple("noise 3" if part == "noise" else part for part in LOOP),
    "loop, 15 labels beside": tuple("noise 15" if part == "noise" else part for part in LOOP),
    "loop, 31 labels beside": tuple("noise 31" if part == "noise" else part for part in LOOP),
    "loop, many labels": (*("noise 80" if part == "noise" else part for part in LOOP), "much choice"),
    "loop, no disagreement": tuple(part for part in LOOP if part != "disagreement"),
    "loop, in one go": tuple(part for part in LOOP if part not in ("rounds", "disagreement")),
    "loop, 128 steps": tuple(part for part in LOOP if part != "shorter"),
    "loop, 32 steps": tuple("short" if part == "shorter" else part for part in LOOP),
    "loop, normal start": tuple(part for part in LOOP if part != "scenes"),
    "loop, no replay": (*LOOP, "no-replay"),
    "loop, views": (*LOOP, "views"),
    "loop, ema": (*LOOP, "ema"),
    "loop, temperature 4": (*LOOP, "temperature"),
    "loop, logits": (*LOOP, "logits"),
    "loop, hard labels": (*LOOP, "hard"),
    "loop, plain descent, Langevin": (*(part for part in LOOP if part != "normalised"), "langevin"),
    "loop, curriculum": (*LOOP, "curriculum"),
    "loop, class balance": (*LOOP, "balance"),
    "loop, root class balance": (*LOOP, "root balance"),
    "loop, balanced sets": (*LOOP, "entropy"),
    "loop, naive": ("method naive", *LOOP),
}
"""`loop` is all that helped together, and the default of `cake distill`: rounds of short walks from scenes to where
student and teacher differ, with points on the way and labelled starts beside. `exposed loop` and `smooth loop` are the
defaults before it, the best of what starts had been tried then."""
