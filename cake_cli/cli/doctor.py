"""``cake doctor``: versions, devices and extras, ready to paste into a bug report."""

from __future__ import annotations

import importlib.util
import platform

from cake_cli.cli import options as o
from cake_cli.cli.console import Console, size
from cake_cli.text import counted

EXTRAS = {"parquet": "pyarrow", "timm": "timm", "transformers": "transformers"}


def doctor(json: o.Json = False) -> None:
    """Print versions, devices and extras, ready to paste."""
    import torch

    from cake_cli.hardware import available_memory
    from cake_cli.runs import versions

    devices = {"cpu": counted(torch.get_num_threads(), "threads")}
    for index in range(torch.cuda.device_count()):
        devices[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple"
    memory = available_memory()
    facts = {
        "system": platform.platform(),
        **versions(),
        **{f"device {name}": about for name, about in devices.items()},
        "free memory": "unknown" if memory is None else size(memory),
        **{f"extra {name}": _state(module) for name, module in EXTRAS.items()},
    }
    console = Console()
    if json:
        console.json(facts)
    else:
        for name, value in facts.items():
            console.result(f"{name:<16} {value}")


def _state(module: str) -> str:
    return "installed" if importlib.util.find_spec(module) else "not installed"
