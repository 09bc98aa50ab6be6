"""The tree of faults, its exit codes, and suggestions."""

from __future__ import annotations

import pytest

from cake_cli import errors
from cake_cli.errors import CakeError, did_you_mean

CODES = {
    "UsageError": 2,
    "ModelFileError": 3,
    "DataError": 4,
    "EnvironmentFault": 5,
    "RunError": 6,
    "AgreementMissed": 7,
}


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_each_branch_has_the_exit_code_that_is_documented(name: str, code: int):
    fault = getattr(errors, name)("what happened", "what to type")
    assert isinstance(fault, CakeError)
    assert (fault.exit_code, fault.what, fault.fix, str(fault)) == (
        code,
        "what happened",
        "what to type",
        "what happened",
    )


def test_the_tree_holds_no_branch_that_is_not_documented():
    found = {kind.__name__ for kind in vars(errors).values() if isinstance(kind, type) and kind.__base__ is CakeError}
    assert found == set(CODES)
    assert errors.__doc__ is not None
    for name, code in CODES.items():
        assert f"{name:<20} {code}" in errors.__doc__


def test_a_near_name_is_suggested_and_a_far_one_is_not():
    assert did_you_mean("resnet8", ["resnet18", "mlp"]) == "did you mean 'resnet18'?"
    assert did_you_mean("xyzzy", ["resnet18", "mlp"]) == ""
