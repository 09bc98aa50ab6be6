import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from cake_cli.data import open_heldout
from cake_cli.errors import DataError, UsageError
from cake_cli.spec import InputSpec

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.parametrize("images_end", ["", ".gz"])
@pytest.mark.parametrize("labels_end", ["", ".gz"])
def test_labels_are_found_by_name(save_idx, grey8, images8, labels10, read_all, images_end, labels_end):
    path = save_idx("t10k-images-idx3-ubyte" + images_end, images8)
    save_idx("t10k-labels-idx1-ubyte" + labels_end, labels10)
    rows, labels = read_all(open_heldout(str(path), grey8, 5))
    assert torch.allclose(rows[:, 0], (torch.from_numpy(images8) / 255 - 0.5) / 0.25, atol=1e-6)
    assert labels.tolist() == labels10.tolist()


def test_a_folder_of_idx_files(save_idx, grey8, images8, labels10, tmp_path):
    save_idx("train-images-idx3-ubyte.gz", images8)
    save_idx("train-labels-idx1-ubyte.gz", labels10)
    with pytest.raises(DataError, match="training split alone"):
        open_heldout(str(tmp_path), grey8, 5)
    save_idx("t10k-images-idx3-ubyte.gz", images8[:4])
    save_idx("t10k-labels-idx1-ubyte.gz", labels10[:4])
    assert open_heldout(str(tmp_path), grey8, 5).samples == 4
    assert open_heldout(str(tmp_path), grey8, 5, split="test").samples == 4
    assert open_heldout(str(tmp_path), grey8, 5, split="train").samples == 10


def test_no_labels(save_idx, grey8, images8):
    path = save_idx("t10k-images-idx3-ubyte", images8)
    with pytest.raises(DataError, match="no labels beside it") as caught:
        open_heldout(str(path), grey8, 5)
    assert "t10k-labels-idx1-ubyte" in caught.value.fix


def test_the_labels_file_itself(save_idx, grey8, labels10):
    with pytest.raises(DataError, match="holds labels, not images"):
        open_heldout(str(save_idx("t10k-labels-idx1-ubyte", labels10)), grey8, 5)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kept", [3, 10, 200])
def test_cut_short_inside(save_idx, grey8, images8, labels10, packed, kept):
    path = save_idx("a-images-idx3-ubyte", images8)
    data = path.read_bytes()[:kept]
    path.write_bytes(gzip.compress(data) if packed else data)
    save_idx("a-labels-idx1-ubyte", labels10)
    with pytest.raises(DataError, match=r"not an IDX file|ends inside its header|bytes of values but has"):
        open_heldout(str(path), grey8, 5)


def test_truncated_gzip(save_idx, grey8, images8, labels10):
    path = save_idx("a-images-idx3-ubyte.gz", images8)
    save_idx("a-labels-idx1-ubyte.gz", labels10)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="ends early"):
        open_heldout(str(path), grey8, 5)


def test_a_header_that_promises_too_much(save_idx, grey8, images8, labels10):
    path = save_idx("a-images-idx3-ubyte", images8)
    save_idx("a-labels-idx1-ubyte", labels10)
    data = bytearray(path.read_bytes())
    data[4:16] = b"\xff" * 12
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"rows of .* values; at most"):
        open_heldout(str(path), grey8, 5)


def test_split_does_not_apply_to_one_file(save_idx, grey8, images8):
    with pytest.raises(UsageError, match="--split test"):
        open_heldout(str(save_idx("a-images-idx3-ubyte", images8)), grey8, 5, split="test")


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="the real MNIST is not here")
def test_real_mnist_for_a_32x32_rgb_teacher():
    heldout = open_heldout(str(SHARED / "mnist"), InputSpec(shape=(3, 32, 32)), 10)
    rows, labels = next(heldout.batches(100))
    assert heldout.samples == 10_000
    assert rows.shape == (100, 3, 32, 32)
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]  # as published
    assert any("32x32" in note for note in heldout.notes)
    assert np.isclose(rows.mean().item(), 0.13, atol=0.03)


@pytest.mark.parametrize("shape", [(4, 0, 8), (4, 8, 0)])
def test_rows_of_nothing(save_idx, grey8, shape):
    save_idx("a-labels-idx1-ubyte", np.arange(4))
    with pytest.raises(DataError, match="whose rows hold nothing"):
        open_heldout(str(save_idx("a-images-idx3-ubyte", np.zeros(shape))), grey8, 5)
