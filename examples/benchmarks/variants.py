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
    "digits": Pair("digits", "teacher.onnx", "cnn", steps=64),
    "lenet5": Pair("mnist", "lenet5", "lenet5-half", steps=128),
    "cnn-to-mlp": Pair("mnist", "cnn", "mlp", steps=128, teacher_epochs=1),
    "mlp-to-cnn": Pair("mnist", "mlp", "cnn", steps=128),
    "fashion": Pair("fashion-mnist", "lenet5", "lenet5-half", steps=128, teacher_epochs=10),
    "cifar10": Pair("cifar10", "resnet34", "resnet18", steps=200, teacher_epochs=100),
}

PARTS: dict[str, list[str]] = {
    "smooth": [],
    "rounds": ["--rounds", "{rounds}"],
    "disagreement": [],
    "no-replay": ["--replay", "{round}"],
    "views": ["--views", "mix,shift"],
    "ema": ["--ema", "0.99"],
    "temperature": ["--temperature", "4", "--loss", "kl"],
    "logits": ["--loss", "logits", "--lr", "0.01"],
    "hard": ["--set", "training.labels=hard"],
    "noise": ["--set", "training.noise_samples={noise}"],
    "langevin": ["--noise", "langevin"],
    "short": [],
    "shorter": [],
    "longer": [],
}
"""What can be put together. Without smooth, samples start from N(0, I); with short, a quarter of the steps makes four
times the samples, with shorter a sixteenth sixteen times; with longer, students learn half as many rows again, as they
do in rounds; noise is learned beside, a starting point for each sample."""

LOOP = ("smooth", "rounds", "disagreement", "short")
VARIANTS: dict[str, tuple[str, ...]] = {
    "noise": ("method noise",),
    "smooth noise": ("method smooth-noise",),
    "naive": ("method naive", "smooth"),
    "generative": ("method generative", "smooth"),
    "cake, normal start": (),
    "cake": ("smooth",),
    "cake, longer training": ("smooth", "longer"),
    "cake, short": ("smooth", "short"),
    "cake, Langevin": ("smooth", "langevin"),
    "cake, noise beside": ("smooth", "noise"),
    "rounds": ("smooth", "rounds"),
    "rounds, disagreement": ("smooth", "rounds", "disagreement"),
    "rounds, disagreement, Langevin": ("smooth", "rounds", "disagreement", "langevin"),
    "loop": LOOP,
    "loop, shorter": ("smooth", "rounds", "disagreement", "shorter"),
    "loop, normal start": ("rounds", "disagreement", "short"),
    "loop, no replay": (*LOOP, "no-replay"),
    "loop, views": (*LOOP, "views"),
    "loop, ema": (*LOOP, "ema"),
    "loop, temperature 4": (*LOOP, "temperature"),
    "loop, logits": (*LOOP, "logits"),
    "loop, hard labels": (*LOOP, "hard"),
    "loop, noise beside": (*LOOP, "noise"),
    "loop, Langevin": (*LOOP, "langevin"),
    "loop, naive": ("method naive", *LOOP),
}
"""`loop` is all that helped together: rounds of short walks from smooth noise to where student and teacher differ."""
