"""Who a process is among those that torchrun started; tests/cli/test_torchrun.py tests what they do together."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from cake_cli.errors import EnvironmentFault
from cake_cli.ranks import ALONE, Ranks

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


def test_torchruns_environment_is_read() -> None:
    found = Ranks.current(TORCHRUN)
    assert (found.rank, found.world, found.local_rank) == (1, 3, 1)
    assert not found.is_first
    assert not found.is_alone


@pytest.mark.parametrize("missing", TORCHRUN)
def test_half_an_environment_is_none(missing: str) -> None:
    assert Ranks.current({key: value for key, value in TORCHRUN.items() if key != missing}) == ALONE


def test_a_process_alone_is_the_first_rank_and_waits_for_nobody() -> None:
    with ALONE.joined() as ranks:
        assert ranks.is_first
        assert ranks.is_alone
        assert (ranks.gather({"a": 1}), ranks.share("b")) == ([{"a": 1}], "b")
        ranks.barrier()


def test_its_board_counts_and_keeps() -> None:
    board = Ranks().board
    assert [board.add("waves", amount) for amount in (1, 2, 0)] == [1, 3, 3]
    assert not board.has("fault")
    board.put("fault", "text")
    assert board.has("fault")
    assert board.take("fault") == "text"


def test_each_rank_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    second = Ranks(rank=1, world=2, local_rank=1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert second.device("auto") == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    named = ("auto", "cuda", "cpu", "cuda:0")
    assert [second.device(name) for name in named] == ["cuda:1", "cuda:1", "cpu", "cuda:0"]
    assert ALONE.device("auto") == "auto"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(EnvironmentFault, match="rank 1 has no GPU of its own") as caught:
        second.device("auto")
    assert "--nproc-per-node 1" in str(caught.value.fix)


def test_to_know_ones_rank_takes_no_torch() -> None:
    code = "import sys; from cake_cli.ranks import Ranks; Ranks.current(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
