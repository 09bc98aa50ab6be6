"""State dicts as training scripts leave them; pickles stay shut."""

from __future__ import annotations

import argparse
import importlib
import runpy
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from cake_cli.errors import ModelFileError
from cake_cli.models.formats import sniff
from cake_cli.models.loading import load_classifier
from cake_cli.models.weights import read_weights
from tests.models.planted import Planted

STATE = nn.Linear(4, 3).state_dict()


def saved(path: Path, content: Any, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(("content", "mends"), [
    (STATE, 0),
    ({"state_dict": STATE, "epoch": 3}, 1),
    ({"model": STATE, "model_ema": {"weight": torch.zeros(1)}, "optimizer": {"lr": 0.1}}, 1),
    ({"model": {"state_dict": STATE}}, 1),
    ({f"module._orig_mod.{key}": value for key, value in STATE.items()}, 2),
    ({"state_dict": {f"model.{key}": value for key, value in STATE.items()}}, 2),
])  # fmt: skip
def test_weights_are_unwrapped_and_it_is_noted(tmp_path: Path, content: Any, mends: int, legacy: bool) -> None:
    weights = read_weights(sniff(saved(tmp_path / "w.pth", content, legacy=legacy)))
    assert list(weights.tensors) == ["weight", "bias"]
    assert weights.tensors["weight"].equal(STATE["weight"])
    assert (weights.parameters, len(weights.mends)) == (15, mends)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [STATE["weight"]], 5])
def test_what_holds_no_weights_is_told(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ModelFileError, match=r"holds no weights|not weights by name"):
        read_weights(sniff(saved(tmp_path / "w.pth", content)))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["state_dict", "hyper_parameters"])
def test_a_planted_pickle_is_not_run(tmp_path: Path, place: str, legacy: bool) -> None:
    marker = tmp_path / "marker"
    path = saved(tmp_path / "w.pt", {"weights": STATE, place: Planted(marker)}, legacy=legacy)
    with pytest.raises(ModelFileError, match=r"pickled Python objects.*not loaded") as caught:
        load_classifier(path)
    assert "state_dict()" in str(caught.value.fix)
    assert not marker.exists()


def test_a_pickled_module_is_named_and_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"torch\.nn\.modules\.linear\.Linear.*not loaded"):
        load_classifier(saved(tmp_path / "w.pt", nn.Linear(4, 3)))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_checkpoint_is_told(tmp_path: Path, legacy: bool) -> None:
    path = saved(tmp_path / "w.pt", STATE, legacy=legacy)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ModelFileError, match="damaged"):
        read_weights(sniff(path))


@pytest.mark.parametrize("change", [
    lambda raw: raw[:-8],
    lambda raw: raw.replace(b'"data_offsets":[0,48]', b'"data_offsets":[0,99]'),
    lambda raw: raw.replace(b'"shape":[3,4]', b'"shape":[9,9]'),
    lambda raw: (2**40).to_bytes(8, "little") + raw[8:],
    lambda raw: raw.replace(b'"F32"', b'"F99"'),
])  # fmt: skip
def test_a_safetensors_header_that_lies_is_refused(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"weight": STATE["weight"]}, path)
    changed = change(path.read_bytes())
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    with pytest.raises(ModelFileError, match=r"not a whole safetensors file|not a model file"):
        load_classifier(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_data_of_libraries_beside_the_weights_is_not_made(tmp_path: Path, legacy: bool) -> None:
    content = {
        "net": STATE,
        "accuracy": np.float64(98.5),
        "arguments": argparse.Namespace(lr=0.1),
        "folder": Path("runs"),
        "optimiser": torch.optim.Adam(nn.Linear(4, 3).parameters()),
    }
    weights = read_weights(sniff(saved(tmp_path / "w.pth", content, legacy=legacy)))
    assert weights.tensors["weight"].equal(STATE["weight"])
    assert "kinds of objects beside the weights not loaded" in weights.mends[-1]


@pytest.mark.parametrize("function", [exec, subprocess.Popen, importlib.import_module, runpy.run_path])
@pytest.mark.parametrize("legacy", [False, True])
def test_functions_of_the_standard_library_are_refused(tmp_path: Path, function: Any, legacy: bool) -> None:
    class Asks:
        def __reduce__(self) -> tuple[object, ...]:
            return (function, ("0",))

    path = saved(tmp_path / "w.pth", {"net": STATE, "more": Asks()}, legacy=legacy)
    with pytest.raises(ModelFileError, match=rf"{function.__name__}.*not loaded"):
        read_weights(sniff(path))


def test_a_function_of_a_library_is_never_called(tmp_path: Path) -> None:
    """Names of libraries of data are let through: not to what bears them, but to a stand-in."""
    marker = tmp_path / "marker"

    class Asks:
        def __reduce__(self) -> tuple[object, ...]:
            return (torch.save, (5, str(marker)))

    read_weights(sniff(saved(tmp_path / "w.pth", {"net": STATE, "more": Asks()})))
    assert not marker.exists()


@pytest.mark.parametrize("content", [
    {"state_dict": [STATE], "epoch": 3},
    {"my_model": STATE, "config": {"depth": 3}, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
    [STATE],
])  # fmt: skip
def test_weights_under_any_name_are_found(tmp_path: Path, content: Any) -> None:
    assert list(read_weights(sniff(saved(tmp_path / "w.pth", content))).tensors) == ["weight", "bias"]


def test_several_sets_of_weights_are_listed(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", {"generator": STATE, "critic": STATE})
    with pytest.raises(ModelFileError, match=r"several sets of weights \(generator, critic\)"):
        read_weights(sniff(path))


def test_tensors_without_floats_are_no_weights(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", {"x_train": torch.zeros(3, 4, dtype=torch.uint8)})
    with pytest.raises(ModelFileError, match="holds no weights, only tensors of uint8"):
        read_weights(sniff(path))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("names", [["weight"], ["weight_orig", "weight_mask"]])
def test_a_tensor_that_is_larger_than_its_numbers_is_refused(tmp_path: Path, names: list[str], legacy: bool) -> None:
    path = saved(tmp_path / "w.pth", dict.fromkeys(names, torch.zeros(1).expand(2**16, 2**16)), legacy=legacy)
    with pytest.raises(ModelFileError, match=rf"{names[0]} of 17,179,869,184 bytes as a view of 4; ") as caught:
        read_weights(sniff(path))
    assert "contiguous()" in str(caught.value.fix)


@pytest.mark.parametrize("legacy", [False, True])
def test_parts_of_larger_tensors_and_tied_ones_are_read(tmp_path: Path, legacy: bool) -> None:
    table = torch.randn(6, 4)
    content = {"part": table[2:4], "column": table[:, 1], "turned": table.T, "tied": table, "none": table[:0],
               "one": torch.zeros(3).expand(1, 3)}  # fmt: skip
    found = read_weights(sniff(saved(tmp_path / "w.pth", content, legacy=legacy))).tensors
    assert all(found[name].equal(tensor) for name, tensor in content.items())


def test_a_nested_tensor_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # told once in a process
        nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    with pytest.raises(ModelFileError, match="holds rows as a nested tensor"):
        read_weights(sniff(saved(tmp_path / "w.pth", STATE | {"rows": nested})))


def test_pruning_masks_are_multiplied_in(tmp_path: Path) -> None:
    layer = nn.Linear(4, 3)
    prune.l1_unstructured(layer, "weight", amount=0.5)
    weights = read_weights(sniff(saved(tmp_path / "w.pth", layer.state_dict())))
    assert weights.tensors["weight"].equal(layer.weight)
    assert set(weights.tensors) == {"weight", "bias"}
    assert weights.mends == ("pruning masks of 1 weights multiplied in",)
