"""Run directories as the pipeline leaves them, made in a moment from a tiny teacher."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cake_cli.config import Config, EvaluationConfig, SynthesisConfig
from cake_cli.models.classifier import Classifier
from cake_cli.runs import RunDirectory
from cake_cli.spec import InputSpec
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.engine import Passes, Wave
from cake_cli.synthesis.samples import Samples
from cake_cli.synthesis.sets import SetPlan

DIGITS = InputSpec((1, 8, 8), (0.3,), (0.38,), (0.0, 1.0), source="the file's metadata")


def teacher(spec: InputSpec, classes: int, names: tuple[str, ...] | None = None) -> Classifier:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(spec.values, classes)).eval().requires_grad_(False)
    with torch.no_grad():
        module[1].weight.mul_(4)
    return Classifier(module, spec, classes, "teacher.onnx", "ab" * 32, names)


def draw(model: Classifier, count: int, *, step_size: float = 0.1, seed: int = 0) -> Samples:
    inputs = torch.randn(count, *model.spec.shape, generator=torch.Generator().manual_seed(seed))
    logits = model(inputs)
    return Samples(inputs, logits, logits.argmax(dim=1), torch.full((count,), step_size))


def bank(path: Path, model: Classifier, *, shards: int = 8, set_size: int = 60) -> SampleBank:
    plan = SetPlan(sets=shards, rows=set_size // 2, groups=2, at_once=1)
    made = SampleBank.create(path, model, plan, seed=0, settings={})
    for index in range(shards):
        samples = draw(model, set_size, step_size=0.1 * 10 ** (-4 * index / shards), seed=index)
        made.add(Wave(range(index, index + 1), samples, Passes(set_size, set_size), {"cls": 0.1, "tv": 0.2}))
    return made


def evaluation(classes: int, *, samples: int = 500, baseline: bool = True, names: Any = None) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, samples)

    def noisy(choices: np.ndarray, rate: float) -> np.ndarray:
        other = generator.integers(0, classes, samples)
        return np.where(generator.random(samples) < rate, other, choices)

    taught = noisy(labels, 0.006)
    guesses = {"teacher": taught, "student": noisy(taught, 0.03)}
    guesses |= {"noise_baseline": noisy(taught, 0.15)} if baseline else {}

    def model(role: str) -> dict[str, Any]:
        guess = guesses[role]
        accuracy, agreement = float((guess == labels).mean()), float((guess == taught).mean())
        table = np.zeros((classes, classes), int)
        np.add.at(table, (taught, guess), 1)
        against = role != "teacher"
        found = {
            "samples": samples,
            "accuracy": accuracy,
            "accuracy_interval": [accuracy - 0.015, min(1.0, accuracy + 0.015)],
            "top5": min(1.0, accuracy + 0.02) if classes > 5 else None,
            "ece": 0.021,
            "per_class": [
                {
                    "index": k,
                    "name": None if names is None else names[k],
                    "recall": float((guess[labels == k] == k).mean()) if (labels == k).any() else None,
                    "support": int((labels == k).sum()),
                }
                for k in range(classes)
            ],
            "agreement": agreement if against else None,
            "agreement_interval": [agreement - 0.015, min(1.0, agreement + 0.015)] if against else None,
            "kl": 0.104 if against else None,
            "agreement_by_confidence": [
                {"low": i / 10, "high": (i + 1) / 10, "samples": 25 * (i > 5), "agreement": 0.6 + i / 25}
                for i in range(10)
            ]
            if against
            else None,
        }
        return found | ({"student_vs_teacher": table.tolist() if against else None} if classes <= 100 else {})

    models = {role: model(role) for role in guesses}
    return {
        "data": "examples/digits/heldout.npz",
        "samples": samples,
        "notes": ["uint8 values are divided by 255"],
        "accuracy": {
            role: models[role]["accuracy"] if role in models else None for role in (*guesses, "noise_baseline")
        },
        "agreement": models["student"]["agreement"],
        "kl": 0.104,
        "ece": 0.021,
        "models": models,
    }


def run(
    path: Path,
    *,
    spec: InputSpec = DIGITS,
    classes: int = 10,
    names: tuple[str, ...] | None = None,
    command: str = "distill",
    measured: bool = True,
    baseline: bool = True,
    with_bank: bool = True,
    metrics: bool = True,
    gate: float | None = None,
    **fields: Any,
) -> RunDirectory:
    config = Config(
        synthesis=SynthesisConfig(samples=480),
        evaluation=EvaluationConfig(data="heldout.npz" if gate is not None else None, min_agreement=gate),
    )
    made = RunDirectory.create(path, config, command=command, force=False)
    model = teacher(spec, classes, names)
    synthesis: dict[str, Any] | None = None
    if with_bank:
        stored = bank(made.bank_path, model)
        health = stored.health
        assert health is not None
        synthesis = {
            "samples": len(stored),
            "health": health.to_json(),
            "balance": health.balance,
            "method": "cake",
        }
    if metrics:
        _append_metrics(made, baseline=baseline)
    made.update(
        **{
            "argv": ["distill", "examples/digits/teacher.onnx", "--student", "cnn", "--data", "my data/held out.npz"],
            "teacher": {
                "name": "teacher.onnx",
                "path": "examples/digits/teacher.onnx",
                "sha256": "ab" * 32,
                "parameters": 94_538,
                "input": spec.to_json(),
                "classes": classes,
                "class_names": names,
                "output_kind": "logits",
                "converter": "onnx2torch",
                "batching": "direct",
                "mends": [],
                "checks": ["gradient at every one of 16 inputs", "agrees with onnxruntime to 2.4e-07"],
            },
            "student": {"architecture": "cnn", "parameters": 27_000, "file": "student.safetensors"},
            "plan": {"sets": 8, "rows": 30, "groups": 2, "at_once": 1, "samples": 480, "steps": 128, "epochs": 30},
            "synthesis": synthesis,
            "seconds": {"load": 2.1, "synthesis": 81.3, "training": 34.0, "baseline": 33.5, "evaluation": 0.8},
            "teacher_passes": {"forward": 516_000, "backward": 512_000},
            "device": "cpu (2 threads)",
            "precision": "fp32",
            "evaluation": evaluation(classes, baseline=baseline, names=names) if measured else None,
            "synthetic_fidelity": 0.941,
        }
        | fields
    )
    if "status" not in fields:
        made.finish("complete")
    return made


def _append_metrics(made: RunDirectory, *, baseline: bool) -> None:
    for index in range(40):
        at = index / 40
        made.append_metrics(
            "synthesis",
            shard=index,
            samples=12 * (index + 1),
            step_size=0.1 * 10 ** (-4 * at),
            on_target=1 - 0.3 * at**3,
            confidence=0.98 - 0.4 * at**2,
            entropy=0.1 + at,
            cls=0.02 + 0.5 * at**2,
            contrastive=4 - 2 * at,
            tv=0.2 + 0.8 * at,
        )
    for stage in ("training", "baseline") if baseline else ("training",):
        worse = 1.0 if stage == "training" else 1.4
        for epoch in range(1, 31):
            made.append_metrics(
                stage,
                epoch=epoch,
                loss=worse * (0.4 + 1.8 * math.exp(-epoch / 6)),
                agreement=(0.95 - 0.6 * math.exp(-epoch / 5)) / worse,
                lr=0.1,
            )
