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


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n", "Git LFS pointer"),
    (b"hello, world, this is text", "not a model file"),
    (b"PK\x03\x04 and then nothing", "damaged or truncated archive"),
])  # fmt: skip
def test_what_is_no_model_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=message) as caught:
        sniff(path)
    assert caught.value.fix


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
