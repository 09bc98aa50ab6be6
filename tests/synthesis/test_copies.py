"""Copies for other tools: what they hold, that others read them, that they are whole and always the same."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from cake_cli.errors import EnvironmentFault, UsageError
from cake_cli.events import SILENT
from cake_cli.hardware import Hardware
from cake_cli.models.classifier import Classifier
from cake_cli.spec import InputSpec
from cake_cli.synthesis import copies
from cake_cli.synthesis.bank import SampleBank
from cake_cli.synthesis.copies import folder_names, require_writable, to_bytes, write_copies
from tests.cli.conftest import snapshot
from tests.synthesis.test_engine import make_engine, waves

SPEC = InputSpec((1, 4, 4), (0.5,), (0.25,), (0.0, 1.0))


def make_bank(path: Path, teacher: Classifier, cpu: Hardware, *, at_once: int = 3) -> SampleBank:
    engine = make_engine(teacher, cpu, steps=0)
    engine = replace(engine, plan=replace(engine.plan, at_once=at_once))
    bank = SampleBank.create(path, teacher, engine.plan, seed=0, settings={"method": "noise"})
    for wave in waves(engine):
        bank.add(wave)
    return bank


@pytest.fixture
def bank(tmp_path: Path, toy_teacher: Classifier, cpu: Hardware) -> SampleBank:
    named = replace(toy_teacher, spec=SPEC, class_names=("cat", "dog", "T-shirt", "sea lion"))
    return make_bank(tmp_path / "bank", named, cpu)


def test_an_archive_of_plain_arrays(bank: SampleBank) -> None:
    write_copies(bank, ["safetensors", "npz"], SILENT)
    samples = bank.samples()
    with np.load(bank.path / "samples.npz", allow_pickle=False) as archive:
        assert set(archive) == {"x", "y", "logits", "soft_labels"}
        assert {name: (archive[name].dtype.name, archive[name].shape) for name in archive} == {
            "x": ("float32", (48, 1, 4, 4)),
            "y": ("int64", (48,)),
            "logits": ("float32", (48, 4)),
            "soft_labels": ("float32", (48, 4)),
        }
        assert np.array_equal(archive["x"], samples.inputs.numpy() * np.float32(0.25) + np.float32(0.5))
        assert np.array_equal(archive["y"], samples.logits.argmax(1).numpy())
        assert np.array_equal(archive["logits"], samples.logits.numpy())
        assert archive["soft_labels"].sum(axis=1) == pytest.approx(1)


def test_pictures_as_imagefolder_reads_them(bank: SampleBank) -> None:
    write_copies(bank, ["png"], SILENT)
    found = ImageFolder(str(bank.path / "images"))
    names = ["cat", "dog", "T-shirt", "sea lion"]
    predicted = bank.samples().logits.argmax(1)
    assert sorted(found.classes) == sorted(names[index] for index in predicted.unique().tolist())
    assert len(found) == 48
    raw = (bank.samples().inputs * 0.25 + 0.5).clamp(0, 1)
    for path, label in found.samples[::7]:
        number = int(Path(path).stem)
        assert found.classes[label] == names[int(predicted[number])]
        picture = Image.open(path)
        assert (picture.mode, picture.size) == ("L", (4, 4))
        assert np.abs(np.asarray(picture) / 255 - raw[number, 0].numpy()).max() <= 0.5 / 255 + 1e-6
    assert (bank.path / "images" / "classes.txt").read_text() == "cat\ndog\nT-shirt\nsea lion\n"


def test_they_are_always_the_same_bytes(tmp_path: Path, toy_teacher: Classifier, cpu: Hardware) -> None:
    made = []
    for name in ("a", "b"):
        bank = make_bank(tmp_path / name, replace(toy_teacher, spec=SPEC), cpu)
        write_copies(bank, ["npz", "png"], SILENT)
        made.append(snapshot(bank.path))
    assert made[0] == made[1]


def test_what_is_there_is_not_written_again(bank: SampleBank) -> None:
    write_copies(bank, ["npz"], SILENT)
    before = (bank.path / "samples.npz").stat().st_mtime_ns
    write_copies(bank, ["npz"], SILENT)
    assert (bank.path / "samples.npz").stat().st_mtime_ns == before


@pytest.mark.parametrize("form", ["npz", "png"])
def test_a_failure_leaves_nothing_behind(
    bank: SampleBank, monkeypatch: pytest.MonkeyPatch, form: copies.BankFormat
) -> None:
    before = snapshot(bank.path)
    shards = SampleBank.shards

    def full(of: SampleBank, *, check: bool = True):
        parts = shards(of, check=check)
        yield next(parts)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(SampleBank, "shards", full)
        with pytest.raises(EnvironmentFault, match="no space left"):
            write_copies(bank, [form], SILENT)
    assert snapshot(bank.path) == before
    write_copies(bank, [form], SILENT)
    assert len(list(bank.path.iterdir())) == 4


def test_no_more_than_two_shards_are_in_memory(
    tmp_path: Path, toy_teacher: Classifier, cpu: Hardware, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large a bank is: the one that was written, and the next."""
    bank = make_bank(tmp_path / "bank", toy_teacher, cpu, at_once=1)
    held: list[weakref.ref[torch.Tensor]] = []
    most = []
    shards = SampleBank.shards

    def counted(of: SampleBank, *, check: bool = True):
        for samples in shards(of, check=check):
            held.append(weakref.ref(samples.inputs))
            most.append(sum(reference() is not None for reference in held))
            yield samples
            del samples

    monkeypatch.setattr(SampleBank, "shards", counted)
    write_copies(bank, ["npz", "png"], SILENT)
    assert len(held) == 5 * 6
    assert max(most) <= 2


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (InputSpec((4,), range=None), "vectors of 4 values"),
        (InputSpec((2, 4, 4)), "inputs of 2x4x4"),
        (InputSpec((3, 4, 4), range=None), "black and white"),
    ],
)
def test_what_is_no_picture_is_refused(spec: InputSpec, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        require_writable(spec, ["png"])
    require_writable(spec, ["npz", "safetensors"])


def test_bytes_span_the_raw_range() -> None:
    spec = InputSpec((3, 1, 2), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (0.0, 1.0))
    inputs = torch.tensor([[[[-1.0, 1.0]], [[-9.0, 9.0]], [[0.0, 0.5]]]])
    assert to_bytes(inputs, spec).tolist() == [[[[0, 0, 128], [255, 255, 191]]]]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, ["00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "10"]),
        (["cat", "dog"], ["cat", "dog"]),
        (["T-shirt/top", "bag"], ["0-T-shirt_top", "1-bag"]),
        (["../../etc", "/root"], ["0-_.._etc", "1-_root"]),
        (["a", "A"], ["0-a", "1-A"]),
        (["", "."], ["0", "1"]),
        (["été", "x\ny\x00"], ["0-été", "1-x_y_"]),
        (["n" * 300, "b"], [f"0-{'n' * 60}", "1-b"]),
    ],
)
def test_folders_are_named_safely(names: list[str] | None, expected: list[str]) -> None:
    made = folder_names(names, len(expected))
    assert made == expected
    assert len({name.casefold() for name in made}) == len(made)
    assert not any("/" in name or name.startswith(".") for name in made)
