"""An endpoint as a classifier: what it may answer, and what is measured of it."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cake_cli.config import TeacherConfig
from cake_cli.errors import CakeError, EnvironmentFault, ModelFileError, RunError, UsageError
from cake_cli.models.blackbox.endpoint import read_answer
from cake_cli.models.loading import load_classifier
from tests.models.blackbox.serving import Scores, Served, serving, tanh_scores

SETTINGS = TeacherConfig(input_shape=(1, 4, 4), retries=0, timeout=5)


def opened(served: Served, **more: Any):
    return load_classifier(Path(served.address), TeacherConfig(**({"input_shape": (1, 4, 4), "retries": 0} | more)))


def test_an_endpoint_is_a_classifier(served: Served) -> None:
    teacher = opened(served)
    assert (teacher.classes, teacher.output_kind, teacher.batching) == (3, "logits", "direct")
    assert teacher.name == served.address, "both slashes are there again"
    assert "outputs alone" in teacher.no_gradient
    assert served.rows == 9
    rows = torch.randn(300, 1, 4, 4)
    assert np.allclose(teacher(rows).numpy(), tanh_scores()(rows.numpy()), atol=1e-5)
    assert served.rows == 309
    assert served.requests == 5 + 2, "256 rows a request at most"
    assert not teacher(rows).requires_grad


@pytest.mark.parametrize("key", ["outputs", "predictions", "probabilities"])
def test_probabilities_become_logits(key: str) -> None:
    scores = tanh_scores()

    def softmax(rows: np.ndarray) -> np.ndarray:
        return np.round(torch.from_numpy(scores(rows)).softmax(1).numpy(), 3)  # a server may be short

    with serving(softmax) as served:
        served.key = key
        teacher = opened(served)
        assert teacher.output_kind == "probs"
        rows = torch.randn(5, 1, 4, 4)
        wanted = torch.from_numpy(softmax(rows.numpy())).float()
        assert torch.allclose(teacher(rows).softmax(1), wanted, atol=3e-3)
        assert bool(teacher(rows).isfinite().all())


@pytest.mark.parametrize("key", ["labels", "scores"])
def test_labels_become_hard_labels(key: str) -> None:
    scores = tanh_scores()
    with serving(lambda rows: scores(rows).argmax(1)) as served:
        served.key = key
        teacher = opened(served, outputs="labels", classes=3)
        assert teacher.output_kind == "labels"
        rows = torch.randn(20, 1, 4, 4)
        found = teacher(rows).softmax(1)
        assert found.argmax(1).tolist() == scores(rows.numpy()).argmax(1).tolist()
        assert bool((found.amax(1) == 1).all())
        with pytest.raises(ModelFileError, match="of how many classes"):
            opened(served, outputs="labels")
        with pytest.raises(ModelFileError, match="was answered, of 2 classes"):
            opened(served, outputs="labels", classes=2)


def test_of_scores_the_labels_alone_can_be_used(served: Served) -> None:
    teacher = opened(served, outputs="labels")
    assert (teacher.output_kind, teacher.classes) == ("labels", 3)
    assert sorted(teacher(torch.randn(2, 1, 4, 4)).softmax(1)[0].tolist()) == pytest.approx([0, 0, 1])


def test_raw_values_are_what_the_endpoint_gets() -> None:
    seen: list[np.ndarray] = []
    scores = tanh_scores()

    def listen(rows: np.ndarray) -> np.ndarray:
        seen.append(rows)
        return scores(rows / 255)

    with serving(listen) as served:
        teacher = opened(served, input_range=(0.0, 255.0))
        teacher(torch.zeros(1, 1, 4, 4))
        assert np.allclose(seen[-1], 127.5)


def test_answers_that_change_are_said(served: Served) -> None:
    noise = np.random.default_rng(0)
    served.change = lambda answer: {
        "scores": (np.array(answer["scores"]) + 0.1 * noise.normal(size=np.shape(answer["scores"]))).tolist()
    }
    teacher = opened(served)
    assert any("answers change: by " in mend for mend in teacher.mends)
    assert teacher.answers is None, "so nothing can be compared later"


def jitter(scores: Scores) -> Scores:
    """The same up to what a graphics card adds."""
    noise = np.random.default_rng(0)
    return lambda rows: scores(rows) * (1 + 1e-5 * noise.normal(size=(len(rows), 3)))


def test_rounding_is_no_noise(served: Served) -> None:
    served.scores = jitter(tanh_scores())
    teacher = opened(served)
    assert (teacher.batching, teacher.noise, teacher.mends) == ("direct", None, ())
    assert teacher.answers is not None, "so that another model is noticed"
    served.scores = jitter(lambda rows: tanh_scores()(rows) * len(rows))
    assert opened(served).batching == "loop"


def test_a_request_that_is_too_large_is_asked_in_parts(served: Served) -> None:
    teacher = opened(served, request_rows=100)
    right = served.scores
    rows, sizes = torch.randn(100, 1, 4, 4), []

    def at_most(answer: dict[str, Any]) -> Any:
        sizes.append(len(answer["scores"]))
        if sizes[-1] > 30:
            served.faults = [(413, {}, b"")]  # for the next
        return answer

    served.faults = [(413, {}, b""), (413, {}, b"")]
    served.change = at_most
    assert np.allclose(teacher(rows).numpy(), right(rows.numpy()), atol=1e-5)
    assert sizes == [25, 25, 25, 25]
    served.faults = [(413, {}, b"")]
    with pytest.raises(EnvironmentFault, match=r"answered 413 .* to a single row"):
        teacher(rows[:1])


def test_an_answer_of_another_kind_is_refused(served: Served) -> None:
    teacher = opened(served)
    served.change = lambda answer: {"labels": [0] * len(answer["scores"])}
    with pytest.raises(RunError, match="holds labels, and those before held scores"):
        teacher(torch.zeros(2, 1, 4, 4))


@pytest.mark.parametrize("outputs", ["auto", "logits", "probs"])
def test_one_number_a_row_is_of_two_classes(outputs: str) -> None:
    scores = tanh_scores(classes=1)
    with serving(lambda rows: scores(rows) if outputs != "probs" else 1 / (1 + np.exp(-scores(rows)))) as served:
        teacher = opened(served, classes=2, outputs=outputs)
        rows = torch.randn(20, 1, 4, 4)
        found = teacher(rows)
        assert (teacher.classes, found.shape) == (2, (20, 2))
        assert found.argmax(1).tolist() == (scores(rows.numpy())[:, 0] > 0).astype(int).tolist()


def test_a_number_beyond_float32_is_not_finite(served: Served, recwarn: pytest.WarningsRecorder) -> None:
    served.change = lambda answer: {"scores": [[1e39, 1, 2]] * len(answer["scores"])}
    with pytest.raises(ModelFileError, match="not a finite number"):
        opened(served)
    assert not recwarn.list


def test_answers_that_depend_on_other_rows_are_asked_one_by_one() -> None:
    scores = tanh_scores()
    with serving(lambda rows: scores(rows) * len(rows)) as served:
        teacher = opened(served)
        assert teacher.batching == "loop"
        assert any("depends on the other rows" in mend for mend in teacher.mends)
        rows = torch.randn(4, 1, 4, 4)
        assert np.allclose(teacher(rows).numpy(), scores(rows.numpy()), atol=1e-5)


def test_without_verify_it_is_asked_once(served: Served) -> None:
    teacher = opened(served, verify=False)
    assert served.rows == 3
    assert teacher.answers is None, "they may change, for all that is known"


def test_it_does_not_state_its_shape(served: Served) -> None:
    with pytest.raises(UsageError, match="does not state the shape") as caught:
        opened(served, input_shape=None)
    assert "--input-shape" in caught.value.fix
    with pytest.raises(UsageError, match="--arch is for weights"):
        opened(served, arch="resnet18")
    assert served.requests == 0


def test_a_wrong_number_of_classes(served: Served) -> None:
    with pytest.raises(ModelFileError, match="3 numbers a row, and 5 were expected"):
        opened(served, classes=5)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>hello",
        b"[" * 100_000,
        b"[[1, 2]]",
        b"null",
        b'{"score": [[1, 2]]}',
        b'{"scores": []}',
        b'{"scores": {"a": 1}}',
        b'{"scores": [[1, 2], [3]]}',
        b'{"scores": [[1, 2], 3]}',
        b'{"scores": [[1, "2"], [3, 4]]}',
        b'{"scores": [[true, false], [true, false]]}',
        b'{"scores": [[1, null], [3, 4]]}',
        b'{"scores": [[[1]], [[2]]]}',
        b'{"scores": [[1, 2]]}',
        b'{"scores": [[1, 2], [1, 2], [1, 2]]}',
        b'{"labels": [[1, 2], [1, 2]]}',
        b'{"labels": [0.5, 1]}',
        b'{"scores": [[1' + b"0" * 400 + b", 2], [3, 4]]}",
        b"\xff\xfe",
    ],
)
def test_garbage_is_a_sentence(body: bytes) -> None:
    with pytest.raises(RunError, match=r"^host .*(answered|asked)") as caught:
        read_answer(body, 2, "host")
    assert '{"scores": [[...], ...]}' in caught.value.fix
    assert len(caught.value.what) < 200


def test_what_may_be_answered() -> None:
    assert read_answer(b'{"scores": [[1, 2], [3, 4.5]], "id": 7}', 2, "h").values.tolist() == [[1, 2], [3, 4.5]]
    assert read_answer(b'{"scores": [0.25, 0.5]}', 2, "h").values.shape == (2, 1)
    assert read_answer(b'{"labels": [[1], [2]]}', 2, "h").values.tolist() == [1, 2]
    assert read_answer(b'{"logits": [[1, 2]]}', 1, "h").kind == "logits"


@pytest.mark.parametrize("values", ["NaN", "Infinity", "1e999"])
def test_what_is_not_finite_is_refused(served: Served, values: str) -> None:
    body = f'{{"scores": [{", ".join([f"[{values}, 1, 2]"] * 3)}]}}'.encode()
    served.faults = [(200, {}, body)]
    with pytest.raises(ModelFileError, match="not a finite number"):
        opened(served)


def test_what_happens_later_is_a_fault_of_the_run(served: Served) -> None:
    teacher = opened(served)
    rows = torch.zeros(2, 1, 4, 4)
    served.faults = [(500, {}, b"")]
    with pytest.raises(EnvironmentFault):
        teacher(rows)
    served.change = lambda answer: {"scores": [row[:2] for row in answer["scores"]]}
    with pytest.raises(RunError, match="2 numbers a row, and 3 were expected"):
        teacher(rows)
    number = count()
    served.change = lambda answer: {"scores": answer["scores"][: next(number)]}
    with pytest.raises(CakeError):
        teacher(rows)
    with pytest.raises(RunError, match="was asked 2 rows and answered 1"):
        teacher(rows)


def test_one_number_a_row_is_a_probability_or_a_logit() -> None:
    scores = tanh_scores(classes=1)
    with serving(lambda rows: 1 / (1 + np.exp(-scores(rows)))) as served:
        with pytest.raises(ModelFileError, match="one number a row") as caught:
            opened(served)
        assert "--outputs probs" in caught.value.fix
        teacher = opened(served, outputs="probs")
        rows = torch.randn(4, 1, 4, 4)
        assert np.allclose(teacher(rows)[:, 1:].numpy(), scores(rows.numpy()), atol=1e-3)
