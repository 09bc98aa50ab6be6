"""TorchScript teachers give the numbers and the gradients of the module that they were made from."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cake_cli.config import TeacherConfig
from cake_cli.errors import ModelFileError
from cake_cli.models.loading import load_classifier
from cake_cli.models.torchscript.records import read_extra, traced_shape
from tests.conftest import ROOT
from tests.models.planted import Planted
from tests.models.torchscript.conftest import Save, Small

SHARED = ROOT.parent / "shared" / "models"
EXAMPLE = torch.zeros(2, 1, 6, 6)
SHAPE = TeacherConfig(input_shape=(1, 6, 6))
ROWS = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("way", ["scripted", "traced", "frozen"])
def test_logits_and_gradient_are_the_modules(save: Save, way: str) -> None:
    module = Small().eval()
    path = save(module, EXAMPLE if way == "traced" else None, frozen=way == "frozen")
    teacher = load_classifier(path, SHAPE)
    ours, theirs = ROWS.clone().requires_grad_(), ROWS.clone().requires_grad_()
    teacher(ours).square().sum().backward()
    module(theirs).square().sum().backward()
    torch.testing.assert_close(teacher(ROWS), module(ROWS))
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert (teacher.batching, teacher.converter, teacher.output_kind) == ("direct", "torchscript", "logits")
    assert "graph is run" in teacher.facts["format"]


@pytest.mark.parametrize(("tail", "kind"), [("softmax", "probs"), ("log_softmax", "log-probs"), ("sigmoid", "sigmoid")])
@pytest.mark.parametrize("traced", [True, False])
def test_the_tail_is_taken_off_exactly(save: Save, tail: str, kind: str, traced: bool) -> None:
    module = Small(tail).eval()
    teacher = load_classifier(save(module, EXAMPLE if traced else None), SHAPE)
    assert teacher.output_kind == kind
    torch.testing.assert_close(teacher(ROWS), module.logits(ROWS))


def test_training_mode_is_undone_and_noted(save: Save) -> None:
    module = Small()
    teacher = load_classifier(save(module), SHAPE)
    assert any("training mode" in mend for mend in teacher.mends)
    torch.testing.assert_close(teacher(ROWS), module.eval()(ROWS))


def test_training_mode_that_a_trace_bakes_in_is_undone(save: Save) -> None:
    module = Small().train()
    state = {key: value.clone() for key, value in module.state_dict().items()}
    path = save(module, EXAMPLE)
    module.load_state_dict(state)
    teacher = load_classifier(path)
    assert any("traced in training mode: 2 layers" in mend for mend in teacher.mends)
    assert teacher(ROWS).equal(teacher(ROWS))
    assert teacher.batching == "direct"


def test_a_trace_keeps_the_shape_of_its_example(save: Save) -> None:
    path = save(Small().eval(), torch.zeros(1, 1, 6, 6))
    assert traced_shape(path) == (1, 1, 6, 6)
    teacher = load_classifier(path)
    assert (teacher.spec.shape, teacher.facts["input from"]) == ((1, 6, 6), "the example it was traced with")


def test_a_first_linear_layer_says_how_many_values(save: Save) -> None:
    network = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 2)).eval()
    assert load_classifier(save(network)).spec.shape == (7,)


def test_an_input_that_nobody_states_is_asked_for(save: Save) -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(1, 2, 1, stride=4)
            self.head = nn.Linear(98, 3)

        def forward(self, rows: Tensor) -> Tensor:
            return self.head(self.convolution(rows).view(-1, 98))

    path = save(Views().eval())
    with pytest.raises(ModelFileError, match="of the sizes tried it runs on 28 pixels") as caught:
        load_classifier(path)
    assert caught.value.fix == "--input-shape 1,28,28"
    with pytest.raises(ModelFileError, match="has shape"):  # 56 pixels are four rows for it
        load_classifier(path, TeacherConfig(input_shape=(1, 56, 56)))


class Unbatched(nn.Module):
    """(1, 6, 6) to (3,), without a batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Small().eval()

    def forward(self, row: Tensor) -> Tensor:
        return self.inner(row.unsqueeze(0)).squeeze(0)


def test_no_batch_axis_is_found_by_trying(save: Save) -> None:
    teacher = load_classifier(save(Unbatched().eval(), torch.zeros(1, 6, 6)))
    assert teacher.batching == "vmap"
    torch.testing.assert_close(teacher(ROWS), Small().eval()(ROWS))


def test_a_fixed_batch_is_mapped_or_filled_up(save: Save) -> None:
    class Fixed(nn.Module):
        def __init__(self, batch: int) -> None:
            super().__init__()
            self.inner, self.batch = Small().eval(), batch

        def forward(self, rows: Tensor) -> Tensor:
            return self.inner(rows.reshape(self.batch, 1, 6, 6))

    for batch, way in ((1, "vmap"), (2, "padded"), (4, "padded")):
        path = save(Fixed(batch).eval(), torch.zeros(batch, 1, 6, 6))
        for settings in (TeacherConfig(), TeacherConfig(input_shape=(1, 6, 6))):
            teacher = load_classifier(path, settings)
            assert teacher.batching == way
            torch.testing.assert_close(teacher(ROWS), Small().eval()(ROWS))
    with pytest.raises(ModelFileError, match=r"1x5x5: it fails at .*reshape"):
        load_classifier(path, TeacherConfig(input_shape=(1, 5, 5)))


@pytest.mark.parametrize("norm_first", [True, False])
def test_fused_attention_gets_its_derivative(save: Save, norm_first: bool) -> None:
    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first, activation="gelu")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, rows: Tensor) -> Tensor:
            tokens = self.encoder(rows.flatten(1).unflatten(1, (4, 8)))
            mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
            return self.head(mixed.mean(1))

    module = Transformer().eval()
    teacher = load_classifier(save(module, torch.zeros(1, 1, 4, 8)))
    assert any("fused attention" in mend for mend in teacher.mends)
    ours = torch.randn(3, 1, 4, 8, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    teacher(ours).square().sum().backward()
    module(theirs).square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_several_outputs_are_chosen_by_name(save: Save) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Small().eval()

        def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
            scores = self.inner(rows)
            return scores, scores * 2

    path = save(Two().eval(), EXAMPLE)
    with pytest.raises(ModelFileError, match=r"has 2 outputs: 0 .*, 1 "):
        load_classifier(path)
    teacher = load_classifier(path, TeacherConfig(output="1"))
    torch.testing.assert_close(teacher(ROWS), 2 * Small().eval()(ROWS))


needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared model files are not here")


@needs_shared
@pytest.mark.parametrize(("name", "shape", "batching", "classes"), [
    ("handwritten_digit.pt", (1, 28, 28), "direct", 10),
    ("asl_qmodel.pt", None, "vmap", 29),
])  # fmt: skip
def test_real_files_open(name: str, shape: tuple[int, ...] | None, batching: str, classes: int) -> None:
    teacher = load_classifier(SHARED / name, TeacherConfig(input_shape=shape))
    assert (teacher.batching, teacher.classes) == (batching, classes)


@needs_shared
def test_a_real_int8_file_is_refused_before_it_is_loaded(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelFileError, match="quantised to int8"):
        load_classifier(Path(SHARED / "vit4mnist.ptl"), TeacherConfig(input_shape=(1, 28, 28)))
    assert capfd.readouterr().err == ""


@needs_shared
def test_a_real_size_trap_is_refused() -> None:
    with pytest.raises(ModelFileError, match="1x56x56"):
        load_classifier(SHARED / "handwritten_digit.pt", TeacherConfig(input_shape=(1, 56, 56)))


class Bakes(nn.Module):
    """Makes a tensor on the device of its input: a trace writes that device down."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Small().eval()

    def forward(self, rows: Tensor) -> Tensor:
        return self.inner(rows) + torch.ones(3, device=rows.device)


def test_a_device_that_a_trace_bakes_in_is_freed(save: Save) -> None:
    path = save(Bakes().eval(), EXAMPLE)
    teacher = load_classifier(path)
    assert any("device" in mend for mend in teacher.mends)
    torch.testing.assert_close(teacher(ROWS), Small().eval()(ROWS) + 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_trace_moves_to_another_device_and_back(save: Save) -> None:
    module = load_classifier(save(Bakes().eval(), EXAMPLE)).module
    expected = Small().eval()(ROWS) + 1
    torch.testing.assert_close(module.cuda()(ROWS.cuda()).cpu(), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(module.cpu()(ROWS), expected)


def test_a_module_without_forward_is_told(save: Save) -> None:
    class Other(nn.Module):
        @torch.jit.export
        def scores(self, rows: Tensor) -> Tensor:
            return rows

    with pytest.raises(ModelFileError, match="has no forward method, only scores"):
        load_classifier(save(Other()))


def test_several_inputs_are_named(save: Save) -> None:
    class Two(nn.Module):
        def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
            return rows * mask

    with pytest.raises(ModelFileError, match=r"takes 2 inputs \(rows, mask\)") as caught:
        load_classifier(save(Two()))
    assert "file.py:function" in str(caught.value.fix)


def test_words_are_no_numbers(save: Save) -> None:
    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(10, 4), nn.Linear(4, 2)

        def forward(self, words: Tensor) -> Tensor:
            return self.head(self.table(words.long()).mean(1))

    with pytest.raises(ModelFileError, match="takes words or categories"):
        load_classifier(save(Text().eval()))


class Fixed100(nn.Module):
    """(N, 3, 100, 100) to (N, 3), and no other size."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 1, 10, stride=10), nn.Linear(100, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.body(rows).flatten(1))


@pytest.mark.parametrize("frozen", [False, True])
def test_an_unusual_size_is_found(save: Save, frozen: bool) -> None:
    with pytest.raises(ModelFileError, match=r"takes 3 channels.* runs on 100 pixels") as caught:
        load_classifier(save(Fixed100().eval(), frozen=frozen))
    assert caught.value.fix == "--input-shape 3,100,100"


class Squeezed(nn.Module):
    """(N, 7) to (N,): one probability a row."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(7, outputs)

    def forward(self, rows: Tensor) -> Tensor:
        return torch.sigmoid(self.layer(rows)).squeeze(1)


class Viewed(Squeezed):
    def forward(self, rows: Tensor) -> Tensor:
        return torch.sigmoid(self.layer(rows)).view(-1)


class Pixels(Squeezed):
    """(N, 7) to (N, 3, 1, 1), probabilities."""

    def __init__(self) -> None:
        super().__init__(3)

    def forward(self, rows: Tensor) -> Tensor:
        return torch.softmax(self.layer(rows), 1).view(-1, 3, 1, 1)


@pytest.mark.parametrize("make", [Squeezed, Viewed, Pixels])
@pytest.mark.parametrize("example", [None, torch.zeros(2, 7)])
def test_what_changes_only_the_shape_hides_no_sigmoid(save: Save, make: type[Squeezed], example: Tensor | None) -> None:
    network = make().eval()
    rows = torch.randn(4, 7)
    teacher = load_classifier(save(network, example), TeacherConfig(input_shape=(7,)))
    assert teacher.output_kind == ("probs" if make is Pixels else "sigmoid")
    scores = network.layer(rows)
    expected = scores if make is Pixels else torch.cat([torch.zeros_like(scores), scores], 1)
    torch.testing.assert_close(teacher(rows), expected)


def test_class_names_beside_the_program_are_read(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(nn.Sequential(nn.Linear(7, 3)).eval())
        torch.jit.save(script, file, _extra_files={"labels.txt": "cat\ndog\nfox"})
    assert load_classifier(file).class_names == ("cat", "dog", "fox")


def test_a_large_record_beside_the_program_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(nn.Sequential(nn.Linear(7, 3)).eval())
        texts = {"labels.txt": "cat\ndog\nfox", "names": "x" * (2**20 + 1)}
        torch.jit.save(script, file, _extra_files=texts)
    with zipfile.ZipFile(file) as archive:
        assert set(read_extra(file, archive.infolist())) == {"labels.txt"}
    assert load_classifier(file).class_names == ("cat", "dog", "fox")


def test_a_planted_pickle_beside_the_program_is_not_run(tmp_path: Path) -> None:
    file, marker = tmp_path / "model.pt", tmp_path / "marker"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(nn.Sequential(nn.Linear(7, 3)).eval())
        torch.jit.save(script, file, _extra_files={"names": pickle.dumps(Planted(marker), protocol=0).decode()})
    load_classifier(file)
    assert not marker.exists()
