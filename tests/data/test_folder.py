import numpy as np
import pytest
import torch
from PIL import Image

from cake_cli.data import open_heldout
from cake_cli.errors import DataError, UsageError
from cake_cli.spec import InputSpec


@pytest.fixture
def rgb4():
    return InputSpec(shape=(3, 4, 4), range=(0, 255))


def lay(root, names, per_class=2, size=(4, 4), mode="RGB", suffix=".png"):
    """Class folders whose pixels all hold 10 * the class's position in `names`, plus the picture's number."""
    for position, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            shade = 10 * position + number
            Image.new(mode, size, shade if mode == "L" else (shade,) * 3).save(root / name / f"{number}{suffix}")
    return root


def shades(heldout, read_all):
    rows, labels = read_all(heldout, batch_size=3)
    return rows[:, 0, 0, 0].tolist(), labels.tolist()


def test_sorted_folders_are_the_classes(tmp_path, rgb4, read_all):
    heldout = open_heldout(str(lay(tmp_path / "set", ["ant", "bee"])), rgb4, 2)
    assert (heldout.samples, heldout.class_names, heldout.notes) == (4, ("ant", "bee"), ())
    assert shades(heldout, read_all) == ([0, 1, 10, 11], [0, 0, 1, 1])


def test_splits_below(tmp_path, rgb4):
    for split, count in (("train", 1), ("val", 2), ("validation", 3)):
        lay(tmp_path / split, ["ant", "bee"], per_class=count)
    heldout = open_heldout(str(tmp_path), rgb4, 2)
    assert heldout.samples == 4
    assert "'val'" in heldout.notes[0]
    lay(tmp_path / "test", ["ant", "bee"], per_class=4)
    assert open_heldout(str(tmp_path), rgb4, 2).samples == 8
    assert open_heldout(str(tmp_path), rgb4, 2, split="train").samples == 2
    with pytest.raises(DataError, match=r"no folder 'trian'") as caught:
        open_heldout(str(tmp_path), rgb4, 2, split="trian")
    assert "'train'" in caught.value.fix


def test_train_alone_is_not_taken_for_a_class(tmp_path, rgb4):
    lay(tmp_path / "train", ["ant", "bee"])
    with pytest.raises(DataError, match="none of which is held out") as caught:
        open_heldout(str(tmp_path), rgb4, 2)
    assert caught.value.fix.startswith("--split train")


@pytest.mark.parametrize("names", [("train", "valid"), ("Train", "Test"), ("training", "testing")])
def test_splits_by_other_names_are_no_classes(tmp_path, rgb4, names):
    for name in names:
        lay(tmp_path / name, ["ant", "bee"])
    with pytest.raises(DataError, match="which are splits, not classes") as caught:
        open_heldout(str(tmp_path), rgb4, 2)
    assert caught.value.fix == "--split with one of those"
    assert open_heldout(str(tmp_path), rgb4, 2, split=names[1]).samples == 4


def test_a_split_without_labels_is_no_class_either(tmp_path, rgb4):
    lay(tmp_path / "train", ["ant", "bee"])
    lay(tmp_path, ["test"])
    with pytest.raises(DataError, match="which are splits, not classes"):
        open_heldout(str(tmp_path), rgb4, 2)


def test_a_class_may_be_called_test(tmp_path, rgb4, read_all):
    heldout = open_heldout(str(lay(tmp_path / "set", ["control", "test"])), rgb4, 2)
    assert (heldout.class_names, heldout.notes) == (("control", "test"), ())
    assert shades(heldout, read_all)[1] == [0, 0, 1, 1]


@pytest.mark.parametrize("suffix", [".gif", ".jfif", ".JPG"])
def test_pictures_as_browsers_save_them(tmp_path, rgb4, suffix):
    root = lay(tmp_path / "set", ["ant", "bee"])
    for picture in list(root.glob("*/0.png")):
        with Image.open(picture) as image:
            image.save(picture.with_suffix(suffix), format="GIF" if suffix == ".gif" else "JPEG")
    assert open_heldout(str(root), rgb4, 2, strict=True).samples == 6


def test_a_permutation_of_the_models_names_is_matched_by_name(tmp_path, rgb4, read_all):
    heldout = open_heldout(str(lay(tmp_path / "set", ["ant", "bee"])), rgb4, 2, class_names=("Bee", "ant"))
    assert heldout.class_names == ("Bee", "ant")
    assert shades(heldout, read_all) == ([0, 1, 10, 11], [1, 1, 0, 0])
    assert any("by name" in note for note in heldout.notes)


def test_folders_that_the_model_does_not_know_are_left_out(tmp_path, rgb4, read_all):
    heldout = open_heldout(str(lay(tmp_path / "set", ["ant", "bee", "cow"])), rgb4, 2, class_names=("cow", "ant"))
    assert shades(heldout, read_all) == ([0, 1, 20, 21], [1, 1, 0, 0])
    assert any("left out: bee" in note for note in heldout.notes)


def test_fewer_folders_than_classes_go_by_name(tmp_path, rgb4, read_all):
    heldout = open_heldout(str(lay(tmp_path / "set", ["cow"])), rgb4, 3, class_names=("ant", "bee", "cow"))
    assert shades(heldout, read_all)[1] == [2, 2]
    assert any("cover 1 of the model's 3" in note for note in heldout.notes)


def test_other_names_go_by_position_and_that_is_said(tmp_path, rgb4):
    heldout = open_heldout(str(lay(tmp_path / "set", ["ant", "bee"])), rgb4, 2, class_names=("ant", "wasp"))
    assert "'bee', in the model 'wasp'" in heldout.notes[0]
    assert "by position" in heldout.notes[0]


def test_classes_txt_gives_the_order(tmp_path, rgb4, read_all):
    lay(tmp_path / "test", ["ant", "bee"])
    (tmp_path / "classes.txt").write_text("bee\nant\n")
    heldout = open_heldout(str(tmp_path), rgb4, 2)
    assert heldout.class_names == ("bee", "ant")
    assert shades(heldout, read_all)[1] == [1, 1, 0, 0]
    (tmp_path / "classes.txt").write_text("bee\n")
    with pytest.raises(DataError, match="1 class names are stated"):
        open_heldout(str(tmp_path), rgb4, 2)


def test_class_map_mends_names(tmp_path, rgb4, read_all):
    source = str(lay(tmp_path / "set", ["ant", "bee"]))
    for names, renamed in ((("wasp", "ant"), {"bee": "wasp"}), (None, {"ant": "1", "bee": "0"})):
        heldout = open_heldout(source, rgb4, 2, class_names=names, class_map=renamed)
        assert shades(heldout, read_all)[1] == [1, 1, 0, 0]
    with pytest.raises(DataError, match="'bea', which is not among"):
        open_heldout(source, rgb4, 2, class_map={"bea": "0"})
    with pytest.raises(DataError, match="leaves open"):
        open_heldout(source, rgb4, 2, class_names=("wasp", "fly"), class_map={"bee": "wasp"})


def test_numbers_in_text_order_are_noted(tmp_path, rgb4):
    heldout = open_heldout(str(lay(tmp_path / "set", [str(i) for i in range(11)], per_class=1)), rgb4, 11)
    assert heldout.class_names[:3] == ("0", "1", "10")
    assert "order of text (0, 1, 10, 2" in heldout.notes[0]


def test_the_number_of_folders_must_be_the_number_of_classes(tmp_path, rgb4):
    source = str(lay(tmp_path / "set", ["ant", "bee"]))
    with pytest.raises(DataError, match=r"name 2 classes \(ant, bee\), the model has 3"):
        open_heldout(source, rgb4, 3)


def test_an_unreadable_image_is_named_and_counted_not_fatal(tmp_path, rgb4, read_all):
    root = lay(tmp_path / "set", ["ant", "bee"], per_class=3)
    (root / "ant" / "1.png").write_bytes(b"not a picture")
    whole = (root / "bee" / "2.png").read_bytes()
    (root / "bee" / "2.png").write_bytes(whole[:45])
    heldout = open_heldout(str(root), rgb4, 2)
    assert heldout.samples == 6
    for _ in range(2):
        assert shades(heldout, read_all) == ([0, 2, 10, 11], [0, 0, 1, 1])
        assert heldout.samples == 4
        assert len(heldout.notes) == 1
    assert heldout.notes[0].startswith("2 images could not be read and left out: ant/1.png (not an image), bee/2.png")


def test_nothing_readable_is_fatal(tmp_path, rgb4):
    root = lay(tmp_path / "set", ["ant", "bee"], per_class=1)
    for path in root.glob("*/*.png"):
        path.write_bytes(b"no")
    heldout = open_heldout(str(root), rgb4, 2)
    with pytest.raises(DataError, match="none of the images"):
        list(heldout.batches(2))


def test_a_decompression_bomb_is_left_out(tmp_path, rgb4, monkeypatch):
    root = lay(tmp_path / "set", ["ant", "bee"], per_class=1)
    Image.new("RGB", (40, 40)).save(root / "ant" / "big.png")
    for limit in (1000, 500):  # above the limit, and above twice the limit: two different paths in Pillow
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        heldout = open_heldout(str(root), rgb4, 2)
        assert sum(len(x) for x, _ in heldout.batches(8)) == 2
        assert f"ant/big.png (more than {limit:,} pixels)" in heldout.notes[0]


def test_resizing_and_grey_are_noted(tmp_path, rgb4, read_all):
    heldout = open_heldout(str(lay(tmp_path / "set", ["ant", "bee"], size=(6, 9), mode="L")), rgb4, 2)
    rows, _ = read_all(heldout)
    assert rows.shape == (4, 3, 4, 4)
    assert rows[3].unique().tolist() == [11]
    assert any("9x6" in note for note in heldout.notes)
    assert any("repeated" in note for note in heldout.notes)


@pytest.mark.parametrize("kind", ["palette", "transparent", "16-bit", "bilevel"])
def test_picture_modes(tmp_path, rgb4, read_all, kind):
    values = np.array([[0, 128], [200, 255]], dtype=np.uint8)
    wide = Image.fromarray(values.astype(np.uint16) * 257)
    picture = {
        "palette": Image.fromarray(values).convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE),
        "transparent": Image.merge("RGBA", [Image.fromarray(values)] * 4),
        "16-bit": wide,
        "bilevel": Image.fromarray(values > 127),
    }[kind]
    for name in ("ant", "bee"):
        (tmp_path / "set" / name).mkdir(parents=True)
        picture.save(tmp_path / "set" / name / "0.png")
    rows, _ = read_all(open_heldout(str(tmp_path / "set"), InputSpec(shape=(3, 2, 2), range=(0, 255)), 2))
    expected = (values > 127) * 255 if kind == "bilevel" else values
    assert torch.equal(rows[0, 0], torch.from_numpy(np.asarray(expected)).float())


def test_a_vector_model_takes_flattened_pictures(tmp_path, read_all):
    source = str(lay(tmp_path / "set", ["ant", "bee"]))
    assert read_all(open_heldout(source, InputSpec(shape=(48,)), 2))[0].shape == (4, 48)
    assert read_all(open_heldout(source, InputSpec(shape=(16,)), 2))[0].shape == (4, 16)
    with pytest.raises(DataError, match="vectors of 5"):
        open_heldout(source, InputSpec(shape=(5,)), 2)


def test_folders_without_classes(tmp_path, rgb4):
    with pytest.raises(DataError, match="empty of folders"):
        open_heldout(str(tmp_path), rgb4, 2)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="images but no labels"):
        open_heldout(str(tmp_path), rgb4, 2)
    for name in ("ant", "bee", ".hidden"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="has no images"):
        open_heldout(str(tmp_path), rgb4, 2)


def test_label_column_does_not_apply(tmp_path, rgb4):
    with pytest.raises(UsageError, match="--label-column"):
        open_heldout(str(tmp_path), rgb4, 2, label_column="y")


@pytest.mark.parametrize("target", ["../ant", "..", "/"])
def test_links_to_folders_are_not_followed(tmp_path, rgb4, read_all, target):
    root = lay(tmp_path / "set", ["ant", "bee"])
    for name in "xyz":
        (root / "ant" / name).symlink_to(target)
    heldout = open_heldout(str(root), rgb4, 2)
    assert heldout.notes == ("links to folders are not followed: ant/x, ant/y, ant/z",)
    assert shades(heldout, read_all) == ([0, 1, 10, 11], [0, 0, 1, 1])


def test_linked_class_folders_and_pictures_are_read(tmp_path, rgb4, read_all):
    stored = lay(tmp_path / "stored", ["ant", "bee"])
    (tmp_path / "set" / "bee" / "deep").mkdir(parents=True)
    (tmp_path / "set" / "ant").symlink_to(stored / "ant")
    (tmp_path / "set" / "bee" / "deep" / "0.PNG").symlink_to(stored / "bee" / "0.png")
    heldout = open_heldout(str(tmp_path / "set"), rgb4, 2)
    assert (shades(heldout, read_all), heldout.notes) == (([0, 1, 10], [0, 0, 1]), ())


def test_folders_named_by_digits_that_are_no_numbers(tmp_path, rgb4):
    assert open_heldout(str(lay(tmp_path / "set", ["²", "³"])), rgb4, 2).class_names == ("²", "³")
