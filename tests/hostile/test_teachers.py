"""Archives, checkpoints and TorchScript programs that mean harm; graphs of ONNX are in `test_onnx`."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from tests.conftest import save_mlp
from tests.hostile.conftest import Meet
from tests.hostile.forking import Ended
from tests.models.planted import Planted

RED = "\x1b[31mred\x1b[2J\x9b1m\u202etxt"


class Linear(nn.Module):
    """Four values to three scores."""

    def __init__(self, target: str = "") -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.target = target


class Printing(Linear):
    def forward(self, x: Tensor) -> Tensor:
        print("\x1b[31mred\x1b[2J")
        return self.layer(x)


def _warned(x: Tensor) -> Tensor:
    warnings.warn("\x1b[31mred\x1b[2J")  # noqa: B028 - TorchScript knows no stacklevel
    print("\x1b[31mred")
    return x


class Warning_(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.layer(_warned(x)), 1)


class Raising(Linear):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > -1e30:
            raise RuntimeError("\x1b[31mred\x1b[2J")
        return self.layer(x)


class Writing(Linear):
    def forward(self, x: Tensor) -> Tensor:
        written = torch.from_file(self.target, True, 4)
        return self.layer(x + written)


class Saving(Linear):
    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, self.target)
        return self.layer(x)


class Giant(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + torch.zeros(1 << 40).sum()


class Product(Linear):
    def forward(self, x: Tensor) -> Tensor:
        tall = torch.ones(1 << 18, 1)
        return self.layer(x) + (tall @ tall.t()).sum()


def script(module: nn.Module, file: Path, **extra: str) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module.eval()), file, _extra_files=extra)
    return file


@pytest.mark.parametrize("kind", [Printing, Warning_])
def test_torchscript_does_not_reach_the_terminal(run: Callable[..., Ended], tmp_path: Path, kind: type[Linear]):
    ended = run("inspect", script(kind(), tmp_path / "loud.pt"))
    assert ended.code == 0
    assert b"prints and warnings of its code left out" in ended.out
    assert b"red" not in ended.out + ended.err


@pytest.mark.parametrize("kind", [Raising, Writing, Saving, Giant, Product])
def test_a_program_that_means_harm(refused: Meet, tmp_path: Path, secret: Path, kind: type[Linear]):
    secret.write_bytes(secret.read_bytes().ljust(64))
    before = secret.read_bytes()
    refused(3, "inspect", script(kind(str(secret)), tmp_path / "harm.pt"), "--input-shape", "4")
    assert secret.read_bytes() == before
    assert list(secret.parent.iterdir()) == [secret]


def test_texts_beside_a_program_have_no_escapes(run: Callable[..., Ended], tmp_path: Path):
    labels = json.dumps([RED, "\ud800", "c"])
    for more in ([], ["--json"]):
        ended = run(
            "inspect", script(torch.nn.Sequential(nn.Linear(4, 3)), tmp_path / "a.pt", **{"labels.txt": labels}), *more
        )
        assert ended.code == 0
    assert json.loads(ended.out)["class_names"][0] == RED, "as JSON it is all there, escaped"


def named(folder: Path) -> Path:
    """A sound teacher whose every name is an escape."""
    file = save_mlp(folder / "teacher.onnx")
    model = onnx.load(file)
    for node in model.graph.node:
        node.name = RED
        node.doc_string = RED
    renamed = {model.graph.input[0].name: f"x{RED}", model.graph.output[0].name: f"y{RED}"}
    for value in (model.graph.input[0], model.graph.output[0]):
        value.name = renamed[value.name]
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    model.producer_name = model.graph.name = RED
    onnx.helper.set_model_props(model, {"cake.class_names": json.dumps([RED, "b", "c"]), "cake.origin": RED, RED: RED})
    onnx.save(model, file)
    return file


def test_names_of_a_teacher_reach_neither_terminal_nor_log(run: Callable[..., Ended], tmp_path: Path):
    teacher = named(tmp_path)
    tiny = ["--samples", "60", "--steps", "2", "--set", "set_size=30", "--epochs", "1", "--student", "mlp:4"]
    assert run("inspect", teacher).code == 0
    assert run("inspect", teacher, "--json").code == 0
    assert run("distill", teacher, *tiny, "-o", tmp_path / "run").code == 0
    assert run("inspect", tmp_path / "run").code == 0
    assert run("inspect", tmp_path / "run" / "bank").code == 0
    for written in ("log.txt", "report.html", "run.json", "bank/manifest.json"):
        assert "\x1b" not in (tmp_path / "run" / written).read_text(encoding="utf-8"), written


def test_a_file_with_an_escape_for_a_name(run: Callable[..., Ended], tmp_path: Path):
    folder = tmp_path / "\x1b[31mred[bold]"
    folder.mkdir()
    assert run("inspect", save_mlp(folder / "\x1b[2J.onnx")).code == 0
    assert run("inspect", folder / "\x1b[2K.onnx").code == 3
    broken = os.fsencode(tmp_path) + b"/\xff\xfe.onnx"  # no UTF-8
    shutil.copy(folder / "\x1b[2J.onnx", broken)
    assert run("inspect", os.fsdecode(broken)).code == 0
    assert run("inspect", os.fsdecode(broken), "--json").code == 0


# --- archives -----------------------------------------------------------------------------------------------------


def bomb(file: Path) -> None:
    """A checkpoint whose tensors are 200 MiB of zeros, deflated to 200 kiB."""
    torch.save({"w": torch.zeros(4)}, file)
    with zipfile.ZipFile(file) as archive:
        members = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members:
            archive.writestr(name, bytes(200 * 2**20) if "/data/" in name else content)


def modest_bomb(file: Path) -> None:
    """The same, with a directory that says it were small."""
    bomb(file)
    content = bytearray(file.read_bytes())
    size = struct.pack("<I", 200 * 2**20)
    while (place := content.find(size)) >= 0:
        content[place : place + 4] = struct.pack("<I", 16)
    file.write_bytes(content)


def strange_packing(file: Path) -> None:
    """LZMA, whose dictionary may take 4 GiB."""
    torch.save({"w": torch.zeros(4)}, file)
    with zipfile.ZipFile(file) as archive:
        members = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_BZIP2) as archive:
        for name, content in members:
            archive.writestr(name, content)


def names_that_are_no_text(file: Path) -> None:
    torch.save({"w": torch.zeros(4)}, file)
    content = file.read_bytes()
    place = content.rfind(b"data.pkl")
    directory = content.rfind(b"PK\x01\x02", 0, place)
    flags = bytearray(content)
    flags[directory + 9] |= 8  # the name is UTF-8, it says
    flags[place] = 0xE5
    file.write_bytes(bytes(flags))


def long_text_in_pickle(file: Path) -> None:
    """An old checkpoint that announces a text of two gigabytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"w": torch.zeros(4)}, file, _use_new_zipfile_serialization=False)
    content = file.read_bytes()
    place = content.find(b"X\x01\x00\x00\x00w")
    file.write_bytes(content[: place + 1] + struct.pack("<I", 2**31 + 5) + content[place + 5 :])


def endless_tuple(file: Path) -> None:
    """A pickle of marks alone."""
    file.write_bytes(b"\x80\x02" + b"(" * 2**20 + b".")


@pytest.mark.parametrize("make", [bomb, strange_packing, names_that_are_no_text, long_text_in_pickle, endless_tuple])
def test_an_archive_that_means_harm(refused: Meet, tmp_path: Path, make: Callable[[Path], None]):
    make(tmp_path / "weights.pt")
    refused(3, "inspect", tmp_path / "weights.pt")


def test_an_archive_that_lies_of_its_size_takes_no_more_than_it_says(run: Callable[..., Ended], tmp_path: Path):
    modest_bomb(tmp_path / "weights.pt")
    assert run("inspect", tmp_path / "weights.pt").code in (0, 3)


@pytest.mark.parametrize("name", ["a.pt", "a.onnx", "a.npz"])
@pytest.mark.parametrize("legacy", [False, True, None])
def test_no_container_of_a_pickle_is_run(
    run: Callable[..., Ended], tmp_path: Path, seeds: Path, name: str, legacy: bool | None
):
    marker, file = tmp_path / "executed", tmp_path / name
    if legacy is None:
        file.write_bytes(pickle.dumps(Planted(marker)))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save({"state_dict": Planted(marker)}, file, _use_new_zipfile_serialization=not legacy)
    if name == "a.npz":
        assert run("evaluate", seeds / "student.safetensors", "--data", file).code == 4
    else:
        assert run("inspect", file).code == 3
    assert not marker.exists()


def test_an_exported_program_is_code(refused: Meet, seeds: Path):
    assert "--trust" in refused(3, "inspect", seeds / "exported.pt2")


def test_what_is_no_file(refused: Meet, tmp_path: Path, seeds: Path):
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path / "pipe.onnx", Path("/dev/zero"), Path("/dev/stdin")):
        assert "pipe or a device" in refused(3, "inspect", path)
        assert "pipe or a device" in refused(4, "evaluate", seeds / "student.safetensors", "--data", path)


@pytest.mark.parametrize(
    "location", ["../outside/secret.txt", "/etc/passwd", "/dev/zero", "link", "pipe", "a/../../outside/secret.txt"]
)
def test_external_data_stay_in_their_folder(refused: Meet, tmp_path: Path, seeds: Path, secret: Path, location: str):
    folder = shutil.copytree(seeds / "external", tmp_path / "model")
    (folder / "link").symlink_to(secret)
    os.mkfifo(folder / "pipe")
    model = onnx.load(folder / "teacher.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (folder / "teacher.onnx").write_bytes(model.SerializeToString())
    refused(3, "inspect", folder / "teacher.onnx")
