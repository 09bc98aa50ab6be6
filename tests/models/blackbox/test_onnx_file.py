"""ONNX files that only a runtime runs: int8, tree ensembles, labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import onnxruntime
import pytest
import torch

from cake_cli.config import TeacherConfig
from cake_cli.errors import ModelFileError, NoGradient, RunError
from cake_cli.models.blackbox.box import BlackBox
from cake_cli.models.counting import size_of
from cake_cli.models.exporting import Export
from cake_cli.models.loading import load_classifier
from cake_cli.models.onnx.runtime import NO_MEMORY
from tests.hostile.test_onnx import endless_loop
from tests.models.blackbox.files import int8, labels_only, trees, with_bytes
from tests.models.onnx.files import draw, linear, node, save


def run(file: Path, rows: np.ndarray, output: str = "y") -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([output], {"x": rows})[0])


def test_an_int8_file_gives_what_onnxruntime_gives(tmp_path: Path) -> None:
    file = int8(tmp_path)
    teacher = load_classifier(file)
    assert (teacher.spec.shape, teacher.classes, teacher.output_kind) == ((1, 4, 4), 3, "logits")
    assert "quantised to int8" in teacher.no_gradient
    assert teacher.converter == "onnxruntime"
    assert teacher.batching == "direct"
    rows = draw(50, 1, 4, 4)
    assert np.allclose(teacher(torch.from_numpy(rows)).numpy(), run(file, rows), atol=1e-6)
    assert (teacher.seconds_a_row, teacher.answers) == (None, None), "asking a file costs nothing, and it stays"
    assert size_of(teacher, file).bytes == file.stat().st_size


def test_a_dynamically_quantised_file_is_asked_row_by_row(tmp_path: Path) -> None:
    file = int8(tmp_path, dynamic=True)
    teacher = load_classifier(file)
    assert teacher.batching == "loop"
    assert any("depends on the other rows" in mend for mend in teacher.mends)
    rows = draw(5, 1, 4, 4)
    alone = np.concatenate([run(file, rows[index : index + 1]) for index in range(5)])
    assert np.allclose(teacher(torch.from_numpy(rows)).numpy(), alone, atol=1e-6)


def test_probabilities_of_an_int8_file(tmp_path: Path) -> None:
    file = int8(tmp_path, softmax=True)
    teacher = load_classifier(file)
    assert teacher.output_kind == "probs"
    rows = draw(5, 1, 4, 4)
    assert np.allclose(teacher(torch.from_numpy(rows)).softmax(1).numpy(), run(file, rows), atol=1e-5)


def test_bytes_are_whole_numbers(tmp_path: Path) -> None:
    file = with_bytes(int8(tmp_path))
    teacher = load_classifier(file, TeacherConfig(input_range=(0.0, 255.0)))
    rows = torch.tensor([-9.0, 0.0, 0.01, 9.0])[:, None, None, None].expand(4, 1, 4, 4)
    raw = np.rint(rows.numpy() * 255 / 12**0.5 + 127.5).clip(0, 255).astype(np.uint8)
    assert np.allclose(teacher(rows).numpy(), run(file, raw), atol=1e-6)


def test_a_tree_ensemble(tmp_path: Path) -> None:
    file = trees(tmp_path)
    teacher = load_classifier(file)
    assert (teacher.spec.shape, teacher.classes, teacher.output_kind) == ((4,), 3, "probs")
    assert "tree ensemble" in teacher.no_gradient
    rows = draw(30, 4)
    assert np.allclose(teacher(torch.from_numpy(rows)).softmax(1).numpy(), run(file, rows), atol=1e-5)


def test_boosted_trees_say_how_probable_each_class_is_apart(tmp_path: Path) -> None:
    file = trees(tmp_path, post_transform="LOGISTIC")
    teacher = load_classifier(file)
    assert teacher.output_kind == "sigmoid"
    rows = draw(30, 4)
    assert np.allclose(teacher(torch.from_numpy(rows)).sigmoid().numpy(), run(file, rows), atol=1e-5)


def test_labels_of_a_tree_ensemble_are_numbered_as_its_classes(tmp_path: Path) -> None:
    file = trees(tmp_path, labels=(7, 3, 5))
    teacher = load_classifier(file, TeacherConfig(outputs="labels"))
    assert (teacher.output_kind, teacher.class_names) == ("labels", ("7", "3", "5"))
    rows = draw(30, 4)
    found = [int(teacher.names()[index]) for index in teacher(torch.from_numpy(rows)).argmax(1)]
    assert found == run(file, rows, "label").tolist()


def test_of_scores_beside_labels_that_do_not_tell_their_number_the_greatest_is_taken(tmp_path: Path) -> None:
    file = trees(tmp_path)
    teacher = load_classifier(file, TeacherConfig(outputs="labels"))
    assert (teacher.output_kind, teacher.classes) == ("labels", 3)
    rows = draw(30, 4)
    assert teacher(torch.from_numpy(rows)).argmax(1).tolist() == run(file, rows, "label").tolist()


def test_a_file_that_gives_labels_alone(tmp_path: Path) -> None:
    file = labels_only(tmp_path)
    with pytest.raises(ModelFileError, match="does not tell of how many classes") as caught:
        load_classifier(file)
    assert "--classes K" in caught.value.fix
    teacher = load_classifier(file, TeacherConfig(classes=3))
    assert (teacher.output_kind, teacher.classes) == ("labels", 3)
    rows = draw(30, 4)
    assert teacher(torch.from_numpy(rows)).argmax(1).tolist() == run(file, rows).tolist()


def test_what_no_runtime_runs_is_refused_as_before(tmp_path: Path) -> None:
    broken = linear(end=[node("QuantizeLinear", "z w", "q"), node("Cast", "q", "y", to=1)])
    with pytest.raises(NoGradient, match="quantised to int8"):
        load_classifier(save(broken, tmp_path))


def test_a_graph_that_may_never_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoGradient, match=r"a loop \(Loop\), of which nobody knows whether it ends"):
        load_classifier(save(endless_loop(), tmp_path))


def test_memory_that_does_not_hold_many_rows_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = load_classifier(int8(tmp_path))
    oracle = next(part.oracle for part in teacher.module.modules() if isinstance(part, BlackBox))
    said = f"Non-zero status code returned while running Conv node. {NO_MEMORY} 2147483392 is smaller than requested"

    def fail(batch: np.ndarray) -> list[np.ndarray]:
        raise Exception(said if len(batch) > 2 else "\x1b[31mno such kernel")

    monkeypatch.setattr(oracle, "runtime", Mock(side_effect=fail, port=oracle.runtime.port))
    with pytest.raises(MemoryError):
        teacher(torch.zeros(3, 1, 4, 4))
    with pytest.raises(RunError, match="failed on 2 rows: \N{REPLACEMENT CHARACTER}\\[31mno such kernel"):
        teacher(torch.zeros(2, 1, 4, 4))


def test_a_float_file_of_which_only_labels_are_used(mlp_file: Path) -> None:
    whole = load_classifier(mlp_file)
    teacher = load_classifier(mlp_file, TeacherConfig(outputs="labels"))
    assert (whole.no_gradient, teacher.output_kind) == (None, "labels")
    assert "--outputs labels" in teacher.no_gradient
    rows = torch.randn(30, 1, 4, 4)
    assert torch.equal(teacher(rows).argmax(1), whole(rows).argmax(1))
    assert bool((teacher(rows).softmax(1).amax(1) == 1).all())


def test_it_cannot_be_exported(tmp_path: Path) -> None:
    file = int8(tmp_path)
    with pytest.raises(ModelFileError, match="no operators to write"):
        Export(load_classifier(file), tmp_path / "out.onnx", "onnx", source=file).write()


def test_without_verify_it_is_asked_once(tmp_path: Path) -> None:
    teacher = load_classifier(int8(tmp_path), replace(TeacherConfig(), verify=False))
    assert "asked 3 rows to open it" in teacher.checks
