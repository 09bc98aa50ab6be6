"""The README says what is so. Its commands are run by `.ci/run`, one after the other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cake_cli.catalog import STUDENTS
from cake_cli.cli.app import run
from cake_cli.settings import recipe_names

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"\bcake ([a-z]+)\b", README)


def test_it_is_short_enough_to_read() -> None:
    assert len(README.splitlines()) < 300


def test_nothing_is_left_to_fill_in() -> None:
    assert "@@" not in README


def test_pictures_and_files_exist() -> None:
    named = re.findall(r"\]\(([^)#]+)\)", README) + re.findall(r"examples/[\w./-]+", README)
    assert named
    assert [name for name in named if "://" not in name and not (ROOT / name.rstrip(".")).exists()] == []


@pytest.mark.parametrize("command", sorted({name for name in COMMANDS if name != "prints"}))
def test_every_command_exists_and_has_the_flags_that_are_shown(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run([command, "--help"]) == 0
    help_text = capsys.readouterr().out
    flags = set()
    for line in re.findall(rf"^cake {command} .*$|&& cake {command} .*$", README, flags=re.MULTILINE):
        flags |= set(re.findall(r"(?<= )--[a-z-]+", line.partition("  #")[0]))
    assert sorted(flag for flag in flags if flag not in help_text) == []


def test_students_and_recipes_exist() -> None:
    shown = re.findall(r"--student ([a-z0-9_-]+)", README)
    assert set(shown) <= set(STUDENTS)
    recipes = set(re.findall(r"`((?:paper|many)(?:-\w+)?)`", README))
    assert recipes == set(recipe_names())


def test_the_shell_blocks_are_what_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "readme.py README.md" in ci
    blocks = re.findall(r"^```bash\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    assert "pip install" in blocks[0]
    assert "cake distill examples/digits/teacher.onnx" in blocks[0]
    assert blocks[-1] == "python -m pytest -n 2\n"
