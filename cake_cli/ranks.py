"""Several processes on one job, as torchrun starts them: who this one is, and what they tell one another.

::

    torchrun --nproc-per-node 2 -m cake_cli synthesize TEACHER -o BANK

`Ranks.current` reads torchrun's environment and imports nothing heavy; within `joined` the processes share a board
of small values and a process group of torch.distributed (gloo on the CPU, and nccl on CUDA). A process that was
started alone is the first and only rank: everything here works there too, and costs nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Protocol

from cake_cli.errors import CakeError, EnvironmentFault

PATIENCE = timedelta(days=30)
"""How long a rank waits for another: a stage may take days, and torchrun ends the job when a process dies."""

POLL_SECONDS = 0.05
LEAVE_SECONDS = 30.0
"""How long the first rank stays for the others at the end."""


class Board(Protocol):
    """Small texts and counters that all ranks see."""

    def add(self, key: str, amount: int) -> int:
        """Adds to a counter that begins at 0, in one piece; returns its new value."""

    def put(self, key: str, text: str) -> None:
        """Writes a text for all."""

    def take(self, key: str) -> str:
        """A text that is there."""

    def has(self, key: str) -> bool:
        """Whether a text is there."""


class OwnBoard:
    """The board of a process that is alone."""

    def __init__(self) -> None:
        self._counters: dict[str, int] = {}
        self._texts: dict[str, str] = {}

    def add(self, key: str, amount: int) -> int:
        """See `Board.add`."""
        self._counters[key] = self._counters.get(key, 0) + amount
        return self._counters[key]

    def put(self, key: str, text: str) -> None:
        """See `Board.put`."""
        self._texts[key] = text

    def take(self, key: str) -> str:
        """See `Board.take`."""
        return self._texts[key]

    def has(self, key: str) -> bool:
        """See `Board.has`."""
        return key in self._texts


class SharedBoard:
    """A board in the store through which torch.distributed's processes find one another.

    Its methods raise `EnvironmentFault` if torchrun, which keeps the store, is gone.
    """

    def __init__(self, store: Any, name: str = "cake") -> None:
        self._store = store
        self._name = name

    def part(self, name: str) -> SharedBoard:
        """A board of its own within this one."""
        return SharedBoard(self._store, f"{self._name}/{name}")

    def add(self, key: str, amount: int) -> int:
        """See `Board.add`."""
        return int(self._ask("add", f"{self._name}/count/{key}", amount))

    def put(self, key: str, text: str) -> None:
        """See `Board.put`."""
        self._ask("set", f"{self._name}/text/{key}", text)

    def take(self, key: str) -> str:
        """See `Board.take`."""
        return str(self._ask("get", f"{self._name}/text/{key}").decode("utf-8"))

    def has(self, key: str) -> bool:
        """See `Board.has`."""
        return bool(self._ask("check", [f"{self._name}/text/{key}"]))

    def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._store, method)(*arguments)
        except RuntimeError as fault:
            raise EnvironmentFault(
                f"the ranks have lost one another: {str(fault).splitlines()[0]}",
                "cake resume, with the folder that was being written",
            ) from fault


class OtherRankFailed(CakeError):
    """Another process of the job has failed, and says so through the first."""

    def __init__(self, what: str, fix: str | None, exit_code: int) -> None:
        super().__init__(what, fix)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Ranks:
    """The processes of a job, seen from one of them."""

    rank: int = 0
    """Which this is, from 0."""
    world: int = 1
    """How many there are."""
    local_rank: int = 0
    """Which this is on its machine."""
    board: Board = field(default_factory=OwnBoard, compare=False, repr=False)
    """What they share; between several processes only within `joined`."""

    @classmethod
    def current(cls, environment: Mapping[str, str] | None = None) -> Ranks:
        """The process as torchrun's environment describes it; alone where there is none."""
        environment = os.environ if environment is None else environment
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        if not all(environment.get(name) for name in names):
            return cls()
        rank, world, local_rank = (int(environment[name]) for name in names[:3])
        return cls(rank, world, local_rank)

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that talks to the user and writes what is written once."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other."""
        return self.world == 1

    def device(self, wanted: str) -> str:
        """The name of this rank's device: ``auto`` and ``cuda`` mean a GPU of its own, where there are GPUs.

        Raises:
            EnvironmentFault: if the machine has fewer GPUs than ranks.
        """
        if self.is_alone or wanted not in ("auto", "cuda"):
            return wanted
        import torch

        if not torch.cuda.is_available():
            return wanted
        if self.local_rank >= torch.cuda.device_count():
            raise EnvironmentFault(
                f"rank {self.rank} has no GPU of its own: this machine has {torch.cuda.device_count()}",
                f"torchrun --nproc-per-node {torch.cuda.device_count()}, or --device cpu",
            )
        return f"cuda:{self.local_rank}"

    def new_board(self, name: str) -> Board:
        """An empty board for one piece of work; all ranks call this in the same order."""
        if not isinstance(self.board, SharedBoard):
            return OwnBoard()
        turn = self.board.add(f"boards/{name}/{self.rank}", 1)
        return self.board.part(f"{name}-{turn}")

    @contextmanager
    def joined(self, device: str = "auto") -> Iterator[Ranks]:
        """The ranks with a shared board, and torch.distributed ready for them; a process alone changes nothing.

        Args:
            device: of the run, as in its configuration; other than ``cpu`` it takes nccl beside gloo on CUDA.

        Raises:
            EnvironmentFault: if the processes cannot reach one another.
            CakeError: what the body raises, which the first rank learns of: see `check_others`.
        """
        if self.is_alone:
            yield self
            return
        import torch
        from torch import distributed
        from torch.distributed.rendezvous import rendezvous

        on_cuda = device != "cpu" and torch.cuda.is_available() and distributed.is_nccl_available()
        if on_cuda:
            torch.cuda.set_device(torch.device(self.device("cuda" if device == "auto" else device)))
        try:
            store, _, _ = next(iter(rendezvous("env://", timeout=PATIENCE)))
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if on_cuda else "gloo",
                store=store,
                rank=self.rank,
                world_size=self.world,
                timeout=PATIENCE,
            )
        except (RuntimeError, ValueError, OSError) as fault:
            raise EnvironmentFault(
                f"rank {self.rank} of {self.world} cannot reach the others: {str(fault).splitlines()[0]}",
                "torchrun --standalone --nproc-per-node N -m cake_cli ...",
            ) from fault
        here = replace(self, board=SharedBoard(store))
        try:
            yield here
        except Exception as fault:
            here._announce(fault)
            raise
        distributed.destroy_process_group()
        here._leave()

    def _leave(self) -> None:
        """The last rank to go is the first, which may keep the board."""
        if not self.is_first:
            self.board.add("left", 1)
            return
        until = time.monotonic() + LEAVE_SECONDS
        while self.board.add("left", 0) < self.world - 1 and time.monotonic() < until:
            time.sleep(POLL_SECONDS)

    def _announce(self, fault: Exception) -> None:
        """Tells the first rank why this one will not go on."""
        told = {"what": f"{type(fault).__name__}: {fault}", "fix": None, "exit_code": 1}
        if isinstance(fault, CakeError):
            told = {"what": fault.what, "fix": fault.fix, "exit_code": fault.exit_code}
        with contextlib.suppress(EnvironmentFault):
            self.board.put(f"fault/{self.rank}", json.dumps(told))
            self.board.add("faults", 1)

    def check_others(self) -> None:
        """On the first rank: looks whether another one has failed.

        Raises:
            OtherRankFailed: with its rank and what it said.
        """
        if self.is_alone or not self.is_first or not self.board.add("faults", 0):
            return
        rank = next(rank for rank in range(1, self.world) if self.board.has(f"fault/{rank}"))
        told = json.loads(self.board.take(f"fault/{rank}"))
        raise OtherRankFailed(f"rank {rank} of {self.world}: {told['what']}", told["fix"], told["exit_code"])

    def gather(self, value: Any) -> list[Any]:
        """One value of each rank, in order of rank, on every rank; all ranks call this in the same order.

        Args:
            value: small, and plain enough for JSON.
        """
        if self.is_alone:
            return [value]
        turn = self.board.add(f"turn/{self.rank}", 1)
        self.board.put(f"gather/{turn}/{self.rank}", json.dumps(value))
        return [json.loads(self._awaited(f"gather/{turn}/{rank}")) for rank in range(self.world)]

    def _awaited(self, key: str) -> str:
        """A text, as soon as a rank has put it there; asked for again and again, so that signals are heard."""
        while not self.board.has(key):
            self.check_others()
            time.sleep(POLL_SECONDS)
        return self.board.take(key)

    def share(self, value: Any) -> Any:
        """The first rank's value, on every rank; all ranks call this in the same order."""
        return self.gather(value if self.is_first else None)[0]

    def barrier(self) -> None:
        """Waits until every rank is here."""
        self.gather(None)


ALONE = Ranks()
"""A process without others."""
