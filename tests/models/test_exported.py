"""torch.export packages: shut without --trust, right with it."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cake_cli.cli import app
from cake_cli.config import TeacherConfig
from cake_cli.errors import ModelFileError
from cake_cli.models.loading import load_classifier
from tests.models.planted import Planted
from tests.models.torchscript.conftest import Small

TRUST = TeacherConfig(trust=True)
ROWS = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(3))


def export(path: Path, module: nn.Module, batch: int = 1, *, dynamic: bool = False) -> Path:
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (torch.zeros(batch, 1, 6, 6),), dynamic_shapes=shapes)
        torch.export.save(program, path)
    return path


@pytest.mark.parametrize(("batch", "dynamic", "way"), [(1, False, "vmap"), (2, True, "direct"), (4, False, "padded")])
def test_logits_and_gradient_are_the_modules(tmp_path: Path, batch: int, dynamic: bool, way: str) -> None:
    module = Small("softmax").eval()
    teacher = load_classifier(export(tmp_path / "model.pt2", module, batch, dynamic=dynamic), TRUST)
    assert (teacher.batching, teacher.output_kind, teacher.spec.shape) == (way, "probs", (1, 6, 6))
    ours, theirs = ROWS.clone().requires_grad_(), ROWS.clone().requires_grad_()
    teacher(ours).square().sum().backward()
    module.logits(theirs).square().sum().backward()
    torch.testing.assert_close(teacher(ROWS), module.logits(ROWS))
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_training_mode_is_undone(tmp_path: Path) -> None:
    module = Small().train()
    teacher = load_classifier(export(tmp_path / "model.pt2", module, 2, dynamic=True), TRUST)
    assert any("training mode: 2 layers" in mend for mend in teacher.mends)
    torch.testing.assert_close(teacher(ROWS), module.eval()(ROWS))


def test_several_inputs_are_refused(tmp_path: Path) -> None:
    class Sum(nn.Module):
        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            return first + second

    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(Sum(), (torch.zeros(1, 3), torch.zeros(1, 3))), path)
    with pytest.raises(ModelFileError, match="takes 2 inputs"):
        load_classifier(path, TRUST)


def test_without_trust_nothing_in_it_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = export(tmp_path / "model.pt2", Small().eval())
    planted = tmp_path / "planted.pt2"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(planted, "w") as target:
        for entry in source.infolist():
            payload = pickle.dumps(Planted(marker))
            target.writestr(entry, payload if "sample_inputs" in entry.filename else source.read(entry))
    with pytest.raises(ModelFileError, match=r"run code.*not loaded") as caught:
        load_classifier(planted)
    assert "--trust" in str(caught.value.fix)
    assert not marker.exists()


def test_native_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/archive_format", "pt2")
        archive.writestr("m/data/aotinductor/model/model.so", b"\x7fELF")
    with pytest.raises(ModelFileError, match="AOTInductor"):
        load_classifier(path, TRUST)


def test_a_damaged_package_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/archive_format", "pt2")
    with pytest.raises(ModelFileError, match=r"cannot be loaded as a torch\.export package"):
        load_classifier(path, TRUST)


class Ends(nn.Module):
    def __init__(self, end: str) -> None:
        super().__init__()
        self.end, self.body = end, nn.Sequential(nn.Flatten(), nn.Linear(36, 4))

    def forward(self, rows: Tensor) -> Tensor:
        logits = self.body(rows)
        return logits.softmax(0) if self.end == "batch" else logits.reshape(-1, 2, 2).softmax(-1).flatten(1)


def test_a_softmax_over_something_else_than_all_classes_stays(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Ends("pairs").eval()
    teacher = load_classifier(export(tmp_path / "model.pt2", module, 2, dynamic=True), TRUST)
    assert teacher.output_kind == "logits"
    torch.testing.assert_close(teacher(ROWS), module(ROWS))
    with pytest.raises(ModelFileError, match=r"other rows|depend"):
        load_classifier(export(tmp_path / "batch.pt2", Ends("batch").eval(), 2, dynamic=True), TRUST)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_computed_in_float32(tmp_path: Path, kind: torch.dtype) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 4)).to(kind).eval()
    program = torch.export.export(module, (torch.zeros(1, 1, 6, 6, dtype=kind),))
    torch.export.save(program, tmp_path / "model.pt2")
    teacher = load_classifier(tmp_path / "model.pt2", TRUST)
    assert "weights to float32" in teacher.mends
    torch.testing.assert_close(teacher(ROWS), module.float()(ROWS))


def test_a_convolution_without_padding_by_name_opens(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3, padding="valid"), nn.Flatten(), nn.Linear(32, 3)).eval()
    torch.testing.assert_close(
        load_classifier(export(tmp_path / "model.pt2", module), TRUST)(ROWS), module(ROWS), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("format", ["torchscript", "onnx", "pt2"])
def test_a_package_is_exported_again(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose layers are numbered, whose names in the graph were read as attributes."""
    monkeypatch.chdir(tmp_path)
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    export(tmp_path / "model.pt2", module, 2, dynamic=True)
    assert app.run(["export", "model.pt2", "--trust", "--to", format, "-o", "again"]) == 0
