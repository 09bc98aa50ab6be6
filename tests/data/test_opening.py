import pytest

from cake_cli.data import open_heldout
from cake_cli.errors import CakeError, DataError
from cake_cli.spec import InputSpec

SPEC = InputSpec(shape=(1, 8, 8))


def test_a_missing_file_gets_the_nearest_name(tmp_path):
    (tmp_path / "heldout.npz").write_bytes(b"x")
    with pytest.raises(DataError, match="neither a file or folder nor") as caught:
        open_heldout(str(tmp_path / "heldot.npz"), SPEC, 5)
    assert caught.value.fix == "did you mean 'heldout.npz'?"
    with pytest.raises(DataError) as caught:
        open_heldout(str(tmp_path / "nowhere" / "a"), SPEC, 5)
    assert ".npz" in caught.value.fix


@pytest.mark.parametrize("name", ["cifar11", "mnits"])
def test_a_misspelt_torchvision_name(name):
    with pytest.raises(DataError) as caught:
        open_heldout(name, SPEC, 5)
    assert caught.value.fix.startswith("did you mean '")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer of"),
    ],
)
@pytest.mark.parametrize("name", ["a.npz", "a.csv", "a-images-idx3-ubyte", "a.parquet"])
def test_placeholders(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_heldout(str(tmp_path / name), SPEC, 5)


def test_other_kinds(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match="not held-out data of a known kind") as caught:
        open_heldout(str(tmp_path / "notes.txt"), SPEC, 5)
    assert ".npz" in caught.value.fix


@pytest.mark.parametrize(
    "name", ["a.npz", "a.csv", "a-images-idx3-ubyte", "a-images-idx3-ubyte.gz", "a.parquet", "a.bin"]
)
@pytest.mark.parametrize(
    "content", [b"\x00", b"PK\x03\x04", b"\x1f\x8b\x08\x00", b"\x00\x00\x08\x03", bytes(range(256)) * 4]
)
def test_rubbish_is_never_a_traceback(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CakeError) as caught:
        open_heldout(str(tmp_path / name), SPEC, 5)
    assert caught.value.exit_code in (4, 5)
    assert "\n" not in caught.value.what
