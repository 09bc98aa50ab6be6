"""`cake evaluate`: accuracy and fidelity on held-out data."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

from cake_cli.models import speed as timing
from cake_cli.models.loading import load_classifier
from cake_cli.spec import InputSpec
from tests.cli.conftest import TINY, refusal
from tests.conftest import DIGITS, Outcome, save_mlp

Cake = Callable[..., Outcome]


def save_linear(path: Path, weights: np.ndarray) -> None:
    """Logits that are a product of the row with (3, 3) weights, ten times as large."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(10 * weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_json_has_the_promised_keys(cake: Cake, mlp_file: Path, heldout: Path, distilled: Path):
    found = json.loads(cake("evaluate", distilled, "--data", heldout, "--against", mlp_file, "--json").out)
    assert {"accuracy", "top5", "agreement", "kl", "ece", "per_class", "samples"} <= set(found)
    assert found["samples"] == 40
    assert len(found["per_class"]) == 3


def test_accuracy_is_the_share_of_right_answers(cake: Cake, mlp_file: Path, heldout: Path):
    arrays = np.load(heldout)
    pixels = torch.from_numpy(arrays["x"]).float()[:, None] / 255
    right = (load_classifier(mlp_file)(pixels).argmax(dim=1).numpy() == arrays["y"]).mean()
    found = json.loads(cake("evaluate", mlp_file, "--data", heldout, "--json").out)
    assert found["accuracy"] == pytest.approx(float(right))
    assert found["agreement"] is None


def test_the_shipped_teacher_reads_its_digits(cake: Cake):
    found = json.loads(cake("evaluate", DIGITS / "teacher.onnx", "--data", DIGITS / "heldout.npz", "--json").out)
    assert found["samples"] == 500
    assert found["accuracy"] >= 0.98


def test_a_model_agrees_with_itself(cake: Cake, mlp_file: Path, heldout: Path):
    found = json.loads(cake("evaluate", mlp_file, "--data", heldout, "--against", mlp_file, "--json").out)
    assert found["agreement"] == 1.0
    assert found["kl"] == pytest.approx(0.0, abs=1e-6)


def test_a_teacher_of_another_normalisation_is_shown_the_same_images(cake: Cake, mlp_file: Path, heldout: Path):
    """The student takes z = (raw - 0.25) / 0.5, so the teacher, which takes raw values, must be given them back."""
    flags = ["--set", "training.batch_size=16", "--samples", "60", "--steps", "2", "--epochs", "1", "--no-report"]
    normalised = ["--mean", "0.25", "--std", "0.5", "-o", "run", "-q"]
    assert cake("distill", mlp_file, "--student", "mlp:8", *flags, *normalised).code == 0
    found = json.loads(cake("evaluate", "run", "--data", heldout, "--against", mlp_file, "--json").out)
    arrays = np.load(heldout)
    raw = torch.from_numpy(arrays["x"]).float()[:, None] / 255
    student, teacher = load_classifier(Path("run")), load_classifier(mlp_file)
    agreed = student((raw - 0.25) / 0.5).argmax(dim=1) == teacher(raw).argmax(dim=1)
    assert found["agreement"] == pytest.approx(float(agreed.float().mean()))


def test_the_table_is_the_result(cake: Cake, mlp_file: Path, heldout: Path, distilled: Path):
    outcome = cake("evaluate", distilled, "--data", heldout, "--against", mlp_file)
    assert outcome.code == 0
    header, teacher, student, empty, costs, *_ = outcome.out.splitlines()
    assert (empty, costs.split()) == ("", ["model", "weights", "multiply-adds", "size"])
    assert header.split()[:2] == ["model", "accuracy"]
    assert "agreement" in header
    assert teacher.startswith(f"{mlp_file} (teacher) "), "figures and paths are whole in a pipe, however long the path"
    assert student.startswith("run ")
    assert "40 samples" in outcome.err


def test_the_teacher_is_told_from_a_model_of_its_name(cake: Cake, mlp_file: Path, heldout: Path):
    figures, costs = cake("evaluate", mlp_file, "--data", heldout, "--against", mlp_file).out.split("\n\n")
    for table in (figures, costs):
        _, teacher, model = table.splitlines()
        assert teacher.startswith(f"{mlp_file} (teacher) ")
        assert model.startswith(f"{mlp_file}  ")


def test_quiet_is_one_number(cake: Cake, mlp_file: Path, heldout: Path):
    outcome = cake("evaluate", mlp_file, "--data", heldout, "-q")
    assert all(line.startswith("warning: ") for line in outcome.err.splitlines())
    assert 0 <= float(outcome.out) <= 1


def test_small_batches_change_nothing(cake: Cake, mlp_file: Path, heldout: Path):
    whole, small = (
        json.loads(cake("evaluate", mlp_file, "--data", heldout, "--batch-size", size, "--json").out)
        for size in (256, 7)
    )
    assert whole["accuracy"] == small["accuracy"]
    assert whole["ece"] == pytest.approx(small["ece"], abs=1e-5)


def test_the_gate(cake: Cake, mlp_file: Path, heldout: Path, tmp_path: Path):
    other = save_mlp(tmp_path / "other.onnx", seed=1)
    gate = ["--data", heldout, "--min-agreement", "1"]
    assert cake("evaluate", mlp_file, *gate, "--against", mlp_file).code == 0
    missed = cake("evaluate", mlp_file, *gate, "--against", other, "--json")
    assert missed.code == 7
    assert json.loads(missed.out)["agreement"] < 1
    assert f"({mlp_file})" in missed.err
    several = cake("evaluate", other, mlp_file, *gate, "--against", other)
    assert several.code == 7
    assert f"({mlp_file})" in several.err
    assert f"({other})" not in several.err
    without = cake("evaluate", mlp_file, *gate)
    assert without.code == 2
    assert "--against" in without.err


def test_data_must_be_named(cake: Cake, mlp_file: Path):
    outcome = cake("evaluate", mlp_file)
    assert outcome.code == 2
    assert "--data" in outcome.err


@pytest.mark.parametrize("change", [{"classes": 4}, {"shape": (1, 5, 5)}])
def test_models_of_different_shape_are_not_compared(
    cake: Cake, mlp_file: Path, heldout: Path, tmp_path: Path, change: dict
):
    other = save_mlp(tmp_path / "other.onnx", **change)
    outcome = cake("evaluate", mlp_file, "--data", heldout, "--against", other)
    assert outcome.code == 3
    assert "compare models of the same input and classes" in outcome.err


def test_several_models_are_one_table_and_one_list(cake: Cake, mlp_file: Path, heldout: Path, tmp_path: Path):
    other = save_mlp(tmp_path / "other.onnx", seed=1)
    line = ["evaluate", mlp_file, other, mlp_file, "--data", heldout]
    table = cake(*line).out.splitlines()
    assert [row.split()[0] for row in table[1:3]] == [str(mlp_file), str(other)], "a model named twice is measured once"
    found = json.loads(cake(*line, "--against", mlp_file, "--json").out)
    assert [model["model"] for model in found["models"]] == [str(mlp_file), str(other)]
    assert found["teacher"]["accuracy"] == found["models"][0]["accuracy"]
    assert found["models"][0]["agreement"] == 1.0 > found["models"][1]["agreement"]
    alone = json.loads(cake("evaluate", other, "--data", heldout, "--json").out)
    assert alone["accuracy"] == found["models"][1]["accuracy"]
    assert cake(*line, "-q").out.splitlines() == [f"{model['accuracy']:.4f}" for model in found["models"]]


def test_size_and_speed(cake: Cake, mlp_file: Path, heldout: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(timing, "LARGEST_BATCH", 2)
    found = json.loads(cake("evaluate", mlp_file, "--data", heldout, "--json", "--speed").out)
    assert (found["parameters"], found["multiply_adds"]) == (16 * 16 + 16 + 16 * 3 + 3, 16 * 16 + 16 * 3)
    assert found["bytes"] == mlp_file.stat().st_size
    assert 0 < found["speed"]["latency"] < 1
    assert found["speed"]["throughput"] >= 1 / found["speed"]["latency"] * 0.99
    assert json.loads(cake("evaluate", mlp_file, "--data", heldout, "--json").out)["speed"] is None


def test_figures_as_csv(cake: Cake, mlp_file: Path, heldout: Path, tmp_path: Path):
    other = save_mlp(tmp_path / "other.onnx", seed=1)
    line = ["evaluate", other, "--data", heldout, "--against", mlp_file, "--csv", "figures.csv"]
    found = json.loads(cake(*line, "--json").out)
    with Path("figures.csv").open(encoding="utf-8", newline="") as stream:
        teacher, model = csv.DictReader(stream)
    assert (teacher["role"], teacher["agreement"], model["role"]) == ("teacher", "", "model")
    assert float(model["accuracy"]) == found["accuracy"]
    assert [float(model["agreement_low"]), float(model["agreement_high"])] == found["agreement_interval"]
    assert (model["top5"], model["latency"]) == ("", "")
    assert "figures.csv exists" in cake(*line).err
    assert cake(*line).code == 2
    assert cake(*line, "--force").code == 0
    assert Path("figures.csv.old-1").is_file()


@pytest.mark.parametrize("name", ["heldout.npz", "other.onnx", "teacher.onnx"])
def test_force_moves_nothing_aside_that_is_measured(
    cake: Cake, mlp_file: Path, heldout: Path, tmp_path: Path, name: str
):
    """Neither the data, nor a model, nor the teacher, nor a folder that holds one."""
    other = save_mlp(tmp_path / "other.onnx", seed=1)
    line = ["evaluate", other, "--data", heldout, "--against", mlp_file, "--force"]
    place = next(path for path in (heldout, other, mlp_file) if path.name == name)
    for more in (["--csv", place], ["--pictures", place.parent]):
        outcome = cake(*line, *more)
        assert outcome.code == 2
        assert "which --force would move aside" in outcome.err
        assert place.is_file()
    assert "both figures" in cake(*line, "--csv", "figures", "--pictures", "figures").err
    assert not Path("figures").exists()


def test_pictures(cake: Cake, mlp_file: Path, heldout: Path, tmp_path: Path):
    other = save_mlp(tmp_path / "$o$th er.onnx", seed=1)
    line = ["evaluate", other, "--data", heldout, "--against", mlp_file, "--pictures", "drawn"]
    outcome = cake(*line)
    assert outcome.code == 0, outcome.err
    names = sorted(file.name for file in Path("drawn").iterdir())
    assert len(names) == 5
    assert {"agreement.png", "recall.png"} < set(names)
    assert all((Path("drawn") / name).read_bytes().startswith(b"\x89PNG") for name in names)
    refused = cake(*line)
    assert (refused.code, refused.out) == (2, "")
    assert "drawn exists and is not empty" in refused.err


def test_distill_names_a_student_at_chance_but_no_floor(cake: Cake, tmp_path: Path):
    rows = np.eye(3, dtype=np.float32)[np.arange(90) % 3]
    np.savez(tmp_path / "easy.npz", x=rows, y=np.arange(90) % 3)
    save_linear(tmp_path / "good.onnx", np.eye(3, dtype=np.float32))
    learns_nothing = ("--student", "mlp:4", "--samples", "90", "--steps", "1", "--epochs", "1", "--lr", "1e-9")
    outcome = cake("distill", "good.onnx", *learns_nothing, "--data", "easy.npz", "--no-report", "-o", "run")
    assert outcome.code == 0
    warned = [line for line in outcome.err.splitlines() if line.startswith("warning:") and "chance" in line]
    assert len(warned) == 1
    assert warned[0].startswith("warning: student is right on")


def test_a_student_at_chance_beside_a_good_teacher_is_named(cake: Cake, tmp_path: Path):
    rows = np.eye(3, dtype=np.float32)[np.arange(90) % 3]
    np.savez(tmp_path / "easy.npz", x=rows, y=np.arange(90) % 3)
    for name, order in (("good", [0, 1, 2]), ("turned", [1, 2, 0])):
        save_linear(tmp_path / f"{name}.onnx", np.eye(3, dtype=np.float32)[order])
    outcome = cake("evaluate", "turned.onnx", "--against", "good.onnx", "--data", "easy.npz")
    assert "warning: turned.onnx is right on 0.0%, no more than chance" in outcome.err
    alone = cake("evaluate", "turned.onnx", "--data", "easy.npz")
    assert "the order of the labels" in alone.err
    mended = cake("evaluate", "turned.onnx", "--data", "easy.npz", "--class-map", "0=1,1=2,2=0", "--json")
    assert json.loads(mended.out)["accuracy"] in (0.0, 1.0)
    other = cake("evaluate", "turned.onnx", "--data", "easy.npz", "--class-map", "0=2,1=0,2=1", "--json")
    assert {json.loads(mended.out)["accuracy"], json.loads(other.out)["accuracy"]} == {0.0, 1.0}


def test_a_class_map_mends_folders_of_other_names(cake: Cake, mlp_file: Path):
    draw = np.random.default_rng(0)
    for name in ("ant", "bee", "cow"):
        Path("val", name).mkdir(parents=True)
        for index in range(4):
            pixels = draw.integers(0, 256, (4, 4), dtype=np.uint8)
            Image.fromarray(pixels).save(Path("val", name, f"{index}.png"))
    Path("map.json").write_text('{"ant": 2, "bee": 1, "cow": 0}')
    Path("map.txt").write_text("# in words\nant = 2\n\nbee=1\ncow=0\n")
    plain = json.loads(cake("evaluate", mlp_file, "--data", "val", "--json").out)
    assert [entry["name"] for entry in plain["per_class"]] == ["ant", "bee", "cow"]
    tables = [
        json.loads(cake("evaluate", mlp_file, "--data", "val", "--class-map", given, "--json").out)["confusion"]
        for given in ("ant=2,bee=1,cow=0", "map.json", "map.txt")
    ]
    assert tables[0] == tables[1] == tables[2] == plain["confusion"][::-1]


def test_models_that_name_classes_otherwise_are_told(cake: Cake, mlp_file: Path, heldout: Path):
    for name, classes in (("a", ["x", "y", "z"]), ("b", ["x", "z", "y"])):
        proto = onnx.load(mlp_file)
        onnx.helper.set_model_props(proto, {"cake.class_names": json.dumps(classes)})
        onnx.save(proto, f"{name}.onnx")
    outcome = cake("evaluate", "a.onnx", "--against", "b.onnx", "--data", heldout)
    assert "2 classes of a.onnx and b.onnx have different names (class 1 is 'y' and 'z')" in outcome.err


@pytest.mark.parametrize(("low", "high"), [(0.0, 255.0), (-1.0, 1.0)])
def test_models_of_another_range_are_shown_the_same_picture(
    cake: Cake, mlp_file: Path, heldout: Path, low: float, high: float
):
    """One network takes 0 to 1, the other the same values brought to a range of its own."""
    proto = onnx.load(mlp_file)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    weight, bias = (onnx.numpy_helper.to_array(tensors[name]) for name in ("w1", "b1"))  # (16, 16), (16,)
    changed = {"w1": weight / (high - low), "b1": bias - weight.sum(axis=0) * low / (high - low)}
    for name, values in changed.items():
        tensors[name].CopyFrom(onnx.numpy_helper.from_array(values.astype("float32"), name))
    spec = InputSpec((1, 4, 4), (0.0,), (1.0,), (low, high), expects="raw")
    onnx.helper.set_model_props(proto, {"cake.input": json.dumps(spec.to_json())})
    onnx.save(proto, "other.onnx")
    for pair in ((mlp_file, "other.onnx"), ("other.onnx", mlp_file)):
        found = json.loads(cake("evaluate", pair[0], "--against", pair[1], "--data", heldout, "--json").out)
        assert found["agreement"] == 1.0
        assert found["kl"] < 1e-8


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("none.json", "neither a file nor a list"),
        ("a=", "is not NAME=NAME"),
        ("a=1,a=2", "maps 'a' twice"),
        (",", "neither a file nor a list"),
        ("bad.json", "not readable as JSON"),
        ("odd.json", "something other than names and indices"),
        ("empty.txt", "is empty"),
    ],
)
def test_a_class_map_that_is_none(cake: Cake, mlp_file: Path, heldout: Path, given: str, said: str):
    Path("bad.json").write_text("{")
    Path("odd.json").write_text('{"a": [1]}')
    Path("empty.txt").write_text("# nothing\n")
    outcome = cake("evaluate", mlp_file, "--data", heldout, "--class-map", given)
    assert said in refusal(outcome, 2)


def test_a_class_map_may_be_longer_than_a_name_of_a_file(cake: Cake, mlp_file: Path, heldout: Path):
    names = [f"{number}-{'long' * 30}" for number in range(3)]
    with np.load(heldout) as rows:
        np.savez("named.npz", x=rows["x"], y=np.array(names)[rows["y"]])
    given = ",".join(f"{name}={number}" for number, name in enumerate(names))
    assert cake("evaluate", mlp_file, "--data", "named.npz", "--class-map", given).code == 0
    assert cake("distill", mlp_file, *TINY, "--data", "named.npz", "--class-map", given, "-o", "run").code == 0


@pytest.fixture
def two_kinds(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Weights without a name, another network's weights, and an ONNX file; of 3 values to 3 classes."""
    torch.manual_seed(0)
    linear, mlp = (
        nn.Sequential(nn.Flatten(), nn.Linear(3, 3)),
        nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3)),
    )
    torch.save(linear.state_dict(), tmp_path / "linear.pth")
    torch.save(
        {f"{int(name[0]) + 1}{name[1:]}": value for name, value in mlp.state_dict().items()}, tmp_path / "mlp.pth"
    )
    save_linear(tmp_path / "graph.onnx", np.eye(3, dtype=np.float32))
    rows = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    table = "\n".join(["a,b,c,label", *(f"{a},{b},{c},{int(np.argmax((a, b, c)))}" for a, b, c in rows)])
    (tmp_path / "rows.csv").write_text(table + "\n")
    return tmp_path / "linear.pth", tmp_path / "mlp.pth", tmp_path / "graph.onnx"


def test_the_teacher_has_an_architecture_of_its_own(cake: Cake, two_kinds: tuple[Path, Path, Path]):
    linear, mlp, graph = two_kinds
    data = linear.with_name("rows.csv")
    arguments = ("--data", data, "--arch", "linear", "--against-arch", "mlp:8", "--json")
    found = json.loads(cake("evaluate", linear, "--against", mlp, *arguments).out)
    assert found["agreement"] is not None
    assert found["teacher"]["model"] == str(mlp)
    beside = json.loads(cake("evaluate", graph, "--against", linear, "--data", data, "--arch", "linear", "--json").out)
    assert beside["accuracy"] == 1.0, "an architecture is for weights; a graph beside them has its own"
    refused = cake("evaluate", graph, "--against", graph, "--data", data, "--arch", "linear")
    assert "is for weights" in refusal(refused, 2)


def test_the_teacher_has_an_input_of_its_own(cake: Cake, two_kinds: tuple[Path, Path, Path]):
    *_, graph = two_kinds
    data = graph.with_name("rows.csv")
    shifted = ("--against-mean", "5,0,0", "--against-std", "1,1,1")
    same = json.loads(cake("evaluate", graph, "--against", graph, "--data", data, "--json").out)
    other = json.loads(cake("evaluate", graph, "--against", graph, "--data", data, *shifted, "--json").out)
    assert same["agreement"] == 1.0
    assert other["agreement"] < 1.0
    assert other["teacher"]["accuracy"] < other["accuracy"] == 1.0


def test_flags_of_a_teacher_need_one(cake: Cake, two_kinds: tuple[Path, Path, Path]):
    linear, _, graph = two_kinds
    data = linear.with_name("rows.csv")
    refused = cake("evaluate", graph, "--data", data, "--against-arch", "linear")
    assert "--against-arch needs the teacher" in refusal(refused, 2)
    refused = cake("evaluate", graph, "--data", data, "--against", linear, "--against-mean", "1")
    assert "--against-mean and --against-std belong together" in refusal(refused, 2)
