"""TorchScript is code: what it would do is read before it is done."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from cake_cli.config import TeacherConfig
from cake_cli.errors import ModelFileError
from cake_cli.models.loading import load_classifier
from tests.models.planted import Planted
from tests.models.torchscript.conftest import Save, Small

SHAPE = TeacherConfig(input_shape=(1, 6, 6))


class Hides(nn.Module):
    """A submodule and a branch deep, a file is mapped into memory."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self.marker = marker

    def forward(self, rows: Tensor) -> Tensor:
        if rows.sum() > -1e30:
            rows = rows + torch.from_file(self.marker, True, 4).sum() * 0
        return rows


def test_a_graph_that_touches_files_is_refused_before_it_runs(save: Save, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = save(nn.Sequential(Hides(str(marker)), Small()).eval())
    with pytest.raises(ModelFileError, match=r"aten::from_file.* not run"):
        load_classifier(path, SHAPE)
    assert not marker.exists()


def test_modules_that_live_in_a_package_called_ops_are_no_operators(save: Save) -> None:
    torch.manual_seed(0)
    block = Conv2dNormActivation(1, 2, 3)
    path = save(nn.Sequential(block, nn.Flatten(), nn.Linear(72, 3)).eval(), torch.zeros(2, 1, 6, 6))
    with zipfile.ZipFile(path) as archive:
        assert any("torchvision/ops/misc" in name for name in archive.namelist())
    assert load_classifier(path).classes == 3


def test_a_graph_that_saves_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "saves.pt"
    script = f"""
def forward(self, rows: Tensor) -> Tensor:
    torch.save(rows, "{marker}")
    return rows.flatten(1)
"""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.ScriptModule()
        module.define(script)
        torch.jit.save(module, path)
    with pytest.raises(ModelFileError, match=r"aten::save.* not run"):
        load_classifier(path, SHAPE)
    assert not marker.exists()


def test_code_that_would_run_while_loading_keeps_the_file_shut(save: Save, tmp_path: Path) -> None:
    class Restores(nn.Module):
        def __init__(self, marker: str) -> None:
            super().__init__()
            self.marker = marker
            self.training = False

        @torch.jit.export
        def __getstate__(self) -> tuple[str, bool]:
            return (self.marker, self.training)

        @torch.jit.export
        def __setstate__(self, state: tuple[str, bool]) -> None:
            self.marker = state[0]
            self.training = state[1]
            torch.from_file(state[0], True, 4)

        def forward(self, rows: Tensor) -> Tensor:
            return rows.flatten(1)

    marker = tmp_path / "marker"
    path = save(Restores(str(marker)))
    with pytest.raises(ModelFileError, match=r"__setstate__.* not loaded"):
        load_classifier(path, SHAPE)
    assert not marker.exists()


def test_a_planted_pickle_in_the_archive_is_not_run(save: Save, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = save(Small().eval(), torch.zeros(1, 1, 6, 6))
    for record in ("data.pkl", "traced_inputs.pkl", "constants.pkl"):
        planted = tmp_path / f"planted-{record}.pt"
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(planted, "w") as target:
            for entry in source.infolist():
                payload = pickle.dumps(Planted(marker), protocol=2)
                target.writestr(entry, payload if entry.filename.endswith("/" + record) else source.read(entry))
        if record == "traced_inputs.pkl":  # it is read for its shape only
            assert load_classifier(planted, SHAPE).classes == 3
        else:
            with pytest.raises(ModelFileError):
                load_classifier(planted, SHAPE)
        assert not marker.exists()


def test_dynamic_int8_is_refused(save: Save) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 3)).eval(), {nn.Linear})
        path = save(quantised, torch.zeros(1, 4))
    with pytest.raises(ModelFileError, match="int8") as caught:
        load_classifier(path)
    assert "float model" in str(caught.value.fix)


def test_optimised_for_inference_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "optimised.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frozen = torch.jit.freeze(torch.jit.script(Small().eval()))
        torch.jit.save(torch.jit.optimize_for_inference(frozen), path)
    with pytest.raises(ModelFileError, match="optimi"):
        load_classifier(path, SHAPE)
