import pytest

from cake_cli.data import open_heldout, what_is_read
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


def test_the_same_rows_by_whatever_name(tmp_path):
    for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        (tmp_path / name).write_bytes(bytes([0, 0, 8, 3]) + bytes(12))
    folder, train = str(tmp_path), str(tmp_path / "train-images-idx3-ubyte")
    assert what_is_read(train, None) == what_is_read(train, "train") == what_is_read(folder, "train")
    assert what_is_read(folder, None) == what_is_read(str(tmp_path / "t10k-images-idx3-ubyte"), None)
    assert what_is_read(folder, None) != what_is_read(folder, "train")
    assert what_is_read("mnist", None) == what_is_read("MNIST", "test") != what_is_read("mnist", "train")
    for name in ("std/train/cat", "std/test/cat"):
        (tmp_path / name).mkdir(parents=True)
    assert what_is_read(f"{folder}/std", "train") == what_is_read(f"{folder}/std/train", None)
    assert what_is_read(f"{folder}/std", None) == what_is_read(f"{folder}/std/test", None)
    assert what_is_read(f"{folder}/std", None) != what_is_read(f"{folder}/std", "train")
    (tmp_path / "a.npz").touch()
    assert what_is_read(f"{folder}/a.npz", "val") == what_is_read(f"{folder}/./a.npz", "val")
    assert what_is_read(f"{folder}/a.npz", "val") != what_is_read(f"{folder}/a.npz", None)
