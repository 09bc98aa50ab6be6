"""Wherever samples lie, the batches are the same to the bit, and memory is bounded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from cake_cli.distillation import order as ordering
from cake_cli.distillation.feeding import Labelled, load
from cake_cli.distillation.losses import distillation_loss
from cake_cli.distillation.optimizers import UpdateRule
from cake_cli.distillation.order import in_turn, shuffled, with_partners
from cake_cli.distillation.placement import feed_from
from cake_cli.distillation.pool import Part, Pool
from cake_cli.distillation.shelf import Shelf
from cake_cli.distillation.trainer import train
from cake_cli.events import SILENT
from cake_cli.hardware import Hardware

SHAPES = [(6,), (1, 4, 4), (3, 4, 4)]


def pool_of(folder: Path, shape: tuple[int, ...], *, labels: bool = False) -> Pool:
    """230 of 240 samples in shards of 40, the last 40 with true labels."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for number in range(6):
        inputs = torch.randn(40, *shape, generator=generator)
        true = torch.arange(40) % 3 if labels and number == 5 else None
        shelf = Shelf(folder / str(number))
        shelf.fill([Part(inputs, torch.randn(40, 3, generator=generator), true)])
        parts += shelf.parts(shape, 3)
    rows = torch.cat([torch.arange(0, 100), torch.arange(110, 240)])
    return Pool(tuple(parts), rows, group=5, paired=190)


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of about fifty samples of the smallest shape, and of a row or two of the largest."""
    monkeypatch.setattr(ordering, "WINDOW_BYTES", 2_000)
    monkeypatch.setattr(ordering, "BLOCK_BYTES", 200)


def test_a_pool_is_its_parts(tmp_path: Path):
    pool = pool_of(tmp_path, (3, 4, 4), labels=True)
    whole = torch.cat([part.inputs for part in pool.parts])[pool.rows]
    read = load(pool, torch.arange(len(pool)), torch.device("cpu"))
    assert torch.equal(read.inputs, whole)
    assert read.inputs.is_contiguous(memory_format=torch.channels_last)
    assert read.labels is not None
    assert read.labels.tolist() == [-1] * 190 + [row % 3 for row in range(40)]
    some = torch.tensor([3, 98, 101, 229])
    assert torch.equal(load(pool, some, torch.device("cpu")).inputs, whole[some])
    chosen = torch.zeros(230, dtype=torch.bool)
    chosen[5:20] = chosen[200:] = True
    part = pool.select(chosen)
    assert (len(part), part.paired) == (45, 15)
    assert torch.equal(load(part, torch.arange(45), torch.device("cpu")).inputs, whole[chosen])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("place", ["host", "disk"])
@pytest.mark.usefixtures("small_windows")
def test_batches_do_not_depend_on_where_samples_lie(tmp_path: Path, cpu: Hardware, shape: tuple[int, ...], place: str):
    pool = pool_of(tmp_path, shape, labels=True)
    generator = torch.Generator().manual_seed(1)
    order = with_partners(shuffled(len(pool), 32, pool.grain, generator), pool.group, pool.paired, generator)
    assert len(order.bounds) > 3, "a batch comes from several windows"
    found = [list(feed_from(pool, where, cpu).batches(order)) for where in ("device", place)]  # type: ignore[arg-type]
    assert len(found[0]) == len(found[1]) == 7
    for one, other in zip(*found, strict=True):
        for name in ("inputs", "logits", "labels", "partners"):
            tensors = getattr(one, name), getattr(other, name)
            assert torch.equal(*tensors)
            assert tensors[0].stride() == tensors[1].stride(), "kernels are chosen by it"


@pytest.mark.usefixtures("small_windows")
def test_all_of_it_in_turn(tmp_path: Path, cpu: Hardware):
    pool = pool_of(tmp_path, (1, 4, 4))
    whole = load(pool, torch.arange(len(pool)), torch.device("cpu"))
    for place in ("device", "host", "disk"):
        feed = feed_from(pool, place, cpu)  # type: ignore[arg-type]
        batches = list(feed.batches(in_turn(len(pool), 100, pool.grain)))
        assert [len(batch) for batch in batches] == [100, 100, 30]
        assert torch.equal(torch.cat([batch.inputs for batch in batches]), whole.inputs)
        assert all(batch.labels is None for batch in batches)


@pytest.mark.usefixtures("small_windows")
def test_a_student_of_the_disk_is_that_of_memory(tmp_path: Path, cpu: Hardware):
    pool = pool_of(tmp_path, (3, 4, 4))
    trained = []
    for place in ("device", "disk"):
        torch.manual_seed(0)
        student = cpu.place(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 3)))
        train(
            student, feed_from(pool, place, cpu), heldout=feed_from(pool, place, cpu),  # type: ignore[arg-type]
            loss=distillation_loss("soft", 1.0), epochs=2, batch_size=32, rule=UpdateRule("sgd", 0.1, 5e-4),
            seed=0, hardware=cpu, stage=SILENT.stage("", 1, ""),
        )  # fmt: skip
        trained.append(student.state_dict())
    assert all(torch.equal(value, trained[1][name]) for name, value in trained[0].items())


def test_images_that_are_not_channels_last_are_taken_too(tmp_path: Path):
    rows = torch.randn(20, 3, 4, 4)
    whole = Labelled(rows, torch.zeros(20, 2))
    batch = next(iter(whole.batches(in_turn(20, 8, whole.grain))))
    assert torch.equal(batch.inputs, rows[:8])


def test_a_fault_in_a_reading_thread_is_raised(tmp_path: Path, cpu: Hardware, monkeypatch: pytest.MonkeyPatch):
    pool = pool_of(tmp_path, (6,))

    def unreadable(pool: Pool, positions: torch.Tensor):
        raise OSError("the disk is gone")

    monkeypatch.setattr(Pool, "read", unreadable)
    with pytest.raises(OSError, match="the disk is gone"):
        list(feed_from(pool, "disk", cpu).batches(in_turn(10, 5, pool.grain)))


def test_a_pool_has_no_samples_that_its_parts_have_not(tmp_path: Path):
    pool = pool_of(tmp_path, (6,))
    with pytest.raises(ValueError, match="no sample 240"):
        Pool(pool.parts, torch.arange(241))


MEASURE = """
import sys
from pathlib import Path
import torch
from cake_cli.distillation import order as ordering, pool as pooling
from cake_cli.distillation.order import shuffled
from cake_cli.distillation.placement import feed_from
from cake_cli.distillation.pool import Part, Pool
from cake_cli.distillation.shelf import Shelf
from cake_cli.hardware import Hardware

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

ordering.WINDOW_BYTES, ordering.BLOCK_BYTES, pooling.READ_BYTES = 6 * 2**20, 2**18, 2**20
rows = 8000
shelf = Shelf(Path(sys.argv[1]))
shelf.fill(Part(torch.randn(1000, 3, 32, 32), torch.randn(1000, 10)) for _ in range(rows // 1000))
pool = Pool(tuple(shelf.parts((3, 32, 32), 10)), torch.arange(rows))
for place in ("disk", "device"):
    before = most = held()
    feed = feed_from(pool, place, Hardware(torch.device("cpu"), "fp32"))
    order = shuffled(rows, 128, pool.grain, torch.Generator().manual_seed(0))
    for batch in feed.batches(order):
        most = max(most, held())
    print(round(most - before))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_bank_that_is_streamed_takes_two_windows_of_memory(tmp_path: Path):
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "shelf")]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    streamed, resident = (int(line) for line in found.stdout.split())
    assert resident > 85, "94 MiB of samples"
    assert streamed < 55, "two windows of 6 MiB, pieces on their way, and what the allocator keeps"
