"""What `tests.faults` forks its processes from: everything is imported, and has been used once, on one thread."""

import contextlib
import io
import tempfile
from pathlib import Path

import torch

import tests.cli.preloaded  # noqa: F401
from cake_cli.cli.app import run
from tests.cli.conftest import save_heldout
from tests.conftest import save_mlp

torch.set_num_threads(1)
WORDS = ["--samples", "60", "--steps", "1", "--set", "set_size=30", "--epochs", "1", "--student", "mlp:8", "-q"]
with tempfile.TemporaryDirectory(prefix="cake-warm-") as folder, contextlib.redirect_stdout(io.StringIO()):
    place = Path(folder)
    teacher, data = save_mlp(place / "teacher.onnx"), save_heldout(place / "heldout.npz")
    if run(["distill", str(teacher), *WORDS, "--data", str(data), "--no-report", "-o", str(place / "run")]):
        raise RuntimeError("cake does not run")
