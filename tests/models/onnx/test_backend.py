"""A sample of ONNX's own backend tests; the whole is `python -m tests.models.onnx.backend_yardstick`."""

import pytest

from tests.models.onnx.backend_yardstick import left_out, load_cases, outcome

STEP = 6


@pytest.fixture(scope="module")
def cases():
    return [case for case in load_cases() if left_out(case) is None]


def test_enough_is_in_scope(cases):
    assert len(cases) >= 1400


def test_every_sixth_node_test_passes(cases):
    sample = [case for case in cases if case.kind == "node"][::STEP]
    failed = {case.name: result for case in sample if (result := outcome(case)) != "passed"}
    assert set(failed) <= {"test_scan_sum"}  # the Scan of opset 8


def test_all_that_torch_and_caffe2_wrote_passes(cases):
    sample = [case for case in cases if case.kind in ("simple", "pytorch-converted", "pytorch-operator")]
    assert {case.name: result for case in sample if (result := outcome(case)) != "passed"} == {}


def test_a_wrong_answer_is_seen(cases):
    case = next(case for case in cases if case.name == "test_relu")
    for _, outputs in case.data:
        outputs[0] = outputs[0] + 1
    assert outcome(case) == "wrong"
