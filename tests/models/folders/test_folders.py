"""Folders in the Hugging Face layouts, honest and hostile."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cake_cli.errors import EnvironmentFault, ModelFileError
from cake_cli.models.folders.contents import Contents
from cake_cli.models.folders.transformers import _spec
from cake_cli.models.loading import load_classifier
from tests.models.planted import Planted

MEAN, STD = [0.5, 0.4, 0.3], [0.25, 0.2, 0.1]
HALF = {"image_mean": [0.5], "image_std": [0.25]}


def write(folder: Path, name: str, content: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))


@pytest.fixture
def timm_folder(tmp_path: Path) -> Path:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    folder = tmp_path / "timm-model"
    table = {"input_size": [3, 32, 32], "mean": MEAN, "std": STD, "num_classes": 3}
    write(folder, "config.json", {
        "architecture": "resnet10t", "num_classes": 3, "label_names": ["a", "b", "c"], "pretrained_cfg": table,
        "model_args": {"num_classes": 3, "in_chans": 3},
    })  # fmt: skip
    save_file(timm.create_model("resnet10t", num_classes=3).state_dict(), folder / "model.safetensors")
    return folder


def edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    write(folder, "config.json", config | changes)


def test_a_timm_folder_brings_preprocessing_and_names(timm_folder: Path) -> None:
    import timm
    from safetensors.torch import load_file

    teacher = load_classifier(timm_folder)
    assert (list(teacher.spec.mean), list(teacher.spec.std), teacher.spec.shape) == (MEAN, STD, (3, 32, 32))
    assert (teacher.class_names, teacher.converter) == (("a", "b", "c"), "timm")
    assert "config.json" in teacher.spec.source
    network = timm.create_model("resnet10t", num_classes=3).eval()
    network.load_state_dict(load_file(timm_folder / "model.safetensors"))
    rows = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(teacher(rows), network(rows))


@pytest.mark.parametrize(("changes", "message"), [
    ({"architecture": "hf-hub:someone/model"}, "timm does not have"),
    ({"model_args": {"checkpoint_path": "/tmp/x.pth"}}, "may not say checkpoint_path"),
    ({"model_args": {"pretrained": True}}, "may not say pretrained"),
    ({"num_classes": 4}, "mismatched"),
    ({"pretrained_cfg": {"input_size": "large"}}, "does not describe a timm model"),
    ({"pretrained_cfg": {"input_size": [3, 32, 32], "mean": MEAN, "std": [0, 0.5, 0.5]}}, "--std must be positive"),
    ({"auto_map": {"AutoModel": "code.Model"}}, "own Python code"),
])  # fmt: skip
def test_a_timm_configuration_that_lies_is_refused(timm_folder: Path, changes: dict[str, Any], message: str) -> None:
    edit(timm_folder, **changes)
    with pytest.raises(ModelFileError, match=message):
        load_classifier(timm_folder)


def test_the_extras_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for library, config in (("timm", {"architecture": "resnet18"}), ("transformers", {"model_type": "vit"})):
        monkeypatch.setitem(sys.modules, library, None)
        write(tmp_path / library, "config.json", config)
        save_file({"w": torch.zeros(1)}, tmp_path / library / "model.safetensors")
        with pytest.raises(EnvironmentFault) as caught:
            load_classifier(tmp_path / library)
        assert caught.value.fix == f"pip install 'cake-cli[{library}]'"


@pytest.mark.filterwarnings("ignore")
def test_a_transformers_folder_brings_preprocessing_and_names(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        id2label={0: "cat", 1: "dog", 2: "cow"}, label2id={"cat": 0, "dog": 1, "cow": 2},
    )  # fmt: skip
    network = transformers.ViTForImageClassification(config).eval()
    folder = tmp_path / "vit"
    network.save_pretrained(folder)
    write(folder, "preprocessor_config.json", {"image_mean": MEAN, "image_std": STD, "do_normalize": True})
    teacher = load_classifier(folder)
    assert (teacher.class_names, teacher.spec.source) == (("cat", "dog", "cow"), "preprocessor_config.json")
    assert (list(teacher.spec.mean), teacher.spec.shape) == (MEAN, (3, 16, 16))
    rows = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(teacher(rows), network(pixel_values=rows).logits)
    edit(folder, id2label={str(index): str(index) for index in range(5)})
    with pytest.raises(ModelFileError, match=r"do not fit|does not open"):
        load_classifier(folder)


@pytest.mark.parametrize(("said", "mean", "std", "shape"), [
    ({"image_mean": [0.5], "image_std": [0.25]}, 0.5, 0.25, (3, 8, 8)),
    ({"image_mean": [0.5], "image_std": [0.25], "do_normalize": False}, 0.0, 1.0, (3, 8, 8)),
    ({"image_mean": [127.5], "image_std": [255.0], "do_rescale": False}, 0.5, 1.0, (3, 8, 8)),
    ({"image_mean": [1.0], "image_std": [1.0], "rescale_factor": 2 / 255}, 0.5, 0.5, (3, 8, 8)),
    (HALF | {"rescale_factor": 2 / 255, "rescale_offset": True}, 0.75, 0.125, (3, 8, 8)),
    (HALF | {"include_top": True}, 0.5, 0.0625, (3, 8, 8)),
    (HALF | {"image_processor_type": "EfficientNetImageProcessor"}, 0.5, 0.0625, (3, 8, 8)),
    (HALF | {"do_flip_channel_order": True}, 0.0, 1.0, (3, 8, 8)),
    (HALF | {"image_processor_type": "MobileViTImageProcessor"}, 0.0, 1.0, (3, 8, 8)),
])  # fmt: skip
def test_preprocessing_is_put_in_our_terms(said: dict, mean: float, std: float, shape: tuple[int, ...]) -> None:
    spec = _spec(Contents(Path(), {"image_size": 8}, said, ()))
    assert (spec.mean[0], spec.std[0]) == pytest.approx((mean, std))
    assert spec.shape == shape


def test_the_size_may_stand_with_the_preprocessing() -> None:
    said = {"size": {"shortest_edge": 9}, "crop_size": {"height": 6, "width": 7}, "do_center_crop": True}
    assert _spec(Contents(Path(), {}, said, ())).shape == (3, 6, 7)
    with pytest.raises(ModelFileError, match="does not state its input"):
        _spec(Contents(Path(), {}, {"image_mean": [0.5], "image_std": [1.0]}, ()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["MobileViT", "EfficientNet"])
def test_a_picture_reaches_the_network_as_its_own_processor_brings_it(tmp_path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_sizes": [8, 8, 8], "neck_hidden_sizes": [4, 4, 4, 4, 8, 8, 8], "num_attention_heads": 2}
    sizes = sizes if name == "MobileViT" else {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128}
    config = getattr(transformers, f"{name}Config")(image_size=64, num_labels=3, **sizes)
    network = getattr(transformers, f"{name}ForImageClassification")(config).eval()
    for layer in network.modules():  # as they are drawn, next to nothing comes through
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.kaiming_normal_(layer.weight)
    network.save_pretrained(tmp_path / "model")
    side = {"height": 64, "width": 64}
    given = {"size": {"shortest_edge": 64} if name == "MobileViT" else side, "crop_size": side}
    processor = getattr(transformers, f"{name}ImageProcessor")(**given)
    processor.save_pretrained(tmp_path / "model")
    picture = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    theirs = network(**processor(picture, return_tensors="pt")).logits
    teacher = load_classifier(tmp_path / "model")
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (teacher.spec.mean, teacher.spec.std))
    ours = teacher((picture[None] / 255 - mean) / std)
    largest = theirs.abs().max()
    torch.testing.assert_close(ours / largest, theirs / largest, atol=1e-3, rtol=0)


def test_a_pickle_in_the_folder_stays_shut(tmp_path: Path) -> None:
    marker, folder = tmp_path / "marker", tmp_path / "model"
    write(folder, "config.json", {"model_type": "vit", "architectures": ["ViTForImageClassification"]})
    torch.save({"weights": Planted(marker)}, folder / "pytorch_model.bin")
    with pytest.raises(ModelFileError, match=r"as a pickle \(pytorch_model.bin\).*not loaded") as caught:
        load_classifier(folder)
    assert "safe_serialization" in str(caught.value.fix)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/outside.safetensors", "sub/x.safetensors", "x.bin"])
def test_an_index_cannot_name_files_elsewhere(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    save_file({"w": torch.zeros(1)}, tmp_path / "outside.safetensors")
    write(folder, "config.json", {"model_type": "vit"})
    write(folder, "model.safetensors.index.json", {"weight_map": {"w": name}})
    with pytest.raises(ModelFileError, match="no file of its folder"):
        load_classifier(folder)


@pytest.mark.parametrize("linked", ["model.safetensors", "config.json"])
def test_a_link_cannot_lead_out_of_the_folder(tmp_path: Path, linked: str) -> None:
    folder = tmp_path / "model"
    write(folder, "config.json", {"model_type": "vit"})
    save_file({"w": torch.zeros(1)}, folder / "model.safetensors")
    (folder / linked).rename(tmp_path / linked)
    (folder / linked).symlink_to(tmp_path / linked)
    with pytest.raises(ModelFileError, match="leads out of its folder"):
        load_classifier(folder)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("config.json", "{", "not readable as JSON"),
    ("config.json", "[]", "not a JSON object"),
    ("config.json", "{}", "has a config.json, but no"),
])  # fmt: skip
def test_a_damaged_folder_is_told(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ModelFileError, match=message):
        load_classifier(tmp_path)
