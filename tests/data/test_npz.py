import re
import struct
import tracemalloc
import zipfile
from io import BytesIO

import numpy as np
import pytest
import torch

from cake_cli.data import open_heldout
from cake_cli.errors import DataError, UsageError
from cake_cli.spec import InputSpec


def test_rows_are_scaled_normalised_and_in_order(save_npz, grey8, images8, labels10, read_all):
    heldout = open_heldout(save_npz(x=images8, y=labels10), grey8, 5, class_names=tuple("abcde"))
    assert (heldout.samples, heldout.class_names, heldout.notes) == (10, tuple("abcde"), ())
    for _ in range(2):  # as often as wanted
        rows, labels = read_all(heldout)
        assert torch.allclose(rows[:, 0], (torch.from_numpy(images8) / 255 - 0.5) / 0.25, atol=1e-6)
        assert labels.tolist() == labels10.tolist()


@pytest.mark.parametrize(
    ("rows", "labels"), [("x", "y"), ("x_test", "y_test"), ("images", "labels"), ("test_images", "test_labels"), "XY"]
)
def test_keys(save_npz, grey8, images8, labels10, rows, labels):
    assert open_heldout(save_npz(**{rows: images8, labels: labels10}), grey8, 5).samples == 10


def test_the_test_split_comes_first_and_split_overrides(save_npz, grey8, images8, labels10):
    source = save_npz(
        x=images8, y=labels10, x_test=images8[:3], y_test=labels10[:3], val_images=images8[:2], val_labels=labels10[:2]
    )
    assert open_heldout(source, grey8, 5).samples == 3
    assert open_heldout(source, grey8, 5, split="val").samples == 2
    with pytest.raises(DataError, match="no rows and labels"):
        open_heldout(source, grey8, 5, split="train")


@pytest.mark.parametrize("layout", ["NHW", "NHWC", "NCHW", "ND", "column-major", "big-endian"])
def test_layouts_give_the_same_rows(save_npz, grey8, images8, labels10, read_all, layout):
    given = {
        "NHW": images8,
        "NHWC": images8[..., None],
        "NCHW": images8[:, None],
        "ND": images8.reshape(10, 64),
        "column-major": np.asfortranarray(images8),
        "big-endian": (images8 / 255).astype(">f4"),
    }[layout]
    rows, _ = read_all(open_heldout(save_npz(x=given, y=labels10), grey8, 5))
    assert torch.allclose(rows[:, 0], (torch.from_numpy(images8) / 255 - 0.5) / 0.25, atol=1e-6)


def test_vectors(save_npz, labels10, read_all):
    values = np.random.default_rng(0).normal(size=(10, 3))
    rows, _ = read_all(open_heldout(save_npz(x=values, y=labels10), InputSpec(shape=(3,), range=None), 5))
    assert torch.allclose(rows, torch.from_numpy(values).float())


def test_labels_may_be_one_hot_columns_floats_or_names(save_npz, grey8, images8, labels10, read_all):
    names = tuple("edcba")
    for given, expected in [
        (np.eye(5)[labels10], labels10),
        (labels10[:, None].astype(np.uint8), labels10),
        (labels10.astype(np.float32), labels10),
        (np.array(list("abcde"))[labels10], 4 - labels10),
    ]:
        _, labels = read_all(open_heldout(save_npz(x=images8, y=given), grey8, 5, class_names=names))
        assert labels.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((4, 8, 8), np.uint8)}, r"no labels: it holds x"),
        ({"rows": np.zeros((4, 8, 8), np.uint8)}, r"holds rows, no rows and labels"),
        ({"x": np.zeros((4, 8, 8), np.uint8), "y": np.zeros(3, int)}, r"4 rows but 3 labels"),
        (
            {"x": np.zeros((2, 8, 8), np.uint8), "y": np.array([0, 5])},
            r"from 0 to 5 \(row 1 is 5\).* 5 classes, 0 to 4",
        ),
        ({"x": np.zeros((2, 8, 8), np.uint8), "y": np.array([-1, 0])}, r"from -1 to 0"),
        ({"x": np.zeros((2, 8, 8), np.uint8), "y": np.array([0.5, 0])}, r"not class indices"),
        ({"x": np.zeros((0, 8, 8), np.uint8), "y": np.zeros(0, int)}, r"has no rows"),
        ({"x": np.zeros((2, 8, 8), np.int64), "y": np.zeros(2, int)}, r"int64: what 1 means"),
        ({"x": np.zeros((2, 8, 8), complex), "y": np.zeros(2, int)}, r"complex128, not numbers"),
        ({"x": np.zeros((2, 63), np.uint8), "y": np.zeros(2, int)}, r"63 values a row, the model takes 64 \(1x8x8\)"),
        ({"x": np.zeros((2, 8, 8, 2), np.uint8), "y": np.zeros(2, int)}, r"neither images nor vectors"),
        ({"x": np.uint8(3), "y": np.zeros(2, int)}, r"single value"),
        ({"x": np.full((2, 8, 8), np.nan, np.float32), "y": np.zeros(2, int)}, r"not finite"),
    ],
)
def test_what_does_not_fit_is_refused(save_npz, grey8, arrays, message):
    with pytest.raises(DataError, match=message):
        open_heldout(save_npz(**arrays), grey8, 5)


def test_labels_that_count_from_one_get_that_advice(save_npz, grey8, images8, labels10):
    with pytest.raises(DataError) as caught:
        open_heldout(save_npz(x=images8, y=labels10 + 1), grey8, 5)
    assert "subtract 1" in caught.value.fix


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_pickles_are_not_loaded(save_npz, grey8, images8):
    for arrays in ({"x": images8, "y": np.array([Bomb()] * 10)}, {"x": np.array([Bomb()] * 10), "y": np.zeros(10)}):
        with pytest.raises(DataError, match="pickled Python objects"):
            open_heldout(save_npz(**arrays), grey8, 5)


def test_damaged_archives(save_npz, grey8, images8, labels10, tmp_path):
    source = tmp_path / "heldout.npz"
    whole = np.random.default_rng(1).integers(0, 256, (200, 8, 8), dtype=np.uint8)
    save_npz(x=whole, y=np.zeros(200, int))
    data = source.read_bytes()
    source.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="damaged"):
        open_heldout(str(source), grey8, 5)
    source.write_bytes(data[:5000] + b"\xff" * 50 + data[5050:])
    with pytest.raises(DataError, match=r"heldout.npz\[x\] is damaged"):
        open_heldout(str(source), grey8, 5)
    source.write_bytes(b"PK not an archive at all")
    with pytest.raises(DataError, match="damaged"):
        open_heldout(str(source), grey8, 5)


@pytest.mark.parametrize("shape", ["(1099511627776, 8, 8)", "(3, 8, 8)", "(3, 1099511627776, 1)"])
def test_header_is_checked_against_the_bytes_present(grey8, tmp_path, shape):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    lying = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(2 * 64)
    np.savez(tmp_path / "a.npz", y=np.zeros(3, int))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("x.npy", lying)
    with pytest.raises(DataError, match=r"bytes of values but has 128|values; at most"):
        open_heldout(str(tmp_path / "a.npz"), grey8, 5)


def test_a_member_that_is_no_array(grey8, tmp_path):
    np.savez(tmp_path / "a.npz", y=np.zeros(3, int))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("x.npy", b"hello, this is text")
    with pytest.raises(DataError, match="is not a NumPy array"):
        open_heldout(str(tmp_path / "a.npz"), grey8, 5)


def test_memory_is_bounded_by_the_batch_not_the_file(save_npz, grey8):
    source = save_npz(x=np.zeros((20_000, 32, 32), np.uint8), y=np.zeros(20_000, np.uint8))  # 20 MB of rows
    tracemalloc.start()
    try:
        assert sum(len(labels) for _, labels in open_heldout(source, grey8, 5).batches(1000)) == 20_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6e6  # a few chunks of 1 MB


def test_options_that_mean_nothing_are_refused(save_npz, grey8, images8, labels10):
    with pytest.raises(UsageError, match="--label-column y does not apply"):
        open_heldout(save_npz(x=images8, y=labels10), grey8, 5, label_column="y")


@pytest.mark.parametrize(
    ("names", "labels", "expected", "note"),
    [
        ("123", [1, 2, 3, 1], [0, 1, 2, 0], None),
        ("123", [1, 2, 2, 1], [0, 1, 1, 0], r"read as the model's class names \(1, 2, 3\), not as indices"),
        ("210", [0, 2, 1, 1], [2, 0, 1, 1], "not as indices"),
        (("-1", "1"), [1.0, -1.0, 1.0, 1.0], [1, 0, 1, 1], None),
        (("01", "02", "03"), [3, 3, 1, 2], [2, 2, 0, 1], None),
        ("123", np.eye(3)[[1, 2, 0, 0]], [1, 2, 0, 0], None),
        ("123", [0, 1, 2, 0], [0, 1, 2, 0], r"read as indices: not all are among the class names \(1, 2, 3\)"),
        ("012", [2, 1, 0, 0], [2, 1, 0, 0], None),
        ("abc", [2, 1, 0, 0], [2, 1, 0, 0], None),
    ],
)
def test_labels_where_class_names_are_numbers(save_npz, read_all, names, labels, expected, note):
    source = save_npz(x=np.zeros((4, 2), np.float32), y=np.array(labels))
    spec = InputSpec(shape=(2,), range=None)
    heldout = open_heldout(source, spec, len(names), class_names=tuple(names))
    assert read_all(heldout)[1].tolist() == expected
    assert [bool(re.search(note or "as", text)) for text in heldout.notes if "read as" in text] == [True] * bool(note)


@pytest.mark.parametrize("largest", [1e300, 2.0**63])
def test_floats_too_large_for_an_index(save_npz, grey8, largest):
    source = save_npz(x=np.zeros((2, 8, 8), np.uint8), y=np.array([largest, 1.0]))
    with pytest.raises(DataError, match="is float64, not class indices"):  # without numpy's warning of the cast
        open_heldout(source, grey8, 5)


def test_text_of_more_digits_than_python_reads(save_npz, grey8):
    source = save_npz(x=np.zeros((2, 8, 8), np.uint8), y=np.array(["9" * 5000, "²"]))
    assert open_heldout(source, grey8, 2).samples == 2


@pytest.mark.parametrize(
    ("key", "kind", "shape", "message"),
    [
        ("x", "|u1", (3, 0), r"shape 3x0, whose rows hold nothing"),
        ("x", "|u1", (3, 0, 8), r"shape 3x0x8, whose rows hold nothing"),
        ("x", "|u1", (3, -8, -8), r"shape 3x-8x-8, whose rows hold nothing"),
        ("x", "|u1", (-3, -64), r"shape -3x-64, whose rows hold nothing"),
        ("x", "|V2", (3, 64), r"type \|V2, which are neither numbers nor texts"),
        ("y", "|S0", (3,), r"type \|S0, which are neither"),
        ("y", "<U0", (3,), r"type <U0, which are neither"),
        ("y", "(2,)<i4", (3,), r"type \|V8, which are neither"),
        ("y", [("a", "<i4")], (3, 5), r"type \|V4, which are neither"),
    ],
)
def test_headers_that_hold_no_plain_values(grey8, tmp_path, key, kind, shape, message):
    stream = BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    other = {"x": np.zeros(3, int), "y": np.zeros((3, 8, 8), np.uint8)}[key]
    np.savez(tmp_path / "a.npz", **{"y" if key == "x" else "x": other})
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr(f"{key}.npy", stream.getvalue() + bytes(192))
    with pytest.raises(DataError, match=message):
        open_heldout(str(tmp_path / "a.npz"), grey8, 5)
