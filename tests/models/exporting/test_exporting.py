"""Students as files that others load: right at any batch, compared before they appear, and self-describing."""

from __future__ import annotations

import json
import logging
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from cake_cli.catalog import EXPORTS, ExportFormat
from cake_cli.config import TeacherConfig
from cake_cli.errors import RunError, UsageError
from cake_cli.models.architectures import build_student
from cake_cli.models.attached import ATTACHED
from cake_cli.models.classifier import Classifier
from cake_cli.models.exporting import Export, default_path, exporting, writing
from cake_cli.models.exporting.form import Form
from cake_cli.models.loading import load_classifier
from cake_cli.models.students import save_student
from cake_cli.spec import InputSpec

TRUST = TeacherConfig(trust=True)
NAMES = ("ant", "bee", "cow")


def student(folder: Path, architecture: str = "cnn", shape: tuple[int, ...] = (1, 8, 8), **spec: object) -> Path:
    """A student with lively batch statistics, of a teacher that takes values of 0 to 255."""
    torch.manual_seed(0)
    network = build_student(architecture, shape, 3).eval()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.8, 1.2)
    path = folder / "student.safetensors"
    stated = InputSpec(shape, (127.5,), (73.6,), (0.0, 255.0), **spec)
    save_student(path, network, architecture, spec=stated, classes=3, class_names=NAMES, teacher_sha256="f" * 64,
                 teacher_name="teacher.onnx")  # fmt: skip
    return path


def write(source: Path, format: ExportFormat, **options: object) -> exporting.ExportedFile:
    return Export(load_classifier(source), default_path(source, format), format, source=source, **options).write()


@pytest.mark.parametrize(
    ("architecture", "shape", "formats"),
    [
        ("cnn", (3, 8, 8), "onnx torchscript pt2"),
        ("cnn", (8, 8, 3), "torchscript"),
        ("lenet5-half", (1, 28, 28), "torchscript pt2"),
        ("linear", (4,), "onnx torchscript pt2"),
        ("mlp:8", (1, 4, 4), "torchscript pt2"),
        ("resnet4", (3, 8, 8), "onnx torchscript pt2"),
        ("vit:patch=2,dim=8,depth=1,heads=2", (1, 8, 8), "onnx torchscript pt2"),
        ("wrn-10-1", (1, 8, 8), "onnx"),
        ("squeezenet1_1", (1, 16, 16), "onnx"),
        ("timm:test_vit", (2, 32, 48), "onnx"),
    ],
    ids=lambda value: value if isinstance(value, str) else "x".join(map(str, value)),
)
def test_every_student_comes_back_the_same(tmp_path: Path, architecture: str, shape: tuple[int, ...], formats: str):
    if architecture.startswith("timm:"):
        pytest.importorskip("timm")
    source = student(tmp_path, architecture, shape)
    original = load_classifier(source)
    rows = torch.randn(4, *shape)
    for format in formats.split():
        file = write(source, format)
        assert file.path == str(source.with_suffix(EXPORTS[format]))
        assert file.largest_difference < 1e-5
        found = load_classifier(Path(file.path), TRUST)
        torch.testing.assert_close(found(rows), original(rows), atol=1e-5, rtol=1e-5)
        assert found.batching == "direct"
        assert (found.spec.shape, found.spec.mean, found.class_names) == (shape, original.spec.mean, NAMES)


@pytest.mark.parametrize("format", ["onnx", "torchscript", "pt2"])
def test_a_file_takes_what_the_teacher_took_and_can_end_in_probabilities(tmp_path: Path, format: ExportFormat):
    source = student(tmp_path, "mlp:8", (1, 4, 4), expects="raw")
    file = write(source, format, softmax=True)
    found, original = load_classifier(Path(file.path), TRUST), load_classifier(source)
    assert (found.spec.expects, found.spec.range, found.output_kind) == ("raw", (0.0, 255.0), "probs")
    normalised = torch.randn(5, 1, 4, 4)
    torch.testing.assert_close(found(normalised), original(normalised), atol=1e-5, rtol=1e-5)
    bytes_ = normalised * 73.6 + 127.5
    if format == "torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            told = torch.jit.load(file.path)(bytes_)
        torch.testing.assert_close(told, original(normalised).softmax(1), atol=1e-5, rtol=1e-5)


def test_onnx_says_what_it_is_and_nothing_of_this_machine(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    file = Path(write(student(tmp_path, "linear", (1, 2, 2)), "onnx", opset=18).path)
    assert capfd.readouterr() == ("", "")
    proto = onnx.load(file)
    onnx.checker.check_model(proto)
    assert proto.opset_import[0].version == 18
    texts = {entry.key: entry.value for entry in proto.metadata_props}
    assert "synthetic" in texts["cake.origin"] == proto.doc_string
    assert (texts["cake.teacher"], texts["cake.teacher_sha256"]) == ("teacher.onnx", "f" * 64)
    assert json.loads(texts["cake.class_names"]) == list(NAMES)
    assert json.loads(texts["cake.input"])["mean"] == [127.5]
    assert texts["cake.architecture"] == "linear"
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert b".py" not in file.read_bytes()
    assert str(Path.cwd()).encode() not in file.read_bytes()


@pytest.mark.parametrize("format", ["torchscript", "pt2"])
def test_archives_carry_the_same_texts(tmp_path: Path, format: ExportFormat):
    file = write(student(tmp_path, "linear", (4,)), format)
    with zipfile.ZipFile(file.path) as archive:
        entry = next(name for name in archive.namelist() if name.endswith(ATTACHED))
        texts = json.loads(archive.read(entry))
    assert "synthetic" in texts["cake.origin"]
    facts = load_classifier(Path(file.path), TRUST).facts
    assert {key: facts[key] for key in texts} == texts


def test_safetensors_is_a_copy(tmp_path: Path):
    source = student(tmp_path)
    original = load_classifier(source)
    target = tmp_path / "copy.safetensors"
    file = Export(original, target, "safetensors", source=source).write()
    assert target.read_bytes() == source.read_bytes()
    assert file.differences == {"cake": 0.0}


def test_what_differs_does_not_appear_and_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = student(tmp_path, "linear", (4,))
    target = tmp_path / "student.torchscript"
    target.write_text("mine")
    other = replace(load_classifier(source), module=build_student("linear", (4,), 3).eval())
    wrong = Form(other, softmax=False)
    monkeypatch.setattr(exporting, "write_torchscript", lambda form: writing.write_torchscript(wrong))
    with pytest.raises(RunError, match=r"its outputs in torch.jit differ by .* it is not kept"):
        write(source, "torchscript", force=True)
    assert target.read_text() == "mine"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["student.safetensors", "student.torchscript"]


def test_a_file_that_states_another_input_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = student(tmp_path, "linear", (4,))
    monkeypatch.setattr(writing, "_json", lambda form: "{}")
    with pytest.raises(RunError, match="cake does not read it back: an input of"):
        write(source, "torchscript")
    assert not default_path(source, "torchscript").exists()


class Branching(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return rows if rows.sum() > 0 else -rows


@pytest.mark.parametrize("format", ["pt2", "torchscript"])
def test_a_graph_that_cannot_be_written_is_told_in_a_sentence(tmp_path: Path, format: ExportFormat):
    model = Classifier(Branching(), InputSpec((3,), range=None), 3, "own.py", "0" * 64)
    with pytest.raises(RunError) as caught:
        Export(model, tmp_path / "own", format, source=tmp_path / "own.py").write()
    assert "\n" not in caught.value.what
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_says_that_it_was_not_trained_here(toy_teacher: Classifier, tmp_path: Path):
    file = Export(toy_teacher, tmp_path / "toy.torchscript", "torchscript", source=tmp_path / "toy.onnx").write()
    facts = load_classifier(Path(file.path)).facts
    assert facts["cake.origin"] == "converted from toy.onnx, not trained by cake"
    assert facts["cake.source_sha256"] == "0" * 64
    with pytest.raises(UsageError, match="no student of cake"):
        Export(toy_teacher, tmp_path / "toy.safetensors", "safetensors", source=tmp_path / "toy.onnx").write()


@pytest.mark.parametrize(
    ("format", "options", "said"),
    [
        ("onnx", {"opset": 13}, "opset 18 and later"),
        ("onnx", {"opset": 99}, "cannot write this network in opset 99"),
        ("pt2", {"opset": 20}, "--opset is for ONNX"),
        ("safetensors", {"softmax": True}, "have no outputs"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, format: ExportFormat, options: dict, said: str):
    source = student(tmp_path, "linear", (4,))
    with pytest.raises(UsageError, match=said):
        Export(load_classifier(source), tmp_path / "out", format, source=source, **options).write()
    assert not (tmp_path / "out").exists()


def test_weights_beyond_two_gibibytes_are_no_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writing, "LARGEST_ONNX", 10)
    with pytest.raises(UsageError, match="ends at 2 GiB"):
        write(student(tmp_path, "linear", (4,)), "onnx")


def test_logging_and_attention_are_left_as_they_were(tmp_path: Path):
    before = logging.root.manager.disable, torch.backends.mha.get_fastpath_enabled()
    write(student(tmp_path, "linear", (4,)), "pt2")
    assert (logging.root.manager.disable, torch.backends.mha.get_fastpath_enabled()) == before


def test_torchscript_cannot_be_exported_by_torch_export(tmp_path: Path):
    model = load_classifier(Path(write(student(tmp_path, "linear", (4,)), "torchscript").path))
    with pytest.raises(UsageError, match="is TorchScript"):
        Export(model, tmp_path / "out.onnx", "onnx", source=tmp_path / "student.torchscript").write()


class Attentive(nn.Module):
    """A transformer layer, which torch fuses for inference."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.layer(rows.flatten(2).transpose(1, 2)).mean(1))


@pytest.mark.parametrize("format", ["torchscript", "pt2"])
def test_attention_keeps_its_gradient(tmp_path: Path, format: ExportFormat):
    torch.manual_seed(0)
    module = Attentive().eval().requires_grad_(False)
    model = Classifier(module, InputSpec((8, 2, 2)), 3, "vit", "0" * 64)
    file = Export(model, tmp_path / "vit", format, source=tmp_path / "vit.onnx").write()
    found = load_classifier(Path(file.path), TRUST)
    assert any("gradient non-zero" in check for check in found.checks)
    assert not any("fused" in mend for mend in found.mends)
