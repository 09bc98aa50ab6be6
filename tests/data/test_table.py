import pytest
import torch

from cake_cli.data import open_heldout, texts
from cake_cli.errors import DataError, UsageError
from cake_cli.spec import InputSpec

IRIS = "length,width,kind\n5.1,3.5,setosa\n7.0,3.2,versicolor\n6.3,3.3,setosa\n"


@pytest.fixture
def spec():
    return InputSpec(shape=(2,), mean=(6.0, 3.0), std=(1.0, 0.5), range=None)


@pytest.fixture
def save(tmp_path):
    def write(text, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def test_the_last_column_is_the_label(save, spec, read_all):
    heldout = open_heldout(save(IRIS), spec, 2)
    rows, labels = read_all(heldout, batch_size=2)
    assert torch.allclose(rows, torch.tensor([[-0.9, 1.0], [1.0, 0.4], [0.3, 0.6]]))
    assert labels.tolist() == [0, 1, 0]
    assert (heldout.samples, heldout.class_names, heldout.notes) == (3, ("setosa", "versicolor"), ())


def test_names_of_the_model_give_the_order(save, spec, read_all):
    heldout = open_heldout(save(IRIS), spec, 3, class_names=("virginica", "versicolor", "setosa"))
    assert read_all(heldout)[1].tolist() == [2, 1, 2]


@pytest.mark.parametrize(
    "text", ["y;a;b\n1;2;3\n0;4;5\n", "y\ta\tb\n1\t2\t3\n0\t4\t5\n", "\ufeffy,a,b\r\n1,2,3\r\n\r\n0,4,5"]
)
def test_named_label_delimiters_and_byte_order_mark(save, spec, read_all, text):
    rows, labels = read_all(open_heldout(save(text), spec, 2, label_column="y"))
    assert labels.tolist() == [1, 0]
    assert torch.allclose(rows[0], torch.tensor([-4.0, 0.0]))


def test_without_a_header(save, spec, read_all):
    heldout = open_heldout(save("2,3,1\n4,5,0\n"), spec, 2)
    assert heldout.samples == 2
    assert "no header" in heldout.notes[0]
    assert read_all(open_heldout(save("1,2,3\n0,4,5\n"), spec, 2, label_column="0"))[1].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("5.1,3.5,setosa\n7.0,3.2,versicolor\n", 2),
        ("5.1,3.5,setosa\n", 1),
        ("0,1,kind\n7.0,3.2,setosa\n6.1,3.0,versicolor\n", 2),
        ("1,2,kind\n7.0,3.2,setosa\n6.1,3.0,versicolor\n", 2),
        ("10,20,label\n7.0,3.2,0\n6.1,3.0,1\n", 2),
    ],
)
def test_labels_that_are_text_are_not_taken_for_a_header(save, spec, read_all, text, rows):
    heldout = open_heldout(save(text), spec, rows)
    assert heldout.samples == rows == len(read_all(heldout)[1])
    assert ("no header" in "".join(heldout.notes)) == text.startswith("5.1")


def test_a_label_column_that_is_named_has_a_header(save, spec, read_all):
    heldout = open_heldout(save("10,kind,20\n7.0,setosa,3.2\n6.1,versicolor,3.0\n"), spec, 2, label_column="kind")
    assert read_all(heldout)[1].tolist() == [0, 1]
    first = open_heldout(save("setosa,7.0,3.2\nversicolor,6.1,3.0\n"), spec, 2, label_column="0")
    assert first.samples == 2


def test_images_as_rows(save, read_all):
    heldout = open_heldout(save("0,0.25,0.5,1,0\n"), InputSpec(shape=(1, 2, 2)), 2)
    assert read_all(heldout)[0].tolist() == [[[[0, 0.25], [0.5, 1.0]]]]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [("0,51,102,255", [0, 0.2, 0.4, 1]), ("0,51.5,102,255", None), ("0,5,10,16", None), ("0,-1,102,255", None)],
    ids=["bytes", "fractions", "few levels", "below 0"],
)
def test_whole_numbers_up_to_255_are_bytes_of_images(save, read_all, cells, expected):
    heldout = open_heldout(save(f"{cells},0\n{cells},1\n"), InputSpec(shape=(1, 2, 2), source="--mean"), 2)
    raw = [float(cell) for cell in cells.split(",")]
    assert read_all(heldout)[0][0].flatten().tolist() == pytest.approx(raw if expected is None else expected)
    assert any("read as bytes of images" in note for note in heldout.notes) == (expected is not None)
    assert any("lie outside the input range" in note for note in heldout.notes) == (expected is None)
    vector = open_heldout(save(f"{cells},0\n"), InputSpec(shape=(4,), range=None), 2)
    assert read_all(vector)[0].flatten().tolist() == raw


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,y\n1,2,0\n1,red,1\n", r"'red' in line 3, column 'b'"),
        ("a,b,y\n1,nan,0\n", r"'nan' in line 2, column 'b'"),
        ("a,b,y\n1,2\n", r"line 2 has 2 cells, the first has 3"),
        ("a,b,y\n1,2,\n", r"no label in line 2"),
        ("a,b,y\n", r"has no rows"),
        ("a\n1\n", r"no columns of features and label"),
        ("a,b,y\n1,2,7\n", r"column 'y' has labels from 7 to 7"),
        ("a,b,c,y\n1,2,3,0\n", r"3 values a row, the model takes 2$"),
        (b"a,b,y\n1,2,\xff\xfe\n", r"not UTF-8"),
        ("a,b,y\n1,2,x\n1,2,y\n1,2,z\n", r"name 3 classes \(x, y, z\), the model has 2"),
    ],
)
def test_malformed_tables(save, spec, text, message):
    with pytest.raises(DataError, match=message):
        open_heldout(save(text), spec, 2)


def test_the_column_blamed_is_counted_past_the_label(save, spec):
    with pytest.raises(DataError, match=r"'' in line 3, column 'b'"):
        open_heldout(save("y,a,b\n0,1,2\n1,2,\n"), spec, 2, label_column="y")


def test_a_label_column_that_is_not_there(save, spec):
    with pytest.raises(DataError, match="no column 'kin'") as caught:
        open_heldout(save(IRIS), spec, 2, label_column="kin")
    assert "'kind'" in caught.value.fix
    with pytest.raises(UsageError, match="--split"):
        open_heldout(save(IRIS), spec, 2, split="test")


@pytest.mark.parametrize("column", ["²", "9" * 5000, "-1", "3"])
def test_a_label_column_that_is_no_position(save, spec, column):
    with pytest.raises(DataError, match="no column"):
        open_heldout(save(IRIS), spec, 2, label_column=column)


def test_labels_that_are_no_names(save, spec, monkeypatch):
    with pytest.raises(DataError, match=r"column 'kind' are no names of classes: there is one of 1,001 characters"):
        open_heldout(save(IRIS + f"1,2,{'a' * 1001}\n"), spec, 2)
    monkeypatch.setattr(texts, "_MOST", 1)
    with pytest.raises(DataError, match="there is more than 1 different ones"):
        open_heldout(save(IRIS), spec, 2)


def test_numbers_of_the_models_classes(save, spec, read_all):
    heldout = open_heldout(save("a,b,y\n1,2,3\n1,2,1\n"), spec, 3, class_names=("1", "2", "3"))
    assert read_all(heldout)[1].tolist() == [2, 0]


def test_labels_are_matched_by_their_letters_before_they_are_numbers(save, spec, read_all):
    table = save("a,b,label\n1,2,01\n3,4,02\n")
    mapped = open_heldout(table, spec, 2, class_map={"01": "1", "02": "0"})
    assert read_all(mapped)[1].tolist() == [1, 0]
    for names in (("0.5", "1.0"), ("1e1", "2e0")):
        table = save(f"a,b,label\n1,2,{names[1]}\n3,4,{names[0]}\n")
        assert read_all(open_heldout(table, spec, 2, class_names=names))[1].tolist() == [1, 0]
