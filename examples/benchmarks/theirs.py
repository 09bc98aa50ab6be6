"""Runs the reference implementation's own sampling, as it is, on a teacher that was trained elsewhere.

Called by reference.py with the Python that has the reference's dependencies, in the reference's checkout:

    python theirs.py JOB.json

The job names the checkout, the teacher's weights and architecture, and the settings. Written: an .npz with `inputs`
(N, C, H, W), `soft_labels` (N, K) and `seconds`, the time of `generate_samples`, which also stores the samples.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

job = json.loads(Path(sys.argv[1]).read_text())
work = Path(job["work"])
sys.path[:0] = [job["checkout"], str(Path(job["checkout"]) / "src")]
os.environ["RESULTS_DIR"] = os.environ["DATA_DIR"] = str(work)
os.environ["WANDB_MODE"] = "disabled"

from hydra import compose, initialize_config_dir  # noqa: E402
from src.sampling import generate_samples  # noqa: E402

from cake_cli.models.architectures import build_student  # noqa: E402


class NoLogger:
    """In the place of the reference's Weights & Biases logger."""

    def log_metrics(self, metrics: dict, step: int) -> None:
        """Nothing is logged."""


with initialize_config_dir(str(Path(job["checkout"]) / "conf"), version_base=None):
    cfg = compose("config", overrides=[f"dataset={job['preset']}", *job["overrides"], "env.tag=benchmark"])

teacher = build_student(job["architecture"], tuple(job["shape"]), job["classes"])
teacher.load_state_dict(load_file(job["weights"]))
device = torch.device(job["device"]) if job["device"] != "cpu" else None
samples_dir = work / "samples"
samples_dir.mkdir()
torch.manual_seed(job["seed"])
started = time.perf_counter()
dataset = generate_samples(
    model_teacher=teacher,
    shape=tuple(job["shape"]),
    cfg=cfg,
    device=device,
    logger_wandb=NoLogger(),
    samples_dir=str(samples_dir),
)
if device is not None:
    torch.cuda.synchronize(device)
seconds = time.perf_counter() - started
rows = [dataset[index] for index in range(len(dataset))]
np.savez(
    job["out"],
    inputs=np.stack([np.asarray(data, dtype=np.float32).reshape(job["shape"]) for data, _ in rows]),
    soft_labels=np.stack([np.asarray(label, dtype=np.float32) for _, label in rows]),
    seconds=seconds,
)
