"""Where tensors live and in which arithmetic passes run."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from cake_cli.config import Precision
from cake_cli.errors import EnvironmentFault
from cake_cli.text import counted

Layout = Literal["channels_last", "contiguous"]
"""How images lie in memory."""

CPU_ROWS = 500
"""How many samples a CPU makes at once: more would leave its caches."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


@dataclass(frozen=True)
class Hardware:
    """A device and the arithmetic of the passes on it; samples, losses and updates stay float32."""

    device: torch.device
    precision: Precision
    layout: Layout = "channels_last"
    """Of images and of the weights that meet them; channels last is mostly faster, on CPU and CUDA."""

    @property
    def rows_side_by_side(self) -> int:
        """How many samples are made, or starting points labelled, at once unless anything else says so."""
        return CPU_ROWS if self.device.type == "cpu" else 4000

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which teacher and student passes run."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[self.precision])

    def place(self, module: nn.Module) -> nn.Module:
        """Moves a module to the device, and its weights into the layout."""
        return in_layout(module.to(self.device), self.layout)

    def place_rows(self, rows: Tensor) -> Tensor:
        """Moves rows (N, *shape) to the device, images into the layout; from pinned memory without waiting."""
        rows = rows.to(self.device, non_blocking=True)
        return rows.contiguous(memory_format=_FORMATS[self.layout]) if rows.dim() == 4 else rows

    def synchronize(self) -> None:
        """Waits for the device, before a clock is read."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def describe(self) -> str:
        """``cpu (2 threads)`` or ``cuda:0 (NVIDIA H200)``."""
        if self.device.type == "cuda":
            return f"{self.device} ({torch.cuda.get_device_name(self.device)})"
        threads = counted(torch.get_num_threads(), "threads")
        return f"{self.device} ({threads})" if self.device.type == "cpu" else str(self.device)


def in_layout(module: nn.Module, layout: Layout) -> nn.Module:
    """The module itself, with its weights in a layout: those of four axes, which alone meet images.

    What lies in it already stays where it is, as a captured graph needs it. Tensors (O, 1, 1, 1) lie alike in both, and
    torch, which cannot tell in which, would copy them each time.
    """

    def laid_out(tensor: Tensor) -> Tensor:
        alike = tensor.dim() != 4 or tensor.shape[1:].numel() <= 1
        return tensor if alike else tensor.to(memory_format=_FORMATS[layout])

    return module._apply(laid_out)  # type: ignore[no-untyped-call, no-any-return]


def pick(device: str = "auto", precision: Precision = "auto", *, deterministic: bool = False) -> Hardware:
    """The hardware of a run.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``auto`` is bf16 on CUDA devices that have it, else fp32.
        deterministic: take deterministic kernels wherever torch has them; it warns of what has none.

    Raises:
        EnvironmentFault: if the device is not there or cannot do the precision.
    """
    chosen = _device(device)
    if precision == "auto":
        precision = "bf16" if chosen.type == "cuda" and has_native_bf16(chosen) else "fp32"
    if precision == "fp16" and chosen.type == "cpu":
        raise EnvironmentFault("fp16 is not for the CPU", "--precision fp32 or bf16")
    if chosen.type == "cpu":
        keep_freed_memory()
    if chosen.type == "cuda":  # by default torch's convolutions round float32 to the ten bits of TF32
        torch.backends.cudnn.allow_tf32 = precision != "fp32"
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    return Hardware(chosen, precision)


def _device(name: str) -> torch.device:
    present = ["cpu"]
    if torch.cuda.is_available():
        present += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        present.append("mps")
    if name == "auto":
        return torch.device(present[1] if len(present) > 1 else "cpu")
    full = "cuda:0" if name == "cuda" else name
    if full not in present:
        raise EnvironmentFault(f"there is no device {name!r}; this machine has {', '.join(present)}", "--device auto")
    return torch.device(full)


def keep_freed_memory() -> bool:
    """Lets the C library keep the memory that tensors on the CPU free, instead of returning each to the system.

    Every step frees tensors of many megabytes and asks for the same again; glibc maps and unmaps each of those above
    32 MiB, and the kernel clears it page by page. That took a fifth to a third of a step of small networks.

    Returns:
        Whether the C library has such a switch.
    """
    if not sys.platform.startswith("linux"):
        return False
    mmap_max, trim_threshold = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(mmap_max, 0)) and bool(mallopt(trim_threshold, 2**31 - 1))
    except (OSError, AttributeError):
        return False


def has_native_bf16(device: torch.device) -> bool:
    """Whether a device computes with bf16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def free_disk(path: Path) -> int:
    """Bytes free where `path` lies or will lie."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def available_memory() -> int | None:
    """Bytes of main memory that can still be taken; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def free_device_memory(device: torch.device) -> int | None:
    """Bytes of a device's own memory that can still be taken; None for the CPU, or where the device does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory()) - int(torch.mps.driver_allocated_memory())
    return None
