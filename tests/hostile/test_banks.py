"""Banks, runs and students that mean harm: nothing outside of them is read or written, and no count is believed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.hostile.conftest import Meet, edit_json
from tests.hostile.forking import Ended
from tests.hostile.seeds import TINY_TRAINING
from tests.models.planted import Planted

RED = "\x1b[31mred\x1b[2J"
HUGE = 2**62


def header(file: Path, change: Callable[[dict], object]) -> None:
    """Changes the header of a safetensors file, with a length that fits it."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    told = json.loads(content[8 : 8 + length])
    change(told)
    written = json.dumps(told).encode()
    file.write_bytes(len(written).to_bytes(8, "little") + written + content[8 + length :])


def metadata(**changes: str) -> Callable[[Path], None]:
    return lambda file: header(file, lambda told: told["__metadata__"].update(changes))


def longer_header(file: Path) -> None:
    file.write_bytes((2**63 - 1).to_bytes(8, "little") + file.read_bytes()[8:])


def offsets(first: int, last: int) -> Callable[[Path], None]:
    def change(told: dict) -> None:
        next(entry for name, entry in told.items() if name != "__metadata__")["data_offsets"] = [first, last]

    return lambda file: header(file, change)


def giant_shape(file: Path) -> None:
    def change(told: dict) -> None:
        next(entry for name, entry in told.items() if name != "__metadata__")["shape"] = [2**40, 2**40]

    header(file, change)


def spec(**changes: object) -> Callable[[Path], None]:
    whole = {"shape": [1, 4, 4], "mean": [0.0], "std": [1.0], "range": [0, 1], "expects": "normalised", "source": "x"}
    return metadata(**{"cake.input": json.dumps(whole | changes)})


STUDENTS: dict[str, Callable[[Path], None]] = {
    "a header longer than the file": longer_header,
    "overlapping tensors": offsets(0, 64),
    "a tensor beyond the file": offsets(0, 2**40),
    "a tensor that ends before it begins": offsets(64, 0),
    "a giant tensor": giant_shape,
    "a giant network": metadata(**{"cake.architecture": "mlp", "cake.options": "65536,65536,65536"}),
    "a network of another kind": metadata(**{"cake.architecture": "resnet152"}),
    "code for an architecture": metadata(**{"cake.architecture": "planted.py:make"}),
    "code in two parts": metadata(**{"cake.architecture": "planted.py", "cake.options": "make"}),
    "absurd classes": metadata(**{"cake.classes": str(HUGE), "cake.class_names": "null"}),
    "long numbers": metadata(**{"cake.classes": "9" * 5000}),
    "a giant input": spec(shape=[1, 2**20, 2**20]),
    "an endless input": spec(shape=[1, 4, 4], std=[1e999]),
    "deep nesting": metadata(**{"cake.input": "[" * 50_000}),
}


@pytest.mark.parametrize("kind", STUDENTS)
def test_a_student_that_means_harm(refused: Meet, tmp_path: Path, seeds: Path, kind: str):
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\ndef make(): pass\n")
    student = Path(shutil.copy(seeds / "student.safetensors", tmp_path))
    if "code" in kind:
        student = tmp_path / "child" / "cwd" / "student.safetensors"
        student.parent.mkdir()
        shutil.copy(seeds / "student.safetensors", student)
        shutil.move(tmp_path / "planted.py", student.parent)
    STUDENTS[kind](student)
    refused(3, "evaluate", student, "--data", seeds / "heldout.npz")
    assert not (tmp_path / "executed").exists()


def test_texts_of_a_student_have_no_escapes(run: Callable[..., Ended], tmp_path: Path, seeds: Path):
    student = Path(shutil.copy(seeds / "student.safetensors", tmp_path))
    metadata(**{"cake.teacher": RED, "cake.origin": RED, "cake.class_names": json.dumps([RED, "\ud800", "c"])})(student)
    assert run("inspect", student).code == 0
    assert run("evaluate", student, "--data", seeds / "heldout.npz", "--json").code == 0
    assert run("export", student, "--to", "onnx", "-o", tmp_path / "out.onnx").code == 0
    assert run("inspect", tmp_path / "out.onnx").code == 0


# --- banks --------------------------------------------------------------------------------------------------------


def shard(**changes: object) -> Callable[[Path, Path], None]:
    """The first shard of the manifest, changed."""

    def change(bank: Path, _: Path) -> None:
        shards = json.loads((bank / "manifest.json").read_text())["shards"]
        edit_json(bank / "manifest.json", shards=[shards[0] | changes, *shards[1:]])

    return change


def manifest(**changes: object) -> Callable[[Path, Path], None]:
    """Fields of the manifest; those of an object are changed in it."""

    def change(bank: Path, _: Path) -> None:
        told = json.loads((bank / "manifest.json").read_text())
        merged = {key: told[key] | value if isinstance(value, dict) else value for key, value in changes.items()}
        edit_json(bank / "manifest.json", **merged)

    return change


def linked_shard(bank: Path, outside: Path) -> None:
    outside.write_bytes((bank / "shard-00000.safetensors").read_bytes())
    (bank / "shard-00000.safetensors").unlink()
    (bank / "shard-00000.safetensors").symlink_to(outside)


def other_bytes(bank: Path, _: Path) -> None:
    file = bank / "shard-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"abcd")


def climbing_journal(bank: Path, _: Path) -> None:
    entry = json.loads((bank / "manifest.json").read_text())["shards"][0] | {"file": "../outside/secret.txt"}
    (bank / "journal-00000.jsonl").write_text(json.dumps({"shard": entry, "spent": 0}) + "\n")


def odd_journal(bank: Path, _: Path) -> None:
    (bank / "journal-00000.jsonl").write_text('{"shard": [], "spent": 1e999}\n')


def deep_manifest(bank: Path, _: Path) -> None:
    (bank / "manifest.json").write_text('{"a":' * 50_000)


BANKS: dict[str, Callable[[Path, Path], None]] = {
    "a shard elsewhere": shard(file="../outside/secret.txt"),
    "a shard that is a link": linked_shard,
    "another hash": other_bytes,
    "a lie of its size": shard(bytes=1),
    "absurd samples": shard(samples=HUGE),
    "absurd sets": shard(sets=[0, HUGE]),
    "no step sizes": shard(step_sizes=[]),
    "negative counts": shard(teacher_passes={"forward": -1, "backward": -1}),
    "a class too many": shard(health={"samples": 30, "on_target": 1, "confidence": 1, "entropy": 0, "histogram": [30]}),
    "an absurd plan": manifest(plan={"sets": HUGE}),
    "a plan of nothing": manifest(plan={"at_once": 0}),
    "absurd classes": manifest(classes=10**9),
    "one class": manifest(classes=1),
    "another number of names": manifest(class_names=["a"]),
    "absurd threads": manifest(arithmetic={"threads": 10**9}),
    "rows below nothing": manifest(arithmetic={"rows_per_pass": -1}),
    "a giant input": manifest(input={"shape": [3, 10**6, 10**6]}),
    "an input of text": manifest(input={"shape": "wide"}),
    "not a number": manifest(time_budget={"seconds": float("nan"), "spent": 0, "reached": True}),
    "a journal that climbs out": climbing_journal,
    "an odd journal": odd_journal,
    "deep nesting": deep_manifest,
}


@pytest.mark.parametrize("kind", BANKS)
def test_a_bank_that_means_harm(refused: Meet, tmp_path: Path, seeds: Path, secret: Path, kind: str):
    bank = shutil.copytree(seeds / "bank", tmp_path / "bank")
    if kind == "not a number":
        edit_json(bank / "manifest.json", time_budget={"seconds": 1})
    BANKS[kind](bank, secret)
    before = secret.read_bytes()
    refused(4, "train", bank, "--student", "mlp:8", *TINY_TRAINING, "-o", tmp_path / "out")
    assert secret.read_bytes() == before


def test_texts_of_a_bank_have_no_escapes(run: Callable[..., Ended], tmp_path: Path, seeds: Path):
    bank = shutil.copytree(seeds / "bank", tmp_path / "bank")
    manifest(teacher={"name": RED}, class_names=[RED, "\ud800", "c"], synthesis={"method": RED})(bank, bank)
    assert run("inspect", bank).code == 0
    assert run("train", bank, "--student", "mlp:8", "--epochs", "1", "-o", tmp_path / "out").code == 0
    assert "\x1b" not in (tmp_path / "out" / "log.txt").read_text()


@pytest.mark.parametrize("teacher", ["/dev/zero", "pipe"])
def test_a_bank_resumes_with_no_teacher_that_is_none(
    refused: Meet, tmp_path: Path, seeds: Path, secret: Path, teacher: str
):
    bank = shutil.copytree(seeds / "partial", tmp_path / "bank")
    os.mkfifo(bank / "pipe")
    path = teacher if teacher.startswith("/") else str((bank / teacher).resolve())
    config = (bank / "config.toml").read_text().replace(str(seeds / "teacher.onnx"), path)
    (bank / "config.toml").write_text(config)
    refused(3, "resume", bank)
    assert (bank / "shard-00000.safetensors").exists()


def test_a_bank_does_not_grow_past_what_was_asked_for(refused: Meet, tmp_path: Path, seeds: Path):
    bank = shutil.copytree(seeds / "partial", tmp_path / "bank")
    manifest(plan={"sets": 2**24})(bank, bank)
    assert "other settings" in refused(4, "resume", bank)


# --- runs ---------------------------------------------------------------------------------------------------------


def test_students_of_a_run_lie_in_it(refused: Meet, tmp_path: Path, seeds: Path, secret: Path):
    run = shutil.copytree(seeds / "run", tmp_path / "run")
    other = shutil.copytree(seeds / "run", tmp_path / "outside" / "other")
    (other / ".partial-1").touch()
    (run / "students").mkdir()
    (run / "students" / "link").symlink_to(other)
    for folder in ("../outside/other", str(other), "students/..", "students/link", "students/../../outside/other"):
        edit_json(run / "run.json", students={"mlp:8": folder})
        for command in ("inspect", "report", "resume"):
            refused(4, command, run)
    assert (other / ".partial-1").exists(), "nothing was tidied up elsewhere"


def test_a_checkpoint_of_a_run_is_data(refused: Meet, tmp_path: Path, seeds: Path):
    run = shutil.copytree(seeds / "stopped", tmp_path / "run")
    torch.save({"network": Planted(tmp_path / "executed"), "epoch": 1}, run / "checkpoints" / "training.pt")
    assert "checkpoint" in refused(4, "resume", run)
    assert not (tmp_path / "executed").exists()


SHELVES = ("beside/1/0", "waypoints/0", "noise/0")


@pytest.mark.parametrize("shelf", SHELVES)
def test_a_shelf_of_a_run_lies_in_it(refused: Meet, tmp_path: Path, seeds: Path, secret: Path, shelf: str):
    run = shutil.copytree(seeds / "stopped", tmp_path / "run")
    folder = run / "checkpoints" / shelf
    folder.mkdir(parents=True, exist_ok=True)
    save_file(load_file(run / "bank" / "shard-00000.safetensors"), secret)
    climbing = "/".join([".."] * (3 + shelf.count("/"))) + "/outside/secret.txt"
    assert (folder / climbing).resolve() == secret
    (folder / "shelf.json").write_text(json.dumps({"shards": [{"file": climbing, "samples": 30}]}))
    assert "shard name" in refused(4, "resume", run)


def narrow(tensors: dict[str, torch.Tensor]) -> None:
    tensors["inputs"] = tensors["inputs"][..., :2].contiguous()


def of_another_number_of_classes(tensors: dict[str, torch.Tensor]) -> None:
    tensors["logits"] = torch.zeros(len(tensors["inputs"]), 50)


def of_whole_numbers(tensors: dict[str, torch.Tensor]) -> None:
    tensors["inputs"] = tensors["inputs"].to(torch.int64)


def without_inputs(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["inputs"]


def with_fewer_labels(tensors: dict[str, torch.Tensor]) -> None:
    tensors["logits"] = tensors["logits"][:-1].contiguous()


def with_odd_classes(tensors: dict[str, torch.Tensor]) -> None:
    tensors["labels"] = torch.full((len(tensors["inputs"]),), HUGE)


@pytest.mark.parametrize(
    "change",
    [narrow, of_another_number_of_classes, of_whole_numbers, without_inputs, with_fewer_labels,
     with_odd_classes],
)  # fmt: skip
@pytest.mark.parametrize("shelf", SHELVES[:2])
def test_a_shelf_of_other_rows(
    refused: Meet, tmp_path: Path, seeds: Path, shelf: str, change: Callable[[dict[str, torch.Tensor]], None]
):
    run = shutil.copytree(seeds / "stopped", tmp_path / "run")
    file = run / "checkpoints" / shelf / "shard-00000.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    assert "is damaged" in refused(4, "resume", run)
    assert not (run / "student.safetensors").exists()


@pytest.mark.parametrize("shelf", SHELVES[:2])
def test_a_shelf_of_fewer_rows(refused: Meet, tmp_path: Path, seeds: Path, shelf: str):
    run = shutil.copytree(seeds / "stopped", tmp_path / "run")
    (run / "checkpoints" / shelf / "shelf.json").write_text(json.dumps({"shards": []}))
    assert "is damaged" in refused(4, "resume", run)


@pytest.mark.parametrize("shelf", SHELVES[:2])
def test_a_shelf_that_holds_no_numbers(refused: Meet, tmp_path: Path, seeds: Path, shelf: str):
    run = shutil.copytree(seeds / "stopped", tmp_path / "run")
    file = run / "checkpoints" / shelf / "shard-00000.safetensors"
    tensors = load_file(file)
    tensors["inputs"][0] = float("nan")
    save_file(tensors, file)
    assert "not finite" in refused(4, "resume", run)


ODD_RECORDS = {
    "seconds": 3.5,
    "warnings": "none",
    "status": None,
    "teacher": "a teacher",
    "evaluation": {"accuracy": {"student": "high"}, "agreement": None},
    "students": ["mlp"],
    "exports": [{"format": 3}],
    "teacher_passes": {"forward": "many"},
}


@pytest.mark.parametrize("field", ODD_RECORDS)
def test_an_odd_record_is_damaged(refused: Meet, tmp_path: Path, seeds: Path, field: str):
    run = shutil.copytree(seeds / "run", tmp_path / "run")
    edit_json(run / "run.json", **{field: ODD_RECORDS[field]})
    assert "run.json is damaged" in refused(4, "inspect", run)


def test_a_run_may_hold_texts_with_escapes(run: Callable[..., Ended], tmp_path: Path, seeds: Path):
    kept = shutil.copytree(seeds / "run", tmp_path / "run")
    edit_json(kept / "run.json", warnings=[RED], error=RED, status=RED, device=RED, command=RED)
    assert run("inspect", kept).code == 0
    assert run("report", kept).code == 0
