"""Makes teacher.onnx and heldout.npz beside this file, from scikit-learn's 8x8 handwritten digits.

    pip install scikit-learn
    python examples/digits/make.py

Of the 1,797 digits 500 are held out; a small CNN learns the other 1,297, with shifts of up to one pixel, and
is exported by torch's current ONNX exporter with a symbolic batch. The file carries its normalisation and
class names in its metadata, where `cake` reads them. About a minute on two CPU cores.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
HELD_OUT = 500
EPOCHS = 80
BATCH = 64


def split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images (1297, 8, 8) and labels, held-out images (500, 8, 8) and labels; uint8, 0..255."""
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(images))
    held, rest = order[:HELD_OUT], order[HELD_OUT:]
    return images[rest], labels[rest], images[held], labels[held]


def network() -> nn.Module:
    """A CNN of 94 thousand weights: (N, 1, 8, 8) to (N, 10)."""
    return nn.Sequential(
        *[nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()],
        *[nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)],  # (N, 64, 4, 4)
        *[nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)],  # (N, 64, 2, 2)
        *[nn.Flatten(), nn.Dropout(0.3), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)],
    )


def shifted(images: Tensor) -> Tensor:
    """A batch (N, 1, 8, 8) moved by up to one pixel, the border filled with black."""
    padded = F.pad(images, (1, 1, 1, 1), value=float(images.min()))
    down, right = torch.randint(0, 3, (2,)).tolist()
    return padded[:, :, down : down + 8, right : right + 8]


def train(images: Tensor, labels: Tensor) -> nn.Module:
    """The teacher, trained on normalised images (N, 1, 8, 8)."""
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(images)).split(BATCH)[: len(images) // BATCH]:
            loss = F.cross_entropy(model(shifted(images[index])), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def export(model: nn.Module, mean: float, std: float, path: Path) -> None:
    """Writes the model as ONNX, with what `cake` needs to know in its metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (torch.zeros(2, 1, 8, 8),),
            dynamo=True,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    proto = program.model_proto
    spec = {
        "shape": [1, 8, 8],
        "mean": [mean],
        "std": [std],
        "range": [0.0, 1.0],
        "expects": "normalised",
        "source": "training set",
    }
    for node in proto.graph.node:
        del node.metadata_props[:]  # stack traces of the exporter, with paths of this machine
        node.doc_string = ""
    onnx.helper.set_model_props(
        proto, {"cake.input": json.dumps(spec), "cake.class_names": json.dumps([str(digit) for digit in range(10)])}
    )
    onnx.save(proto, path)


def main() -> None:
    """Makes both files and prints the teacher's accuracy."""
    x, y, x_held, y_held = split()
    np.savez_compressed(HERE / "heldout.npz", x=x_held, y=y_held)
    mean, std = round(float(x.mean() / 255), 4), round(float(x.std() / 255), 4)
    images = (torch.from_numpy(x).float().unsqueeze(1) / 255 - mean) / std
    held = (torch.from_numpy(x_held).float().unsqueeze(1) / 255 - mean) / std
    model = train(images, torch.from_numpy(y).long())
    export(model, mean, std, HERE / "teacher.onnx")
    with torch.no_grad():
        accuracy = float((model(held).argmax(1) == torch.from_numpy(y_held).long()).float().mean())
    print(f"teacher.onnx: {accuracy:.1%} on the {HELD_OUT} held-out digits, mean {mean}, std {std}")


if __name__ == "__main__":
    main()
