"""Small valid files of every kind that `cake` opens, made once for the fuzzer and the tests beside it."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

TINY_BANK = ["--samples", "60", "--steps", "2", "--set", "set_size=30", "--set", "sets_at_once=1"]
TINY_TRAINING = ["--epochs", "1", "--set", "training.batch_size=16", "--no-report"]
SHAPE, CLASSES = (1, 4, 4), 3


def make(folder: Path) -> None:
    """Fills a folder; runs torch, so a process that will fork calls this in a child."""
    folder.mkdir(parents=True, exist_ok=True)
    for maker in (teachers, heldout, made_by_cake, configurations):
        maker(folder)


def teachers(folder: Path) -> None:
    """Teachers as ONNX (also with external data), TorchScript, torch.export, weights and checkpoints."""
    import onnx
    import torch
    from safetensors.torch import save_file

    from tests.conftest import save_mlp
    from tests.models.blackbox.files import int8, trees

    save_mlp(folder / "teacher.onnx", shape=SHAPE, classes=CLASSES)
    int8(folder)
    trees(folder)
    _small_convolution(folder / "convolution.onnx")
    outside = folder / "external"
    outside.mkdir(exist_ok=True)
    model = onnx.load(folder / "teacher.onnx")
    onnx.save_model(
        model, outside / "teacher.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(16, 8), torch.nn.Tanh(), torch.nn.Linear(8, CLASSES)
    )
    network.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, torch.zeros(2, *SHAPE))
        torch.jit.save(traced, folder / "traced.pt", _extra_files={"labels.txt": "cat\ndog\nowl"})
        torch.jit.save(torch.jit.script(network), folder / "scripted.pt")
        batch = torch.export.Dim("batch")
        torch.export.save(
            torch.export.export(network, (torch.zeros(2, *SHAPE),), dynamic_shapes=({0: batch},)),
            folder / "exported.pt2",
        )
    weights = {f"net.{name}": tensor for name, tensor in _mlp_weights().items()}
    save_file(weights, folder / "weights.safetensors", metadata={"class_names": json.dumps(["a", "b", "c"])})
    torch.save({"state_dict": weights, "epoch": 3}, folder / "checkpoint.pt")
    torch.save({"state_dict": weights}, folder / "legacy.pt", _use_new_zipfile_serialization=False)


def _mlp_weights() -> dict:
    from cake_cli.models.architectures import build_student

    return build_student("mlp:8", SHAPE, CLASSES).state_dict()


def _small_convolution(path: Path) -> None:
    """A convolution, a pooling, a Reshape with a constant, an If and a metadata record: more to break than an MLP."""
    from onnx import TensorProto, helper, numpy_helper
    from onnx import save as save_onnx

    draw = np.random.default_rng(1)

    def branch(name: str, operator: str):
        node = helper.make_node(operator, ["conv"], [f"{name}_out"])
        return helper.make_graph(
            [node], name, [], [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)]
        )

    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["conv"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node(
            "If", ["yes"], ["active"], then_branch=branch("then", "Tanh"), else_branch=branch("else", "Relu")
        ),
        helper.make_node("MaxPool", ["active"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Reshape", ["pooled", "shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "v", "c"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["probs"], axis=1),
    ]
    weights = {
        "w": draw.normal(size=(2, 1, 3, 3)).astype(np.float32),
        "b": np.zeros(2, np.float32),
        "yes": np.array(True),
        "shape": np.array([-1, 8], np.int64),
        "v": draw.normal(size=(CLASSES, 8)).astype(np.float32),
        "c": np.zeros(CLASSES, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE])],
        [helper.make_tensor_value_info("probs", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"cake.class_names": json.dumps(["a", "b", "c"]), "author": "nobody"})
    save_onnx(model, path)


def heldout(folder: Path) -> None:
    """Twelve labelled rows as npz, IDX, CSV, parquet, and pictures of several formats."""
    from PIL import Image

    draw = np.random.default_rng(2)
    images = draw.integers(0, 256, (12, 4, 4), dtype=np.uint8)
    labels = (np.arange(12) % CLASSES).astype(np.uint8)
    np.savez(folder / "heldout.npz", x=images, y=labels)
    np.savez_compressed(folder / "packed.npz", x_test=images.astype(np.float32) / 255, y_test=labels)
    header = struct.pack(">BBBB3I", 0, 0, 8, 3, *images.shape), struct.pack(">BBBBI", 0, 0, 8, 1, len(labels))
    for name, pack in (("idx", bytes), ("idx-gz", gzip.compress)):
        (folder / name).mkdir(exist_ok=True)
        suffix = ".gz" if name.endswith("gz") else ""
        (folder / name / f"t10k-images-idx3-ubyte{suffix}").write_bytes(pack(header[0] + images.tobytes()))
        (folder / name / f"t10k-labels-idx1-ubyte{suffix}").write_bytes(pack(header[1] + labels.tobytes()))
    lines = [",".join([*(f"p{i}" for i in range(16)), "label"])]
    lines += [
        ",".join([*(f"{value / 255:.3f}" for value in image.ravel()), str(label)])
        for image, label in zip(images, labels, strict=True)
    ]
    (folder / "heldout.csv").write_text("\n".join(lines) + "\n")
    for name, suffixes in (("pictures", ("png", "jpg", "bmp", "gif", "tiff", "webp")),):
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            home = folder / name / "test" / "abc"[label]
            home.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(home / f"{index}.{suffixes[index // 2]}")
    _parquet(folder / "heldout.parquet", images, labels)


def _parquet(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    from io import BytesIO

    from PIL import Image

    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return
    cells = []
    for image in images:
        stream = BytesIO()
        Image.fromarray(image).save(stream, "png")
        cells.append({"bytes": stream.getvalue(), "path": None})
    pyarrow.parquet.write_table(pyarrow.table({"image": cells, "label": labels.astype(np.int64)}), path)


def made_by_cake(folder: Path) -> None:
    """A run, one that Ctrl-C stopped, a complete bank, one that was cut short with a journal left, a student alone."""
    from cake_cli.cli.app import run

    teacher = str(folder / "teacher.onnx")
    tiny = [*TINY_BANK, *TINY_TRAINING, "--student", "mlp:8", "-q", "--progress", "none"]
    distill = ["distill", teacher, *tiny, "--data", str(folder / "heldout.npz")]
    _require(run([*distill, "-o", str(folder / "run")]))
    with mock.patch("cake_cli.training.train", side_effect=KeyboardInterrupt):  # all is labelled, nothing is learned
        _require(run([*distill, "-o", str(folder / "stopped")]), 130)
    _require(run(["synthesize", teacher, *TINY_BANK, "-q", "--progress", "none", "-o", str(folder / "bank")]))
    shutil.copy(folder / "run" / "student.safetensors", folder / "student.safetensors")
    shutil.copytree(folder / "bank", folder / "partial", dirs_exist_ok=True)
    _cut_short(folder / "partial")


def _cut_short(bank: Path) -> None:
    """Leaves a bank with its second shard not made, and its first one told by a journal alone."""
    manifest = json.loads((bank / "manifest.json").read_text())
    first, *others = manifest["shards"]
    for shard in others:
        (bank / shard["file"]).unlink()
    (bank / "manifest.json").write_text(json.dumps(manifest | {"status": "partial", "shards": []}))
    (bank / "journal-00000.jsonl").write_text(json.dumps({"shard": first, "spent": 0.5}) + "\n")


def _require(code: int, wanted: int = 0) -> None:
    if code != wanted:
        raise RuntimeError(f"a seed could not be made: exit code {code}")


def configurations(folder: Path) -> None:
    """A configuration as `--print-config` writes it, and class maps."""
    shutil.copy(folder / "run" / "config.toml", folder / "config.toml")
    (folder / "map.txt").write_text("a=0\nb=1\nc=2\n")
    (folder / "map.json").write_text(json.dumps({"a": 0, "b": "1", "c": 2}))


def main() -> None:
    """``python -m tests.hostile.seeds FOLDER``."""
    import sys

    make(Path(sys.argv[1]))


Maker = Callable[[Path], None]

if __name__ == "__main__":
    main()
