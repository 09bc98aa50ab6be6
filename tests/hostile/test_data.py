"""Held-out sets that mean harm, and configurations of odd types."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.hostile.conftest import Meet
from tests.hostile.forking import Ended

RED = "\x1b[31mred\x1b[2J"


def npy(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    """The head of an array that says it has a shape."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def archive(file: Path, packing: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Path:
    with zipfile.ZipFile(file, "w", packing, compresslevel=1) as written:
        for name, content in members.items():
            written.writestr(f"{name}.npy", content)
    return file


LABELS = npy((12,)) + bytes(12)


def lies_of_rows(file: Path) -> None:
    archive(file, x=npy((2**40, 4, 4)) + bytes(192), y=npy((2**40,)) + bytes(12))


def wide_row(file: Path) -> None:
    archive(file, x=npy((12, 2**20, 2**20)) + bytes(192), y=LABELS)


def unpacks(file: Path) -> None:
    """Two gigabytes of zeros, or so it says, in two megabytes."""
    archive(file, x=npy((2**27, 4, 4)) + bytes(2**21), y=npy((2**27,)) + bytes(12))


def more_than_it_says(file: Path) -> None:
    archive(file, x=npy((12, 4, 4)) + bytes(2**28), y=LABELS)


def objects(file: Path) -> None:
    archive(file, x=npy((12,), "|O") + b"\x80\x04.", y=LABELS)


def odd_header(file: Path) -> None:
    archive(file, x=b"\x93NUMPY\x01\x00\x00\x10" + b"(" * 4096, y=LABELS)


def strange_packing(file: Path) -> None:
    archive(file, zipfile.ZIP_BZIP2, x=npy((12, 4, 4)) + bytes(192), y=LABELS)


def zip64_lie(file: Path) -> None:
    """A directory that says that it begins at the end of a file of 2^63 bytes."""
    archive(file, x=npy((12, 4, 4)) + bytes(192), y=LABELS)
    content = bytearray(file.read_bytes())
    end = content.rfind(b"PK\x05\x06")
    record = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, 2**62, 2**62)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    content[end + 8 : end + 20] = b"\xff" * 12
    file.write_bytes(bytes(content[:end]) + record + locator + bytes(content[end:]))


@pytest.mark.parametrize(
    "make", [lies_of_rows, wide_row, unpacks, more_than_it_says, objects, odd_header, strange_packing, zip64_lie]
)
def test_an_npz_that_means_harm(refused: Meet, tmp_path: Path, seeds: Path, make: Callable[[Path], None]):
    make(tmp_path / "heldout.npz")
    refused(4, "evaluate", seeds / "student.safetensors", "--data", tmp_path / "heldout.npz")


def idx(folder: Path, rows: int, content: bytes, *, packed: bool = False) -> Path:
    head = struct.pack(">BBBB3I", 0, 0, 8, 3, rows, 4, 4), struct.pack(">BBBBI", 0, 0, 8, 1, rows)
    pack, suffix = (gzip.compress, ".gz") if packed else (bytes, "")
    (folder / f"t10k-images-idx3-ubyte{suffix}").write_bytes(pack(head[0] + content))
    (folder / f"t10k-labels-idx1-ubyte{suffix}").write_bytes(pack(head[1] + content[: len(content) // 16]))
    return folder


@pytest.mark.parametrize(
    ("rows", "content", "packed"),
    [(2**31, bytes(192), False), (2**27, bytes(192), True), (12, bytes(2**27), True)],
    ids=["two billion rows", "a lie in gzip", "a gzip bomb"],
)
def test_an_idx_that_means_harm(refused: Meet, tmp_path: Path, seeds: Path, rows: int, content: bytes, packed: bool):
    refused(4, "evaluate", seeds / "student.safetensors", "--data", idx(tmp_path, rows, content, packed=packed))


def png(width: int, height: int) -> bytes:
    """A picture of nothing that says it is large."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(4096))) + chunk(b"IEND", b"")
    )


POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n(executed) (w) file closefile\nshowpage\n%%EOF\n"
)
PICTURES = {"bomb": png(20_000, 20_000), "giant": png(2**31 - 1, 2**31 - 1), "postscript": POSTSCRIPT, "text": b"hello"}


def test_pictures_that_mean_harm_are_left_out(run: Callable[..., Ended], tmp_path: Path, seeds: Path):
    for index, label in enumerate("abc"):
        (tmp_path / "set" / label).mkdir(parents=True)
        Image.new("L", (4, 4), index).save(tmp_path / "set" / label / "sound.png")
    for name, content in PICTURES.items():
        (tmp_path / "set" / "a" / f"{name}\x1b[31m.png").write_bytes(content)
    os.mkfifo(tmp_path / "set" / "b" / "pipe.png")
    (tmp_path / "set" / "c" / "device.png").symlink_to("/dev/zero")
    command = ["evaluate", seeds / "student.safetensors", "--data", tmp_path / "set"]
    ended = run(*command, "--json")
    assert ended.code == 0
    assert b"6 images could not be read" in ended.out
    assert run(*command, "--strict").code == 4


def test_a_folder_of_escapes(refused: Meet, tmp_path: Path, seeds: Path):
    for label in (RED, "b", "\x9b2J", "\u202etxt"):
        (tmp_path / "set" / label).mkdir(parents=True)
    refused(4, "evaluate", seeds / "student.safetensors", "--data", tmp_path / "set")


TABLES = {
    "nothing but quotes": '"' * 300_000,
    "no end of cells": "1," * 200_000 + "\n",
    "escapes": f"{RED},{RED}\n{RED},{RED}\n",
    "nul": "a,b\n\0,\0\n",
    "infinite": ",".join(["inf"] * 17) + "\n",
    "long numbers": ",".join(["9" * 5000] * 17) + "\n",
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_that_means_harm(refused: Meet, tmp_path: Path, seeds: Path, kind: str):
    (tmp_path / "table.csv").write_text(TABLES[kind])
    refused(4, "evaluate", seeds / "student.safetensors", "--data", tmp_path / "table.csv")


def test_a_parquet_file_of_more_labels_than_memory_holds(refused: Meet, tmp_path: Path, seeds: Path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    block = pyarrow.table({"image": pyarrow.nulls(2**22, pyarrow.binary()), "label": np.zeros(2**22, np.int64)})
    with parquet.ParquetWriter(tmp_path / "a.parquet", block.schema) as writer:
        for _ in range(33):
            writer.write_table(block)
    said = refused(4, "evaluate", seeds / "student.safetensors", "--data", tmp_path / "a.parquet")
    assert "138,412,032 rows" in said


@pytest.mark.parametrize("column", ["image", "label"])
def test_a_parquet_file_of_a_dictionary_that_unpacks(refused: Meet, tmp_path: Path, seeds: Path, column: str):
    """A few kilobytes, of which each row takes 16 MiB, or 40 kB; written without the types that Arrow would restore."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    zeros = np.zeros(256 if column == "image" else 300_000, np.int32)
    columns = {"image": pyarrow.array([b"x"] * len(zeros)), "label": pyarrow.array(zeros)}
    texts = pyarrow.array([bytes(2**24)] if column == "image" else ["a" * 40_000])
    columns[column] = pyarrow.DictionaryArray.from_arrays(pyarrow.array(zeros), texts)
    table = pyarrow.table(columns)
    limit = {"dictionary_pagesize_limit": 2**30, "compression": "zstd", "store_schema": False}
    parquet.write_table(table, tmp_path / "a.parquet", **limit)
    refused(4, "evaluate", seeds / "student.safetensors", "--data", tmp_path / "a.parquet")


def test_a_folder_that_goes_round_in_circles(run: Callable[..., Ended], tmp_path: Path, seeds: Path):
    for label in "abc":
        (tmp_path / "set" / label).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / "set" / label / "sound.png")
    for name in ("first", "second", "third"):
        (tmp_path / "set" / "a" / name).symlink_to("../a")
    ended = run("evaluate", seeds / "student.safetensors", "--data", tmp_path / "set", "--json")
    assert ended.code == 0
    assert b"links to folders are not followed" in ended.out


CONFIGURATIONS = {
    "deep": "a = " + "[" * 100_000,
    "a date": "[synthesis]\nsamples = 2020-01-01\n",
    "not a number": "[training]\nlr = nan\n",
    "infinite": "[training]\nlr = inf\n",
    "beyond all": f"[synthesis]\nsamples = {'9' * 5000}\n",
    "a table for a number": "[synthesis.samples]\na = 1\n",
    "a list of tables": "[[synthesis]]\nsamples = 3\n",
    "a number for a table": "synthesis = 3\n",
    "an escape": '[student]\narchitecture = "\\u001b[31mred"\n',
    "an absurd count": "[synthesis]\nsamples = 9223372036854775807\n",
    "absurd sets": "[synthesis]\nset_size = 9223372036854775807\n",
    "a negative count": "[synthesis]\nsteps = -1\n",
    "latin": "[student]\narchitecture = '\xe9'\n",
}


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_a_configuration_of_odd_types(run: Callable[..., Ended], tmp_path: Path, seeds: Path, kind: str):
    (tmp_path / "config.toml").write_text(CONFIGURATIONS[kind], encoding="latin-1")
    given = [] if "student" in CONFIGURATIONS[kind] else ["--student", "mlp:4"]
    ended = run("distill", seeds / "teacher.onnx", *given, "--config", tmp_path / "config.toml", "--dry-run")
    assert ended.code == 2, ended.err
