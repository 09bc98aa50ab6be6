"""Files of other kinds that people take for a model of ours: what each is, and how it becomes one."""

from __future__ import annotations

import shlex
import string
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from cake_cli.errors import ModelFileError

HEAD = 512
"""Bytes of a file that are enough to tell what it is."""
ONNX = b"\x08"
"""The tag of ONNX's first field, its IR version."""
_PRINTABLE = frozenset(string.printable.encode())
_WEB_PAGE = (b"<!doctype html", b"<html", b"<?xml")
_KERAS = "tf2onnx.convert.from_keras(keras.models.load_model(FILE), output_path='model.onnx'), with tf2onnx"
OTHER = "give ONNX, TorchScript, torch.export (.pt2), weights (.safetensors, .pt, .pth), or a student of cake"


@dataclass(frozen=True)
class _Kind:
    """A kind of file by the bytes at a place in it."""

    start: bytes
    name: str
    fix: str
    place: int = 0


_KINDS = (
    _Kind(b"PTMF", "a mobile-lite file of torch, which has no gradient", "give the TorchScript file behind it", 4),
    _Kind(b"TFL3", "a TensorFlow Lite model, which has no gradient", "python -m tf2onnx.convert --tflite FILE", 4),
    _Kind(b"ORTM", "a graph in onnxruntime's own format", "give the .onnx file that it was made from", 4),
    _Kind(b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras saves models", _KERAS),
    _Kind(b"GGUF", "a GGUF file: a language model", "give an image or vector classifier"),
    _Kind(b"\x93NUMPY", "an array of numpy: data, not a model", "give the model"),
    _Kind(b"\x1f\x8b", "compressed with gzip", "gunzip it, and name what was in it"),
    _Kind(b"7z\xbc\xaf", "a 7z archive", "unpack it, and name the model file"),
    _Kind(b"Rar!", "a RAR archive", "unpack it, and name the model file"),
    _Kind(b"ustar", "a tar archive", "unpack it, and name the model file", 257),
    _Kind(b"CBM1", "a CatBoost model: a tree ensemble, which has no gradient", "give a neural network"),
    _Kind(b"tree\nversion=", "a LightGBM model: a tree ensemble, which has no gradient", "give a neural network"),
    _Kind(b"binf", "an XGBoost model: a tree ensemble, which has no gradient", "give a neural network"),
    _Kind(b'{"learner"', "an XGBoost model: a tree ensemble, which has no gradient", "give a neural network"),
    _Kind(b"7767517", "a parameter file of ncnn", "give the ONNX file that it was converted from"),
)
_ARCHIVES = (
    ({"model.weights.h5"}, "a Keras model", _KERAS),
    ({"TransformerChain"}, "an ML.NET model", "mlContext.Model.ConvertToOnnx(model, data, stream), in .NET"),
    ({"TrainingInfo"}, "an ML.NET model", "mlContext.Model.ConvertToOnnx(model, data, stream), in .NET"),
    ({"model.json", "attributes.pkl"}, "TorchScript from before torch 1.4, which today's torch does not read",
     "load it with torch 1.4 to 1.13 and save it again: torch.jit.save(torch.jit.load(OLD), NEW)"),
)  # fmt: skip


_SUFFIXES = {
    ".mlmodel": ("a Core ML model", "give the model that it was converted from"),
    ".pb": ("a TensorFlow graph", "python -m tf2onnx.convert --saved-model DIR --output model.onnx"),
    ".pdmodel": ("a Paddle model", "paddle2onnx --model_dir DIR --model_filename FILE --save_file model.onnx"),
    ".pdiparams": ("the weights of a Paddle model", "paddle2onnx --model_dir DIR --save_file model.onnx"),
    ".caffemodel": ("a Caffe model", "give it as ONNX"),
    ".params": ("the weights of an MXNet model", "give it as ONNX: mxnet.onnx.export_model"),
}
"""Kinds that are told by their name only: they are protobuf, as ONNX is, or start in no particular way."""


def refusal_of_name(path: Path, head: bytes) -> ModelFileError | None:
    """The refusal of a file whose name says that it is of another framework; ONNX files are named .pb, too."""
    if path.suffix.lower() == ".pb" and path.name != "saved_model.pb" and head.startswith(ONNX):
        return None
    found = _SUFFIXES.get(path.suffix.lower())
    return None if found is None else ModelFileError(f"{path} is {found[0]}", found[1])


def refusal_of_bytes(path: Path, head: bytes, size: int) -> ModelFileError | None:
    """The refusal of a file that is known to be of another kind; None where nothing is known of it.

    Args:
        path: the file.
        head: its first `HEAD` bytes.
        size: bytes of the whole.
    """
    for kind in _KINDS:
        if head[kind.place :].startswith(kind.start):
            return ModelFileError(f"{path} is {kind.name}", kind.fix)
    text = head.lstrip()
    if text.startswith(b"<?xml") and b"<net" in head:
        return ModelFileError(f"{path} is a model of OpenVINO", "give the ONNX file that it was converted from")
    if text.lower().startswith(_WEB_PAGE):
        return ModelFileError(
            f"{path} is a web page ({size:,} bytes of HTML or XML), not the model",
            "download the raw file itself: on GitHub the link 'Raw', on Hugging Face 'download'",
        )
    if text and set(head) <= _PRINTABLE:
        shown = text[:60].decode("ascii").partition("\n")[0].strip()
        return ModelFileError(f"{path} is a text file of {size:,} bytes ({shown!r}), not a model file", OTHER)
    return None


def refusal_of_unknown(path: Path, head: bytes, size: int) -> ModelFileError:
    """The refusal of a file of which nothing is known."""
    return ModelFileError(
        f"{path} is not a model file that cake knows ({size:,} bytes, starting with {head[:8]!r})", OTHER
    )


def refusal_of_archive(path: Path, names: Set[str]) -> ModelFileError:
    """The refusal of a zip archive that is none of our formats.

    Args:
        path: the archive.
        names: of its entries, with and without their first folder, and of the folders.
    """
    for marks, name, fix in _ARCHIVES:
        if marks <= names:
            return ModelFileError(f"{path} is {name}", fix)
    if all(name.endswith(".npy") for name in names):
        return ModelFileError(f"{path} holds arrays of numpy: data, not a model", "give the model")
    return ModelFileError(f"{path} is an archive, but not of a model", "unpack it, and name the model file")


def refusal_of_folder(path: Path) -> ModelFileError:
    """The refusal of a folder that is neither a run nor in a layout that we open."""
    if (path / "saved_model.pb").is_file():
        return ModelFileError(
            f"{path} is a TensorFlow SavedModel", "python -m tf2onnx.convert --saved-model DIR --output model.onnx"
        )
    if (path / "manifest.json").is_file():
        return ModelFileError(
            f"{path} is a sample bank, not a model", f"{shlex.join(['cake', 'train', str(path)])} --student cnn"
        )
    kinds = (".onnx", ".pt", ".pth", ".ts", ".torchscript", ".ptl", ".pt2", ".safetensors")
    found = sorted(file for file in path.iterdir() if file.suffix in kinds) if path.is_dir() else []
    if found:
        return ModelFileError(f"{path} is a folder, not a model file", f"name the file: {found[0]}")
    return ModelFileError(
        f"{path} is a folder, not a model file",
        "name a file, such as FOLDER/teacher.onnx, or a folder with config.json and model.safetensors",
    )
