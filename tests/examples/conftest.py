"""The scripts of `examples/`, as modules."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from tests.conftest import ROOT


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a script by its path below `examples/`, as `python SCRIPT` would: with its own folder on the path."""

    def load(name: str) -> ModuleType:
        file = ROOT / "examples" / name
        monkeypatch.setattr(sys, "path", [str(file.parent), *sys.path])
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, file.stem, module)  # where dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return load
