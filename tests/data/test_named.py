import socket

import numpy as np
import pytest

from cake_cli.data import open_heldout
from cake_cli.data.named import TORCHVISION, canonical
from cake_cli.errors import DataError, UsageError
from cake_cli.spec import InputSpec

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPEC = InputSpec(shape=(1, 28, 28))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_args, **_settings):
        pytest.fail("something went to the network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def mnist(tmp_path, save_idx):
    """A torchvision root with twelve test images of MNIST's form."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
    for prefix in ("t10k", "train"):
        save_idx(f"MNIST/raw/{prefix}-images-idx3-ubyte", images)
        save_idx(f"MNIST/raw/{prefix}-labels-idx1-ubyte", np.arange(12) % 10)
    return tmp_path


def test_names_are_read_generously():
    assert canonical("CIFAR-10") == "cifar10"
    assert canonical("FashionMNIST") == canonical("fashion_mnist") == "fashion-mnist"
    assert canonical("imagenette") is None
    assert all(canonical(name) == name for name in TORCHVISION)


def test_every_name_is_torchvisions_and_missing_without_a_download(tmp_path):
    for name in TORCHVISION:
        with pytest.raises(DataError, match=f"{name} is not in"):
            open_heldout(name, SPEC, 10, data_root=tmp_path)


def test_the_test_split_from_its_root(mnist, read_all):
    heldout = open_heldout("mnist", InputSpec(shape=(3, 32, 32)), 10, data_root=mnist)
    rows, labels = read_all(heldout, batch_size=5)
    assert rows.shape == (12, 3, 32, 32)
    assert labels.tolist() == [*range(10), 0, 1]
    assert heldout.class_names[0] == "0 - zero"
    assert any("32x32" in note for note in heldout.notes)


def test_names_of_the_model_are_matched(mnist, read_all):
    names = tuple(f"{i} - {word}" for i, word in enumerate(WORDS))
    heldout = open_heldout("mnist", SPEC, 10, data_root=mnist, class_names=names[::-1])
    assert read_all(heldout)[1].tolist()[:3] == [9, 8, 7]


def test_other_class_counts_and_splits_are_refused(mnist):
    with pytest.raises(DataError, match="name 10 classes"):
        open_heldout("mnist", SPEC, 5, data_root=mnist)
    with pytest.raises(UsageError, match="train and test"):
        open_heldout("mnist", SPEC, 10, data_root=mnist, split="val")
    with pytest.raises(UsageError, match="folder is not given"):
        open_heldout("mnist", SPEC, 10)


def test_damage_is_explained(mnist):
    path = mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="torchvision cannot read mnist"):
        open_heldout("mnist", SPEC, 10, data_root=mnist)
