from __future__ import annotations

import sys

import pytest
import torch

from cake_cli.hardware import Hardware, has_native_bf16, keep_freed_memory
from cake_cli.threads import with_threads


def test_rows_and_weights_lie_as_the_layout_says() -> None:
    rows = torch.randn(2, 3, 4, 4)
    last, plain = (Hardware(torch.device("cpu"), "fp32", layout) for layout in ("channels_last", "contiguous"))
    assert last.place_rows(rows).is_contiguous(memory_format=torch.channels_last)
    assert plain.place_rows(last.place_rows(rows)).is_contiguous()
    module = last.place(torch.nn.Conv2d(3, 8, 3))
    assert module.weight.is_contiguous(memory_format=torch.channels_last)
    assert plain.place(module).weight.is_contiguous()
    assert torch.equal(plain.place_rows(rows), rows)


def test_weights_of_five_axes_are_left_as_they_are() -> None:
    module = torch.nn.ModuleList([torch.nn.Conv3d(1, 2, 2), torch.nn.Conv2d(3, 8, 3)])
    module.register_buffer("table", torch.randn(2, 1, 2, 1, 2))
    placed = Hardware(torch.device("cpu"), "fp32", "channels_last").place(module)
    assert placed[0].weight.is_contiguous()
    assert placed[1].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (5, 1, 3, 3), (4, 6, 1, 1), (5, 1, 1, 1), (1, 1, 1, 1)])
def test_weights_that_lie_so_already_stay_where_they_are(shape: tuple[int, ...]) -> None:
    """A captured graph reads them where they were."""
    module = torch.nn.Module()
    module.register_buffer("table", torch.randn(shape))
    for layout in ("channels_last", "contiguous"):
        hardware = Hardware(torch.device("cpu"), "fp32", layout)
        where = hardware.place(module).table.data_ptr()
        assert hardware.place(module).table.data_ptr() == where


def test_vectors_have_no_layout() -> None:
    assert Hardware(torch.device("cpu"), "fp32").place_rows(torch.randn(2, 5)).is_contiguous()


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with with_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with with_threads(None):
        assert torch.get_num_threads() == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc has the switch")
def test_freed_memory_is_kept() -> None:
    import resource

    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    if not keep_freed_memory():
        pytest.skip("another C library")
    count = 16_000_000  # 64 MB, which glibc would map and unmap each time
    fresh = []
    for _ in range(12):  # the first few land beside what was there before
        before = faults()
        torch.ones(count).sum()
        fresh.append(faults() - before)
    assert min(fresh) < count * 4 / resource.getpagesize() / 10


def test_bf16_is_read_from_the_processor() -> None:
    assert isinstance(has_native_bf16(torch.device("cpu")), bool)
    assert not has_native_bf16(torch.device("meta"))
