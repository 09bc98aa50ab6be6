from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from cake_cli.errors import ModelFileError
from cake_cli.models.formats import sniff
from cake_cli.models.loading import load_classifier


def test_onnx_is_told_by_content(mlp_file: Path) -> None:
    renamed = mlp_file.rename(mlp_file.with_suffix(".bin"))
    assert sniff(renamed).format == "onnx"


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "teacher.onnx").symlink_to("moved.onnx")
    with pytest.raises(ModelFileError, match=r"teacher.onnx is a link to moved.onnx, which is not there"):
        sniff(tmp_path / "teacher.onnx")


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n", "Git LFS pointer"),
    (b"hello, world, this is text", "is a text file of 26 bytes"),
    (b"\x00\x01\x02\x03 no format begins so", "not a model file that cake knows"),
    (b"\n\n<!DOCTYPE html>\n<html lang='en'>", "is a web page"),
    (b"<?xml version='1.0'?><net name='resnet'>", "is a model of OpenVINO"),
    (b"\x1c\x00\x00\x00TFL3" + bytes(32), "is a TensorFlow Lite model"),
    (b"\x14\x00\x00\x00ORTM" + bytes(32), "onnxruntime's own format"),
    (b"\x89HDF\r\n\x1a\n" + bytes(32), "as Keras saves models"),
    (b"GGUF" + bytes(32), "language model"),
    (b"\x1f\x8b\x08" + bytes(32), "compressed with gzip"),
    (b"sys_info" + bytes(249) + b"ustar" + bytes(200), "tar archive"),
    (b"PK\x03\x04 and then nothing", "damaged or truncated archive"),
])  # fmt: skip
def test_what_is_no_model_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=message) as caught:
        sniff(path)
    assert caught.value.fix


@pytest.mark.parametrize(("entries", "message"), [
    (["config.json", "metadata.json", "model.weights.h5"], "is a Keras model"),
    (["TrainingInfo/Version.txt", "TransformerChain/Model.key"], "is an ML.NET model"),
    (["net/version", "net/code/net.py", "net/attributes.pkl", "net/model.json"], "before torch 1.4"),
    (["x_test.npy", "y_test.npy"], "arrays of numpy"),
    (["photo.png"], "an archive, but not of a model"),
])  # fmt: skip
def test_archives_of_others_are_named(tmp_path: Path, entries: list[str], message: str) -> None:
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for entry in entries:
            archive.writestr(entry, "")
    with pytest.raises(ModelFileError, match=message) as caught:
        sniff(path)
    assert caught.value.fix


@pytest.mark.parametrize("name", ["saved_model.pb", "net.mlmodel", "net.pdmodel"])
def test_names_tell_what_bytes_do_not(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"\x08\x01\x12\x00")
    with pytest.raises(ModelFileError, match=r"TensorFlow|Core ML|Paddle"):
        sniff(path)
    assert sniff(path.rename(tmp_path / "graph.pb")).format == "onnx"


def test_a_folder_names_the_model_in_it(tmp_path: Path) -> None:
    (tmp_path / "teacher.onnx").write_bytes(b"\x08")
    with pytest.raises(ModelFileError) as caught:
        sniff(tmp_path)
    assert caught.value.fix == f"name the file: {tmp_path / 'teacher.onnx'}"
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ModelFileError, match="SavedModel"):
        sniff(tmp_path)


@pytest.mark.parametrize("start", [b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x08\x00"])
def test_the_length_that_safetensors_begins_with_is_not_taken_for_a_magic_number(tmp_path: Path, start: bytes) -> None:
    header = b"{}".ljust(int.from_bytes(start, "little"))
    path = tmp_path / "weights.bin"
    path.write_bytes(start.ljust(8, b"\0") + header + b"\0")
    assert sniff(path).format == "safetensors"


def test_a_missing_file_suggests_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "teacher.onnx").write_bytes(b"\x08")
    with pytest.raises(ModelFileError) as caught:
        sniff(tmp_path / "techer.onnx")
    assert "teacher.onnx" in str(caught.value.fix)


class Planted:
    """Unpickling this writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.write_text, (self.marker, "executed"))


def test_no_pickle_is_ever_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    bare = tmp_path / "model.pkl"
    bare.write_bytes(pickle.dumps(Planted(marker)))
    saved = tmp_path / "model.pt"
    torch.save({"model": Planted(marker)}, saved)
    package = tmp_path / "model.pt2"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("m/archive_format", "pt2")
        archive.writestr("m/data/weights/model.pt", pickle.dumps(Planted(marker)))
    for path in (bare, saved, package):
        with pytest.raises(ModelFileError, match="not loaded"):
            load_classifier(path)
    assert not marker.exists()
