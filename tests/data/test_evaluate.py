import json
import math

import numpy as np
import pytest
import torch

from cake_cli import data
from cake_cli.data import TEACHER, evaluate
from cake_cli.errors import DataError, EnvironmentFault, ModelFileError, RunError
from cake_cli.events import SilentReporter
from cake_cli.interval import wilson_interval


class Rows:
    """A held-out set whose rows are the logits of a model that hands them on."""

    def __init__(self, rows, labels, names=None):
        self.rows, self.labels = torch.as_tensor(rows, dtype=torch.float32), torch.as_tensor(labels)
        self.name, self.class_names, self.notes = "rows", names, ()

    @property
    def samples(self):
        return len(self.rows)

    def batches(self, batch_size):
        if self.samples == 0:
            return
        yield from zip(self.rows.split(batch_size), self.labels.split(batch_size), strict=True)


class Listener(SilentReporter):
    def __init__(self):
        self.stages, self.notes, self.warnings = [], [], []

    def stage(self, name, total, unit):
        self.stages.append((name, total, unit))
        return super().stage(name, total, unit)

    def note(self, text):
        self.notes.append(text)

    def warn(self, text):
        self.warnings.append(text)


@pytest.fixture
def random7():
    """200 rows of 7 logits whose labels are mostly right."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 7, 200)
    return Rows(generator.normal(size=(200, 7)) + 2 * np.eye(7)[labels], labels)


def halved(rows):
    return rows.roll(1, dims=1) / 2 + rows / 2


def test_metrics_agree_with_their_definitions(random7):
    found = evaluate({"student": halved}, random7, classes=7, teacher=lambda x: x, device="cpu", batch_size=64)
    assert list(found) == [TEACHER, "student"]
    student, logits = found["student"], halved(random7.rows).double()
    teacher, labels = random7.rows.double(), random7.labels
    predicted, chosen = logits.argmax(1), teacher.argmax(1)
    p, q = teacher.softmax(1), logits.softmax(1)
    assert student.samples == 200
    assert student.accuracy == pytest.approx((predicted == labels).double().mean().item())
    assert student.top5 == pytest.approx((logits.topk(5).indices == labels[:, None]).any(1).double().mean().item())
    assert student.agreement == pytest.approx((predicted == chosen).double().mean().item())
    assert student.kl == pytest.approx((p * (p / q).log()).sum(1).mean().item())
    for low_high, share in (
        (student.accuracy_interval, student.accuracy),
        (student.agreement_interval, student.agreement),
    ):
        assert low_high[0] < share < low_high[1]
    confidence, hits = q.max(1).values, (predicted == labels).double()
    bins = (confidence * 15).ceil().long()
    ece = sum(abs((confidence - hits)[bins == b].sum().item()) for b in range(1, 16)) / 200
    assert student.ece == pytest.approx(ece, abs=1e-6)
    for row in range(7):
        for column in range(7):
            assert student.confusion[row][column] == int(((labels == row) & (predicted == column)).sum())
            assert student.student_vs_teacher[row][column] == int(((chosen == row) & (predicted == column)).sum())
        assert student.per_class[row].support == int((labels == row).sum())
        assert student.per_class[row].recall == pytest.approx(hits[labels == row].mean().item())
    assert sum(found.samples for found in student.agreement_by_confidence) == 200
    for found in student.agreement_by_confidence:
        inside = (p.max(1).values > found.low) & (p.max(1).values <= found.high)
        assert found.samples == int(inside.sum())
        if found.samples:
            assert found.agreement == pytest.approx((predicted == chosen)[inside].double().mean().item())


def test_a_model_against_itself(random7):
    found = evaluate({"same": lambda x: x}, random7, classes=7, teacher=lambda x: x, device="cpu")["same"]
    assert (found.agreement, found.agreement_interval) == (1.0, (pytest.approx(200 / (200 + 1.96**2), abs=1e-5), 1.0))
    assert found.kl == pytest.approx(0, abs=1e-12)


def test_confidences_of_one_are_in_the_last_bin():
    rows = torch.tensor([[0.95, 0.05]] * 10 + [[1.0, 0.0]] * 10).log().clamp_min(-200)
    labels = torch.tensor([0] * 19 + [1])
    found = evaluate({"m": lambda x: x}, Rows(rows, labels), classes=2, device="cpu")["m"]
    assert found.ece == pytest.approx(abs(0.975 - 0.95), abs=1e-6), "19 of 20 are right"


def test_the_batch_size_changes_nothing(random7):
    one, other = (
        evaluate({"m": halved}, random7, classes=7, teacher=lambda x: x, device="cpu", batch_size=size)["m"]
        for size in (200, 33)
    )
    assert one.kl == pytest.approx(other.kl)
    assert one.ece == pytest.approx(other.ece)
    assert (one.confusion, one.accuracy_interval) == (other.confusion, other.accuracy_interval)


def test_without_a_teacher_there_is_no_agreement(random7):
    found = evaluate({"m": halved, "n": lambda x: x}, random7, classes=7, device="cpu")
    assert list(found) == ["m", "n"]
    fields = found["m"].to_json()
    assert (
        fields["agreement"] is fields["kl"] is fields["student_vs_teacher"] is fields["agreement_by_confidence"] is None
    )


def test_json_holds_the_documented_keys(random7):
    found = evaluate({"m": halved}, random7, classes=7, teacher=lambda x: x, device="cpu")["m"]
    fields = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert set(fields) >= {"accuracy", "top5", "agreement", "kl", "ece", "per_class", "samples", "confusion"}
    assert fields["per_class"][0].keys() == {"index", "name", "recall", "precision", "support"}


def test_many_classes_leave_the_tables_out_of_json():
    rows = Rows(torch.eye(101) * 5, torch.arange(101))
    found = evaluate({"m": lambda x: x}, rows, classes=101, teacher=lambda x: x, device="cpu")["m"]
    assert len(found.confusion) == len(found.student_vs_teacher) == 101
    assert not {"confusion", "student_vs_teacher"} & found.to_json().keys()


def test_labels_alone_have_no_top5():
    rows = Rows(torch.eye(7).tolist(), list(range(7)))
    models = {"labels": lambda x: x.log().clamp(min=-30), "scores": lambda x: x / 2 + torch.arange(7.0)}
    found = evaluate(models, rows, classes=7, device="cpu")
    assert (found["labels"].accuracy, found["labels"].top5) == (1.0, None)
    assert found["scores"].top5 == pytest.approx(5 / 7)


def test_few_classes_have_no_top5_and_absent_classes_no_recall():
    rows = Rows([[2.0, 1.0, 0.0], [3.0, 0.0, 0.0]], [0, 1], names=("ant", "bee", "cow"))
    found = evaluate({"m": lambda x: x}, rows, classes=3, device="cpu")["m"]
    assert found.top5 is None
    assert [(c.name, c.recall, c.precision, c.support) for c in found.per_class] == [
        ("ant", 1.0, 0.5, 1),
        ("bee", 0.0, None, 1),
        ("cow", None, None, 0),
    ]


def test_chance_is_a_warning_for_the_teacher_or_else_for_each_model(random7):
    def shuffled(rows):
        return rows.roll(3, dims=1)

    for models, teacher, warned in (
        ({"m": shuffled}, None, ["m is right on"]),
        ({"m": lambda x: x}, shuffled, ["teacher is right on"]),
        ({"m": shuffled, "n": lambda x: x}, lambda x: x, ["m is right on"]),
        ({"m": shuffled, "n": shuffled}, None, ["m is right on", "n is right on"]),
        ({"m": lambda x: x, "floor": shuffled}, lambda x: x, []),
        ({"m": lambda x: x}, None, []),
    ):
        listener = Listener()
        told = {"may_guess": ("floor",), "reporter": listener}
        evaluate(models, random7, classes=7, teacher=teacher, device="cpu", **told)
        assert len(listener.warnings) == len(warned)
        assert all(text.startswith(start) for text, start in zip(listener.warnings, warned, strict=True))
        assert listener.stages == [("evaluation", 200, "samples")]


def test_notes_that_appear_during_the_pass_are_told(random7):
    class Growing(Rows):
        def batches(self, batch_size):
            yield from super().batches(batch_size)
            self.notes = ("known", "1 image could not be read")

    rows, listener = Growing(random7.rows, random7.labels), Listener()
    rows.notes = ("known",)
    evaluate({"m": lambda x: x}, rows, classes=7, device="cpu", reporter=listener)
    assert listener.warnings == ["1 image could not be read"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_outputs_that_are_not_finite(random7, bad):
    def broken(rows):
        return rows.index_fill(0, torch.tensor([3]), bad)

    with pytest.raises(RunError, match="student gives outputs that are not finite, for 1 of 200"):
        evaluate({"student": broken}, random7, classes=7, teacher=lambda x: x, device="cpu")


def test_outputs_of_another_shape(random7):
    with pytest.raises(ModelFileError, match="m answers 200 rows with 200x6, not 200x7"):
        evaluate({"m": lambda x: x[:, :6]}, random7, classes=7, device="cpu")


@pytest.mark.parametrize(
    "fault",
    [torch.OutOfMemoryError(), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["cuda", "python", "cpu"],
)
def test_memory_that_runs_out_halves_the_batch(random7, fault: Exception):
    def limited(most):
        def model(rows):
            if len(rows) > most:
                raise fault
            return rows

        return model

    listener = Listener()
    found = evaluate({"m": limited(50), "n": lambda x: x}, random7, classes=7, device="cpu", reporter=listener)
    assert found["m"] == found["n"]
    assert len(listener.notes) == 2
    with pytest.raises(EnvironmentFault, match="one input of m"):
        evaluate({"m": limited(0)}, random7, classes=7, device="cpu")


def test_no_rows_and_no_models(random7):
    with pytest.raises(DataError, match="gave no rows"):
        evaluate(
            {"m": lambda x: x}, Rows(torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64)), classes=7, device="cpu"
        )
    with pytest.raises(ValueError, match="no model"):
        evaluate({}, random7, classes=7, device="cpu")
    with pytest.raises(ValueError, match="own name"):
        evaluate({TEACHER: halved}, random7, classes=7, teacher=halved, device="cpu")


def test_no_gradient_is_kept(random7):
    layer, seen = torch.nn.Linear(7, 7), []
    evaluate({"m": lambda x: seen.append(layer(x)) or seen[-1]}, random7, classes=7, device="cpu")
    assert not any(out.requires_grad for out in seen)


def test_intervals_hold_the_truth_as_often_as_they_say():
    for truth, samples in ((0.9, 100), (0.98, 500), (0.5, 20)):
        hits = np.random.default_rng(5).binomial(samples, truth, 4000)
        ends = [wilson_interval(hit / samples, samples) for hit in hits]
        covered = np.mean([low <= truth <= high for low, high in ends])
        assert 0.92 < covered < 0.99


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_an_interval_of_all_or_nothing_has_a_width(share: float):
    low, high = wilson_interval(share, 500)
    assert high - low == pytest.approx(0.0076, abs=1e-4), "Wilson (1927): z² / (n + z²)"
    assert share in (low, high)


def test_everything_public_exists():
    assert all(hasattr(data, name) for name in data.__all__)
