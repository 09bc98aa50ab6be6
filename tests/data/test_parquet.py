import importlib
import json
from io import BytesIO

import pytest
from PIL import Image

from cake_cli.data import open_heldout, pictures, shards
from cake_cli.errors import DataError, EnvironmentFault
from cake_cli.spec import InputSpec

SPEC = InputSpec(shape=(3, 4, 4), range=(0, 255))


def encoded(shade):
    stream = BytesIO()
    Image.new("RGB", (4, 4), (shade,) * 3).save(stream, "png")
    return {"bytes": stream.getvalue(), "path": None}


def save(path, shades, labels, names=None, label="label"):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"image": [cell if isinstance(cell, dict) else encoded(cell) for cell in shades], label: labels})
    if names:
        features = {label: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return str(path)


def test_missing_pyarrow_names_the_extra(tmp_path, monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(shards, "import_module", absent)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and more")
    with pytest.raises(EnvironmentFault, match="needs pyarrow") as caught:
        open_heldout(str(tmp_path / "a.parquet"), SPEC, 2)
    assert caught.value.fix == "pip install 'cake-cli[parquet]'"
    monkeypatch.setattr(shards, "import_module", importlib.import_module)


def test_images_and_labels(tmp_path, read_all):
    heldout = open_heldout(save(tmp_path / "a.parquet", [5, 6, 7], [0, 1, 1], ["ant", "bee"]), SPEC, 2)
    rows, labels = read_all(heldout, batch_size=2)
    assert rows[:, 0, 0, 0].tolist() == [5, 6, 7]
    assert labels.tolist() == [0, 1, 1]
    assert heldout.class_names == ("ant", "bee")


def test_stated_names_are_matched_with_the_models(tmp_path, read_all):
    source = save(tmp_path / "a.parquet", [5, 6, 7], [0, 1, 2], ["ant", "bee", "cow"])
    heldout = open_heldout(source, SPEC, 2, class_names=("cow", "ant"))
    rows, labels = read_all(heldout)
    assert (rows[:, 0, 0, 0].tolist(), labels.tolist(), heldout.samples) == ([5, 7], [1, 0], 2)


def test_shards_of_a_split(tmp_path, read_all):
    (tmp_path / "data").mkdir()
    for number, name in enumerate(["test-00000-of-00002", "test-00001-of-00002", "train-00000-of-00001"]):
        save(tmp_path / "data" / f"{name}.parquet", [number, number], [0, 1])
    assert read_all(open_heldout(str(tmp_path), SPEC, 2))[0][:, 0, 0, 0].tolist() == [0, 0, 1, 1]
    assert open_heldout(str(tmp_path), SPEC, 2, split="train").samples == 2
    with pytest.raises(DataError, match="no parquet file of the split 'val'"):
        open_heldout(str(tmp_path), SPEC, 2, split="val")


def test_a_bad_cell_is_left_out(tmp_path):
    source = save(tmp_path / "a.parquet", [5, {"bytes": b"no", "path": None}], [0, 1])
    heldout = open_heldout(source, SPEC, 2)
    assert sum(len(x) for x, _ in heldout.batches(4)) == 1
    assert "a.parquet row 1 (not an image)" in heldout.notes[0]


def test_faults(tmp_path):
    source = save(tmp_path / "a.parquet", [5], [3])
    with pytest.raises(DataError, match="labels from 3 to 3"):
        open_heldout(source, SPEC, 2)
    with pytest.raises(DataError, match="no column 'kind'"):
        open_heldout(source, SPEC, 2, label_column="kind")
    with pytest.raises(DataError, match="has no labels: its columns are image, target"):
        open_heldout(save(tmp_path / "b.parquet", [5], [0], label="target"), SPEC, 2)
    assert open_heldout(str(tmp_path / "b.parquet"), SPEC, 2, label_column="target").samples == 1
    (tmp_path / "only").mkdir()
    save(tmp_path / "only" / "train-00000.parquet", [5], [0])
    with pytest.raises(DataError, match="training split alone"):
        open_heldout(str(tmp_path / "only"), SPEC, 2)
    (tmp_path / "c.parquet").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(DataError, match="not a parquet file, or damaged"):
        open_heldout(str(tmp_path / "c.parquet"), SPEC, 2)


@pytest.mark.parametrize(
    "kind",
    ["string", "large_string", "string_view", "binary", "large_binary", "dictionary", "large dictionary"],
)
def test_labels_of_text_as_writers_of_today_keep_them(tmp_path, read_all, kind):
    pa = pytest.importorskip("pyarrow")
    given = ["bee", "ant", "bee"]
    if kind.endswith("dictionary"):
        labels = pa.array(given, pa.large_string() if "large" in kind else pa.string()).dictionary_encode()
    else:
        labels = pa.array([text.encode() for text in given] if "binary" in kind else given, getattr(pa, kind)())
    heldout = open_heldout(save(tmp_path / "a.parquet", [5, 6, 7], labels), SPEC, 2)
    assert heldout.class_names == ("ant", "bee")
    assert read_all(heldout)[1].tolist() == [1, 0, 1]


def test_shards_of_texts_in_different_orders(tmp_path, read_all):
    save(tmp_path / "test-0.parquet", [5, 6], ["bee", "ant"])
    save(tmp_path / "test-1.parquet", [7, 8, 9], ["cow", "ant", "bee"])
    assert read_all(open_heldout(str(tmp_path), SPEC, 3))[1].tolist() == [1, 0, 2, 0, 1]


@pytest.mark.parametrize("kind", ["int64", "string"])
def test_no_rows(tmp_path, kind):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"image": pa.array([], pa.binary()), "label": pa.array([], getattr(pa, kind)())}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="has no images"):
        open_heldout(str(tmp_path / "a.parquet"), SPEC, 2, class_names=("ant", "bee"))


@pytest.mark.parametrize(("images", "labels"), [("image", "lab"), ("picture", "label")])
def test_every_shard_has_both_columns(tmp_path, images, labels):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    save(tmp_path / "test-0.parquet", [5, 6], [0, 1])
    pq.write_table(pa.table({images: [encoded(7)], labels: [0]}), tmp_path / "test-1.parquet")
    with pytest.raises(DataError, match=r"test-1\.parquet has no column '(image|label)'"):
        open_heldout(str(tmp_path), SPEC, 2)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([b"x"], [[0]], "column 'label' is list<.*>, not class indices or names"),
        ([b"x"], ["a" * 1001], "no names of classes: there is one of 1,001 characters"),
        ([[b"x"]], [0], "column 'image' is list<.*>, not encoded images"),
        (["x"], [0], "column 'image' is string, not encoded images"),
    ],
)
def test_columns_of_another_type(tmp_path, images, labels, message):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        open_heldout(str(tmp_path / "a.parquet"), SPEC, 2)


def test_images_that_unpack_without_end(tmp_path, monkeypatch):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"image": [encoded(5)] + [{"bytes": bytes(9_000), "path": None}] * 400, "label": [0] * 401})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    monkeypatch.setattr(shards, "MOST_UNPACKED", 3_000_000)
    heldout = open_heldout(str(tmp_path / "a.parquet"), SPEC, 2)
    with pytest.raises(DataError, match=r"would unpack from [\d,]+ to 3,\d{3},\d{3} bytes or more"):
        list(heldout.batches(64))
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    monkeypatch.setattr(shards, "_MOST_HELD", 1_000_000)
    with pytest.raises(DataError, match="would unpack from"):
        open_heldout(str(tmp_path / "a.parquet"), SPEC, 2)


def test_large_images_make_smaller_batches(tmp_path, monkeypatch):
    source = save(tmp_path / "a.parquet", range(5), [0, 1, 1, 0, 1])
    monkeypatch.setattr(pictures, "_MOST_HELD", 2 * len(encoded(0)["bytes"]))
    assert [len(rows) for rows, _ in open_heldout(source, SPEC, 2).batches(64)] == [2, 2, 1]


def test_labels_that_are_no_text(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"image": [b"x"], "label": ["damaged"]}), tmp_path / "a.parquet", compression="none")
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes().replace(b"damaged", b"dam\xffged"))
    with pytest.raises(DataError, match="is damaged"):
        open_heldout(str(tmp_path / "a.parquet"), SPEC, 2)
