"""What a file or folder is: a teacher, a student, a bank, or a run; as plain values."""

from __future__ import annotations

import time
from dataclasses import asdict, fields
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from cake_cli.address import as_address
from cake_cli.config import LABELLED_ONLY, TeacherConfig
from cake_cli.locks import LOCK, is_left_over
from cake_cli.runs import RunDirectory
from cake_cli.spec import InputSpec
from cake_cli.storage import holds_only, sha256
from cake_cli.synthesis.health import Health
from cake_cli.synthesis.manifest import read_manifest, sound

if TYPE_CHECKING:
    from cake_cli.models.weights import Weights


def inspect_path(path: Path, settings: TeacherConfig) -> dict[str, Any]:
    """Opens whatever is at `path` and describes it.

    Args:
        path: a model file, a bank, or a run directory.
        settings: what a model file does not say of itself.

    Returns:
        A JSON-ready object; ``kind`` is ``run``, ``bank``, ``student``, ``teacher`` or ``weights``; ``begun`` is a run
        or bank that was stopped before anything was done.

    Raises:
        CakeError: if it is none of these, or damaged, with the reason.
    """
    if (path / "run.json").is_file():
        return _describe_run(path)
    if (path / "manifest.json").is_file():
        return _describe_bank(path)
    if path.is_dir() and holds_only(path, "config.toml"):
        return {"kind": "begun", "path": str(path), "status": "not begun", "resumable": True}
    return _describe_model(path, settings)


def _describe_run(path: Path) -> dict[str, Any]:
    run = RunDirectory.open(path)
    record = run.record
    keys = (
        "command",
        "status",
        "data_free",
        "started",
        "finished",
        "error",
        "fix",
        "device",
        "seed",
        "teacher",
        "student",
        "plan",
    )
    described = {"kind": "run", "path": str(path)} | {key: record.get(key) for key in keys}
    described |= {key: record.get(key) for key in ("teacher_passes", "seconds", "evaluation", "warnings")}
    described["resumable"] = record["status"] != "complete"
    described["abandoned"] = record["status"] == "running" and is_left_over(path / LOCK)
    learns = record.get("config", {}).get("student", {})
    described["architectures"] = [*filter(None, [learns.get("architecture")]), *learns.get("others", [])]
    described["students"] = [_describe_run(own.path) for own in run.students().values()]
    if (run.bank_path / "manifest.json").is_file():
        bank = _describe_bank(run.bank_path)
        described["bank"] = {"samples": bank["samples"], "complete": bank["complete"]}
    return described


def _describe_bank(path: Path) -> dict[str, Any]:
    """A bank by its manifest and journals alone: without tensors, however large it is."""
    with sound(path):
        manifest = read_manifest(path)
        shards = manifest["shards"]
        health = Health.combine(Health(**shard["health"]) for shard in shards) if shards else None
        passes = [shard["teacher_passes"] for shard in shards]
        return {
            "kind": "bank",
            "path": str(path),
            "complete": manifest["status"] == "complete",
            "samples": sum(shard["samples"] for shard in shards),
            "shards": len(shards),
            "teacher": {key: manifest["teacher"][key] for key in ("name", "sha256")},
            "input": InputSpec.from_json(manifest["input"]).to_json(),
            "classes": int(manifest["classes"]),
            "class_names": manifest["class_names"],
            "seed": manifest["seed"],
            "synthesis": manifest["synthesis"],
            "aimed": manifest["synthesis"].get("method") not in LABELLED_ONLY,
            "outside_contract": list(manifest.get("outside_contract") or ()),
            "plan": {key: int(manifest["plan"][key]) for key in ("sets", "rows", "groups", "at_once")}
            | {"spread": bool(manifest["plan"].get("spread", False)), "rounds": int(manifest["plan"].get("rounds", 1))},
            "arithmetic": dict(manifest["arithmetic"]),
            "time_budget": manifest["time_budget"],
            "teacher_passes": {key: sum(int(own.get(key, 0)) for own in passes) for key in ("forward", "backward")},
            "health": None if health is None else health.to_json() | {"balance": health.balance},
        }


def _describe_model(path: Path, settings: TeacherConfig) -> dict[str, Any]:
    from cake_cli.models.counting import multiply_adds  # torch, which a bank or a run can do without
    from cake_cli.models.loading import load_classifier, uncoded_student, unnamed_weights
    from cake_cli.models.response import Response, measure_response

    started = time.perf_counter()
    header = uncoded_student(path, settings)
    if header is not None:
        return _describe_uncoded(path, header)
    weights = unnamed_weights(path, settings)
    if weights is not None:
        return _describe_weights(weights)
    model = load_classifier(path, settings)
    operations = multiply_adds(model)
    response = Response() if model.seconds_a_row is not None else measure_response(model, operations)
    return {
        "kind": "student" if model.architecture else "teacher",
        "path": as_address(path) or str(path),
        "flags": teacher_flags(settings),
        "name": model.name,
        "sha256": model.sha256,
        "architecture": model.architecture,
        "same_as": model.same_as,
        "facts": model.facts,
        "parameters": model.parameters,
        "multiply_adds": operations,
        "input": model.spec.to_json(),
        "response": {
            "scale": response.scale,
            "changes": dict(sorted(response.changes.items())),
            "text": response.sentence() if model.seconds_a_row is None else "not asked: each row may cost",
        },
        "doubts": [doubt for doubt in (response.doubt(model.spec),) if doubt],
        "classes": model.classes,
        "class_names": model.class_names,
        "output_kind": model.output_kind,
        "no_gradient": model.no_gradient,
        "converter": model.converter,
        "batching": model.batching,
        "mends": list(model.mends),
        "checks": list(model.checks),
        "check_seconds": round(model.check_seconds, 3),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _describe_uncoded(path: Path, header: dict[str, str]) -> dict[str, Any]:
    """A student of one's own code, as far as its header and its weights go: the code was not named."""
    from cake_cli.models.formats import sniff, weights_file
    from cake_cli.models.loading import stated_input
    from cake_cli.models.weights import read_weights

    file = weights_file(path)
    tensors = read_weights(sniff(file))
    spec = stated_input(header)
    return {
        "kind": "student",
        "path": str(path),
        "name": file.name,
        "sha256": sha256(file),
        "architecture": header["cake.architecture"],
        "code_sha256": header.get("cake.code_sha256"),
        "needs": f"--arch PATH/{header['cake.architecture']}",
        "facts": {key: value for key, value in header.items() if key.startswith("cake.")},
        "parameters": tensors.parameters,
        "input": None if spec is None else spec.to_json(),
        "classes": header.get("cake.classes"),
    }


def _describe_weights(weights: Weights) -> dict[str, Any]:
    from cake_cli.models.weights import command, fitting, looks_like  # torchvision, which they need, takes seconds

    fits = fitting(weights)
    return {
        "kind": "weights",
        "path": str(weights.path),
        "name": weights.path.name,
        "sha256": sha256(weights.path),
        "tensors": len(weights.tensors),
        "parameters": weights.parameters,
        "types": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in weights.tensors.values()}),
        "first": [[name, list(tensor.shape)] for name, tensor in list(weights.tensors.items())[:3]],
        "fits": [asdict(fit) for fit in fits],
        "looks_like": None if fits else looks_like(weights.shapes()).sentence,
        "command": command(weights, fits),
        "metadata": weights.metadata,
        "mends": list(weights.mends),
    }


def teacher_flags(settings: TeacherConfig) -> str:
    """The flags that the model was opened with, as other commands take them; empty where there were none."""
    flags = []
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        if entry.name == "file" or value == entry.default:
            continue
        if entry.name in ("request_rows", "timeout", "retries"):
            flags.append(f"--set teacher.{entry.name}={value}")
            continue
        name = f"--{entry.name.replace('_', '-')}"
        written = ",".join(f"{item:g}" for item in value) if isinstance(value, tuple) else str(value)
        flags.append(name if value is True else f"--no-{entry.name}" if value is False else f"{name} {quote(written)}")
    return " ".join(flags)
