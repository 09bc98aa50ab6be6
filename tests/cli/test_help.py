"""Help and completion: cheap, complete, and with the real defaults."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from cake_cli import __version__
from cake_cli.catalog import STUDENTS
from cake_cli.config import DEFAULT_SAMPLES
from cake_cli.settings import defaults, field_types, recipe_names
from tests.conftest import Outcome

HEAVY = ["torch", "torchvision", "torchmetrics", "onnx", "onnxruntime", "onnx2torch", "numpy", "matplotlib", "PIL"]
COMMANDS = [
    "distill",
    "synthesize",
    "train",
    "resume",
    "inspect",
    "evaluate",
    "report",
    "export",
    "students",
    "recipes",
    "doctor",
]
PROBE = """
import atexit, json, sys
wanted = json.loads(sys.argv[2])
atexit.register(lambda: sys.stderr.write(json.dumps(sorted(set(wanted) & set(sys.modules)))))
from cake_cli.cli.app import run
sys.exit(run(json.loads(sys.argv[1])))
"""


def in_fresh_interpreter(*arguments: str, **environment: str) -> tuple[str, int, list[str]]:
    """What a command prints, its code, and which heavy packages it imported."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE, json.dumps(arguments), json.dumps(HEAVY)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "110"} | environment,
    )
    return done.stdout, done.returncode, json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize("arguments", [["--help"], ["distill", "--help"], ["--version"], ["students"], ["recipes"]])
def test_help_and_lists_import_nothing_heavy(arguments: list[str]):
    printed, code, heavy = in_fresh_interpreter(*arguments)
    assert (code, heavy) == (0, [])
    assert printed


def test_the_probe_sees_what_is_imported():
    _, code, heavy = in_fresh_interpreter("doctor")
    assert code == 0
    assert "torch" in heavy


def test_completing_a_student_imports_nothing_heavy():
    printed, code, heavy = in_fresh_interpreter(
        _CAKE_COMPLETE="complete_bash", COMP_WORDS="cake distill teacher.onnx --student resnet1", COMP_CWORD="4"
    )
    assert (code, heavy) == (0, [])
    assert printed.split() == [name for name in STUDENTS if name.startswith("resnet1")]


PAPERS = [name for name in recipe_names() if name.startswith("paper-")]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("cake distill t.onnx --recipe paper-", PAPERS),
        ("cake recipes paper-", PAPERS),
        ("cake distill t.onnx --views s", ["shift"]),
        ("cake distill t.onnx --views mix,", ["mix,shift", "mix,flip", "mix,noise"]),
        ("cake distill t.onnx --device c", ["cpu", "cuda"]),
        ("cake distill t.onnx --precision fp", ["fp32", "fp16"]),
        ("cake distill t.onnx --set synthesis.in", ["synthesis.init="]),
        ("cake distill t.onnx --set set_s", ["set_size="]),
        ("cake distill t.onnx --set init=s", ["init=smooth", "init=scenes"]),
        ("cake distill t.onnx --set unknown=s", []),
        ("cake distill t.pth --arch resnet1", [name for name in STUDENTS if name.startswith("resnet1")]),
    ],
)
def test_completing_other_names(line: str, offered: list[str]):
    printed, code, heavy = in_fresh_interpreter(
        _CAKE_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(line.split()) - 1)
    )
    assert (code, heavy) == (0, [])
    assert printed.split() == offered


def test_nothing_to_do_is_help(cake: Callable[..., Outcome]):
    outcome = cake()
    assert outcome.code in (0, 2)
    assert all(command in outcome.out + outcome.err for command in COMMANDS)


def test_help_names_every_command_in_its_panel(cake: Callable[..., Outcome]):
    outcome = cake("--help")
    assert outcome.code == 0
    assert all(panel in outcome.out for panel in ("Distil", "Look", "Help"))
    assert all(command in outcome.out for command in COMMANDS)


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(cake: Callable[..., Outcome], command: str, flag: str):
    outcome = cake(command, flag)
    assert (outcome.code, outcome.err) == (0, "")
    assert f"cake {command}" in outcome.out


def words(text: str) -> str:
    """The text of a help page without its frames and line breaks."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def test_help_lists_the_real_defaults(cake: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    help_page = words(cake("distill", "--help").out)
    for key in (
        "synthesis.steps",
        "training.batch_size",
        "training.temperature",
        "training.ema",
        "seed",
    ):
        assert f"--{key.rpartition('.')[2].replace('_', '-')}" in help_page
        assert f"Default: {defaults()[key]}." in help_page
    assert "--lr <float> Peak learning rate; without it 0.1 with sgd and 0.003 with adamw." in help_page
    assert f"by default {DEFAULT_SAMPLES}, or what fits into --time-budget" in help_page


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_choice_is_broken_in_mid_word(cake: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, width: int):
    monkeypatch.setenv("COLUMNS", str(width))
    page = cake("distill", "--help").out
    told = words(page)
    for choices in ("auto, logits, log-probs, probs, labels", "mix, shift, flip, noise", "auto, bar, log, none"):
        assert f"Choices: {choices}." in " ".join(told.split())
    assert "smooth-noise" in told, "where the text names every choice, it is not followed by a list"
    assert "Choices: cake" not in told
    assert "<auto" not in page


def test_every_key_is_listed_with_its_default(cake: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    listed = {line.split()[0]: line for line in cake("recipes", "--keys").out.splitlines()[1:]}
    assert set(listed) == set(field_types())
    assert str(defaults()["synthesis.cls_weight"]) in listed["synthesis.cls_weight"]


def test_version(cake: Callable[..., Outcome]):
    assert cake("--version") == (0, f"cake {__version__}\n", "")


def test_students_and_recipes_are_listed(cake: Callable[..., Outcome]):
    assert json.loads(cake("students", "--json").out) == STUDENTS
    students, recipes = cake("students").out, cake("recipes").out
    assert all(name in students for name in STUDENTS)
    assert all(name in recipes for name in recipe_names())
    assert "set_size = 500" in cake("recipes", "paper-cifar").out


def test_doctor_says_what_is_there(cake: Callable[..., Outcome]):
    facts = json.loads(cake("doctor", "--json").out)
    assert facts["cake"] == __version__
    assert "thread" in facts["device cpu"]
    assert facts["torch"] in cake("doctor").out


@pytest.mark.parametrize(("number", "said"), [(1, "1 thread"), (2, "2 threads")])
def test_doctor_counts_threads(cake: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, number: int, said: str):
    monkeypatch.setattr("torch.get_num_threads", lambda: number)
    assert json.loads(cake("doctor", "--json").out)["device cpu"] == said


@pytest.mark.parametrize(
    ("arguments", "said", "fix"),
    [
        (["distil"], "No such command 'distil'. Did you mean 'distill'?", "cake --help"),
        (["distill", "--studnt", "cnn"], "No such option: --studnt, did you mean --student?", "cake distill --help"),
        (["distill", "--bogus"], "No such option: --bogus", "cake distill --help"),
        (["distill", "--samples", "1e3"], "'--samples': it must be a whole number", "cake distill --help"),
        (["train", "--lr", "fast"], "'--lr': it must be a number", "cake train --help"),
        (["evaluate", "--batch-size", "0"], "it must be greater than or equal to 1", "cake evaluate --help"),
        (["distill", "--method", "magic"], "Invalid value for '--method': 'magic' is not one of 'cake', 'naive', "
         "'generative', 'noise', 'smooth-noise'", "cake distill --help"),
        (["distill", "--samples"], "Option '--samples' requires an argument", "cake --help, or cake COMMAND --help"),
        (["export", "run"], "which format?", "one of onnx, torchscript, pt2, safetensors"),
        (["resume"], "Missing argument 'RUN'", "cake resume --help"),
    ],
)  # fmt: skip
def test_a_mistyped_command_line(cake: Callable[..., Outcome], arguments: list[str], said: str, fix: str):
    outcome = cake(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    what, hint = outcome.err.splitlines()
    assert what.startswith("error: ")
    assert what.endswith(said)
    assert hint == f"try:   {fix}"
