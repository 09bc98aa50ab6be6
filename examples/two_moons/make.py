"""Makes teacher.onnx beside this file: an MLP that tells scikit-learn's two moons apart.

    pip install scikit-learn onnxscript
    python examples/two_moons/make.py

The file carries its normalisation in its metadata, where `cake` reads it. A few seconds.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
POINTS = 2000
NOISE = 0.1
STEPS = 600


def train(points: Tensor, labels: Tensor) -> nn.Module:
    """The teacher, trained on normalised points (N, 2)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(STEPS):
        loss = F.cross_entropy(model(points), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def export(model: nn.Module, mean: list[float], std: list[float], path: Path) -> None:
    """Writes the model as ONNX, with its normalisation and class names in the metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (torch.zeros(3, 2),),
            dynamo=True,
            input_names=["point"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    proto = program.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]  # stack traces of the exporter, with paths of this machine
        node.doc_string = ""
    spec = {"shape": [2], "mean": mean, "std": std, "range": None, "expects": "normalised", "source": "training set"}
    names = json.dumps(["upper moon", "lower moon"])
    onnx.helper.set_model_props(proto, {"cake.input": json.dumps(spec), "cake.class_names": names})
    onnx.save(proto, path)


def main() -> None:
    """Makes the file and prints the teacher's accuracy on fresh points."""
    points, labels = make_moons(POINTS, noise=NOISE, random_state=0)
    mean, std = np.round(points.mean(0), 4), np.round(points.std(0), 4)

    def normalised(raw: np.ndarray) -> Tensor:
        return torch.tensor((raw - mean) / std, dtype=torch.float32)

    model = train(normalised(points), torch.from_numpy(labels))
    export(model, mean.tolist(), std.tolist(), HERE / "teacher.onnx")
    fresh, truth = make_moons(POINTS, noise=NOISE, random_state=1)
    with torch.no_grad():
        accuracy = float((model(normalised(fresh)).argmax(1) == torch.from_numpy(truth)).float().mean())
    print(f"teacher.onnx: {accuracy:.2%} on {POINTS:,} fresh points")


if __name__ == "__main__":
    main()
