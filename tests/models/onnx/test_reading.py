import numpy as np
import pytest
from onnx import TensorProto
from onnx.external_data_helper import convert_model_to_external_data

from cake_cli.errors import ModelFileError
from cake_cli.models.onnx import open_onnx
from tests.models.onnx.files import draw, linear, save


def refused(path):
    with pytest.raises(ModelFileError) as caught:
        open_onnx(path)
    assert caught.value.fix
    return caught.value.what


def test_an_empty_file_is_named_with_its_size(tmp_path):
    path = tmp_path / "teacher.onnx"
    path.touch()
    assert refused(path) == "teacher.onnx is an empty file (0 bytes)"


def test_a_git_lfs_pointer_is_named_with_both_sizes(tmp_path):
    path = tmp_path / "teacher.onnx"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 46800000\n")
    assert "Git LFS pointer (70 bytes) for a file of 46,800,000 bytes" in refused(path)


@pytest.mark.parametrize("content", [b"\x80\x04hello", b"PK\x03\x04" * 9, b"\x08\x08", bytes(range(256))])
def test_what_is_not_onnx_is_refused(tmp_path, content):
    path = tmp_path / "teacher.onnx"
    path.write_bytes(content)
    assert "ONNX" in refused(path)


def test_a_missing_file_is_refused(tmp_path):
    assert "cannot be read" in refused(tmp_path / "absent.onnx")
    assert "is not a file" in refused(tmp_path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.99])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = save(linear(draw(4, 3)), tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(path)


def test_a_tensor_larger_than_its_bytes_is_refused_before_it_is_made(tmp_path):
    proto = linear()
    proto.graph.initializer[0].dims[:] = [1 << 40, 1 << 20]
    assert "declares 4,611,686,018,427,387,904 bytes and has 48" in refused(save(proto, tmp_path))


def test_a_negative_size_is_refused(tmp_path):
    proto = linear()
    proto.graph.initializer[0].dims[:] = [-4, -3]
    assert "negative size" in refused(save(proto, tmp_path))


def test_numbers_outside_raw_data_are_counted(tmp_path):
    proto = linear()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.extend([0.0] * 11)
    assert "declares 12 numbers and has 11" in refused(save(proto, tmp_path))


def external(tmp_path, location="weights.data", size=48):
    proto = linear()
    path = tmp_path / "model.onnx"
    convert_model_to_external_data(proto, location="weights.data", size_threshold=0)
    tensor = proto.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    for entry in tensor.external_data:
        if entry.key == "location":
            entry.value = location
    tensor.ClearField("raw_data")
    path.write_bytes(proto.SerializeToString())
    (tmp_path / "weights.data").write_bytes(draw(4, 3).tobytes()[:size])
    return path


def test_external_data_beside_the_model_are_read(tmp_path):
    import torch

    opened = open_onnx(external(tmp_path))
    x = torch.eye(4)
    assert np.allclose(opened.module(x).numpy(), draw(4, 3), atol=1e-6)


def test_missing_external_data_are_named(tmp_path):
    path = external(tmp_path)
    (tmp_path / "weights.data").unlink()
    assert refused(path) == "model.onnx keeps its weights in weights.data, which is not beside it"


@pytest.mark.parametrize(
    "location", ["/etc/hostname", "../weights.data", "a/../../weights.data", "C:\\weights", "..\\weights.data", ""]
)
def test_external_data_elsewhere_are_refused(tmp_path, location):
    assert "outside its own folder" in refused(external(tmp_path, location))


def test_external_data_behind_a_link_are_refused(tmp_path):
    path = external(tmp_path)
    (tmp_path / "weights.data").rename(tmp_path / "real")
    (tmp_path / "weights.data").symlink_to(tmp_path / "real")
    assert "symbolic link" in refused(path)


def test_external_data_that_are_too_short_are_refused(tmp_path):
    assert "it needs 48 bytes at 0, weights.data has 47 in all" in refused(external(tmp_path, size=47))


def test_opening_writes_nothing(tmp_path, monkeypatch):
    path = save(linear(), tmp_path)
    monkeypatch.chdir(tmp_path)
    for converter in ("interpreter", "onnx2torch"):
        open_onnx(path, converter=converter)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
