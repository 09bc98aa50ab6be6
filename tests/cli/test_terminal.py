"""What is written where: results on stdout, everything else on stderr, and nothing that harms a terminal."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cake_cli.cli import progress
from cake_cli.cli.console import Console, count, duration, printable, size
from cake_cli.cli.progress import rate_text, reporter_of
from tests.cli.conftest import SYNTHESIS, TINY, TRAINING, record
from tests.conftest import Outcome, save_mlp

Cake = Callable[..., Outcome]
ESCAPE = "\x1b"


def test_a_pipe_gets_plain_lines(cake: Cake, mlp_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "LEAST_LOG_SECONDS", 0.0)  # this run takes less than a second
    outcome = cake("distill", mlp_file, *TINY, "-o", "run")
    assert outcome.out == "run/student.safetensors\n"
    assert ESCAPE not in outcome.err
    assert "\r" not in outcome.err
    lines = outcome.err.splitlines()
    for name in ("synthesis", "training"):
        assert any(line.startswith(f"{name}: ") for line in lines)
        assert any(line.startswith(f"ok {name} ") for line in lines)
        assert any(re.match(rf"  {name} +\d+%  ", line) for line in lines)
    assert not any("100%  " in line for line in lines), "the closing line says that it is done"


def test_before_during_and_after(cake: Cake, mlp_file: Path):
    said = cake("distill", mlp_file, *TINY, "-o", "run").err
    parts = ["cake 0.", "  teacher  teacher.onnx", "  student  mlp:8", "  plan     60 samples", "synthesis: 60 samples",
             "ok synthesis", "training: 2 epochs", "ok training", "done", "  next     cake evaluate run"]  # fmt: skip
    places = [said.index(part) for part in parts]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "arguments",
    [
        ["distill", "teacher.onnx", *TINY, "-o", "out"],
        ["distill", "teacher.onnx", *TINY, "--dry-run"],
        ["synthesize", "teacher.onnx", *SYNTHESIS, "-o", "out"],
        ["train", "bank", *TRAINING, "--student", "linear", "--no-report", "-o", "out"],
        ["resume", "run"],
        ["inspect", "teacher.onnx"],
        ["evaluate", "run", "--data", "heldout.npz", "--against", "teacher.onnx"],
        ["students"],
        ["doctor"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_json_is_one_object_and_nothing_else(
    cake: Cake, mlp_file: Path, bank: Path, distilled: Path, heldout: Path, arguments: list[str]
):
    outcome = cake(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    found, end = json.JSONDecoder().raw_decode(outcome.out)
    assert isinstance(found, dict)
    assert outcome.out[end:] == "\n"


def test_json_of_a_failure_is_nothing(cake: Cake):
    assert cake("distill", "none.onnx", *TINY, "--json").out == ""


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["distill", "teacher.onnx", *TINY, "-o", "out"], "out/student.safetensors"),
        (["train", "bank", *TRAINING, "--student", "linear", "--no-report", "-o", "out"], "out/student.safetensors"),
        (["synthesize", "teacher.onnx", *SYNTHESIS, "-o", "out"], "out"),
        (["resume", "run"], "run/student.safetensors"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_quiet_prints_the_path_and_nothing_else(
    cake: Cake, mlp_file: Path, bank: Path, distilled: Path, arguments: list[str], path: str
):
    assert cake(*arguments, "-q") == (0, f"{path}\n", "")


def test_quiet_still_says_what_is_wrong(cake: Cake):
    outcome = cake("distill", "none.onnx", *TINY, "-q")
    assert outcome.code == 3
    assert "there is no file" in outcome.err


def test_progress_none_says_before_and_after_only(cake: Cake, mlp_file: Path):
    said = cake("distill", mlp_file, *TINY, "-o", "run", "--progress", "none").err
    assert "  plan " in said
    assert "done" in said
    assert "ok training" not in said


def test_verbose_says_what_was_measured(cake: Cake, mlp_file: Path):
    arguments = ["distill", mlp_file, *TINY, "--dry-run"]
    assert "gradient non-zero" in cake(*arguments, "-v").err
    assert "gradient non-zero" not in cake(*arguments).err


# --- names that harm ----------------------------------------------------------------------------------------------

HARMFUL = "a[bold]b[x]\x1b[31mred\x07\u202e:smile:.onnx"
SHOWN = "a[bold]b[x]\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}:smile:.onnx"


def test_a_harmful_name_is_shown_and_does_nothing(cake: Cake, tmp_path: Path):
    save_mlp(tmp_path / HARMFUL)
    shown = cake("inspect", HARMFUL)
    assert shown.code == 0
    ran = cake("distill", HARMFUL, *TINY, "-o", "out[0]")
    assert ran.code == 0
    assert ran.out == "out[0]/student.safetensors\n"
    for text in (shown.out, ran.err):
        assert SHOWN in text
        assert not set(text) & {ESCAPE, "\x07", "\u202e"}


def test_a_harmful_name_in_an_error(cake: Cake):
    said = cake("distill", HARMFUL, *TINY).err
    assert f"there is no file {SHOWN}" in said
    assert not set(said) & {ESCAPE, "\x07", "\u202e"}


def test_a_harmful_name_in_json_is_escaped(cake: Cake, tmp_path: Path):
    save_mlp(tmp_path / HARMFUL)
    out = cake("inspect", HARMFUL, "--json").out
    assert json.loads(out)["path"] == HARMFUL
    assert not set(out) & {ESCAPE, "\x07"}


def test_the_next_command_can_be_pasted(cake: Cake, mlp_file: Path):
    said = cake("distill", mlp_file, *TINY, "-o", "my runs/it's").err
    assert "cake evaluate 'my runs/it'\"'\"'s' --data DATA" in said


def test_printable_keeps_words_and_lines():
    assert printable("Gr\u00fc\u00dfe \u4f60\u597d\n\ttab") == "Gr\u00fc\u00dfe \u4f60\u597d\n\ttab"
    assert printable("\x1b]0;title\x07\x9b31m") == "\ufffd]0;title\ufffd\ufffd31m"


@pytest.mark.parametrize("arguments", [["students"], ["students", "--json"], ["recipes", "paper"], ["--help"]])
def test_a_reader_that_goes_away_is_no_failure(arguments: list[str]):
    def ended(stdout: int) -> tuple[int, str]:
        command = [sys.executable, "-m", "cake_cli", *arguments]
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
        return done.returncode, done.stderr

    reading, writing = os.pipe()
    os.close(reading)
    code, said = ended(writing)
    os.close(writing)
    assert (code, said) == ended(subprocess.DEVNULL)
    assert code == 0
    assert "error" not in said


@pytest.mark.parametrize("gate", [0.0, 1.0])
def test_a_run_goes_on_without_its_readers(mlp_file: Path, heldout: Path, gate: float):
    """`cake distill ... 2>&1 | head -1`: what is made is on the disk, and the exit code is still the run's."""
    reading, writing = os.pipe()
    os.close(reading)
    asked = [mlp_file, *TINY, "--data", heldout, "--min-agreement", str(gate), "-o", "run"]
    command = [sys.executable, "-m", "cake_cli", "distill", *map(str, asked)]
    done = subprocess.run(command, stdout=writing, stderr=writing, check=False)
    os.close(writing)
    assert done.returncode == (7 if gate else 0)
    assert record(Path("run"))["status"] == "complete"


@pytest.mark.parametrize("arguments", [["recipes", "paper"], ["students"], ["students", "--json"]])
def test_a_closed_output_is_no_failure(arguments: list[str]):
    closed = "import os, sys; os.close(1); os.execv(sys.executable, sys.argv[1:])"
    command = [sys.executable, "-c", closed, sys.executable, "-m", "cake_cli", *arguments]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0
    assert "error" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_is_full_is_said():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cake_cli", "students"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.stderr.startswith("error: the output: No space left on device")
    assert done.returncode in (5, 120), "python itself cannot empty its buffer"


# --- a real terminal ----------------------------------------------------------------------------------------------


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What python, run with arguments, shows on a terminal of 80 columns: stdout and stderr together."""
    keep = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR", "TERM")}
    main, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=side, stdout=side, stderr=side, close_fds=True,
        env=keep | {"TERM": "xterm-256color", "COLUMNS": "80"} | environment,
    )  # fmt: skip
    os.close(side)
    shown = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    process.wait()
    os.close(main)
    return shown.decode()


COLOUR = re.compile(r"\x1b\[[0-9;]*(?:3[0-7]|9[0-7])m")


@pytest.mark.parametrize("width", [24, 60, 80, 200])
def test_no_figure_of_a_table_is_cut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    figures = ["99.60%", "99.0% to 100.0%", "100.00%", "", "0.000"]
    columns = ["model", "accuracy", "95 % interval", "agreement", "KL", "ECE"]
    Console().table(columns, [["runs/a-long-name/student.safetensors", *figures], ["b", *figures]], result=True)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    for figure in filter(None, figures):
        assert shown.count(figure) >= 2, "whole, in each row"
    assert "student" in shown.replace("\n", ""), "and each row says what it is of"
    if width < 80:
        assert "  95 % interval  99.0% to 100.0%\n" in shown


@pytest.mark.parametrize("prose", [True, False])
def test_a_piped_table_ends_where_its_text_does(capsys: pytest.CaptureFixture[str], prose: bool):
    rows = [["a", "1.5", "a long text " * 40], ["b" * 200, "[/2]", ""], ["c\x1b", "", ""]]
    Console().table(["name", "figure", "what it is"], rows, result=True, prose=prose)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(line == line.rstrip() for line in lines)
    assert lines[1].endswith("a long text")
    assert lines[2].endswith("[/2]")
    assert lines[3] == "c\N{REPLACEMENT CHARACTER}"


STAGE = """
import time
from cake_cli.cli.console import Console
from cake_cli.cli.progress import reporter_of
with reporter_of(Console()).stage("synthesis", 60, "samples") as stage:
    stage.advance(30, loss=0.5)
    time.sleep(0.5)
    stage.advance(30)
"""


def test_a_terminal_shows_bars_in_colour():
    shown = on_a_terminal("-c", STAGE)
    assert COLOUR.search(shown)
    assert "\x1b[?25l" in shown, "a live bar hides the cursor"
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "and gives it back"
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert "30/60 samples" in plain
    assert "loss 0.5" in plain
    assert plain.rstrip().splitlines()[-1].startswith("ok synthesis  60 samples")


def test_no_color_and_dumb_terminals_are_honoured():
    assert COLOUR.search(on_a_terminal("-m", "cake_cli", "recipes", "none"))
    assert not COLOUR.search(on_a_terminal("-m", "cake_cli", "recipes", "none", NO_COLOR="1"))
    assert ESCAPE not in on_a_terminal("-m", "cake_cli", "recipes", "none", TERM="dumb")


@pytest.mark.parametrize(("name", "value"), [("CI", "true"), ("TERM", "dumb")])
def test_some_terminals_want_lines(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert Console().progress == "bar"
    monkeypatch.setenv(name, value)
    assert Console().progress == "log"
    assert Console(quiet=True).progress == "none"
    assert Console(progress="bar").progress == "bar"


# --- progress -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "least", "most"), [(100, 18, 20), (10, 8, 10), (0.5, 0, 0)])
def test_log_lines_come_every_twentieth_but_at_most_one_a_second(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, seconds: float, least: int, most: int
):
    clock = (seconds * tick / 1000 for tick in itertools.count())
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with reporter_of(Console(progress="log")).stage("training", 1000, "epochs") as stage:
        for _ in range(1000):
            stage.advance()
    told = capsys.readouterr().err
    assert least <= told.count("%") <= most
    assert "training: 1,000 epochs" in told, "that it began"
    assert "ok training" in told, "and that it is over"


def test_never_a_silent_minute(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """A stage of a million units that takes a second for each still speaks every half minute."""
    clock = iter(range(10_000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with reporter_of(Console(progress="log")).stage("training", 1_000_000, "epochs") as stage:
        for _ in range(300):
            stage.advance(loss=0.5)
    lines = [line for line in capsys.readouterr().err.splitlines() if "training   0%" in line]
    assert len(lines) >= 9
    assert all("loss 0.5" in line for line in lines)


def test_a_stage_that_fails_has_no_closing_line(capsys: pytest.CaptureFixture[str]):
    with (
        pytest.raises(ZeroDivisionError),
        reporter_of(Console(progress="log")).stage("training", 10, "epochs") as stage,
    ):
        stage.advance(1 / 0)
    assert "ok training" not in capsys.readouterr().err


def test_bars_survive_marks_in_names(capsys: pytest.CaptureFixture[str]):
    with reporter_of(Console(progress="bar")).stage("training", 10, "[/x] images") as stage:
        stage.advance(5, note="[/red]")
        stage.conclude("10 [/x]")
    assert "10 [/x]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (120, "300/1,000 samples  30.0/s  10 s < 23 s  loss 0.5  agree 93.1%"),
        (80, "300/1,000 samples  10 s < 23 s  loss 0.5  agree 93.1%"),
        (60, "300/1,000 samples  10 s < 23 s  loss 0.5"),
        (44, "300/1,000 samples  10 s < 23 s"),
        (32, "300/1,000 samples"),
        (20, "300/1"),
    ],
)
@pytest.mark.parametrize("name", ["training", "a[/b]-long-student training"])
def test_a_bar_is_one_line_of_what_fits(monkeypatch: pytest.MonkeyPatch, width: int, shown: str, name: str):
    monkeypatch.setattr("rich.progress.Task.elapsed", 10.0)
    monkeypatch.setattr("rich.progress.Task.time_remaining", 23.0)
    monkeypatch.setattr(progress, "rate_text", lambda rate: "30.0/s")
    monkeypatch.setenv("COLUMNS", str(width + max(len(name) - progress.NAME_WIDTH, 0)))
    console = Console(progress="bar")
    with reporter_of(console).stage(name, 1000, "samples") as stage:
        stage.advance(300, loss=0.5, agree="93.1%")
        lines = console.stderr.render_lines(stage.progress.get_renderable(), pad=False)
    assert len(lines) == 1
    line = "".join(segment.text for segment in lines[0])
    assert len(line) <= console.stderr.width
    assert line.startswith(name[:5])
    assert shown in line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.9, "9.9 s"), (12.3, "12 s"), (59.9, "60 s"), (100, "1m40"), (3599, "59m59"), (7500, "2h05")],
)
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text


def test_counts_sizes_and_rates():
    assert [count(number) for number in (512, 94_600, 21_300_000, 4e9)] == ["512", "94.6 k", "21.3 M", "4.0 G"]
    sizes = (84, 90 * 1024, 14 * 2**20, 2.3 * 2**30)
    assert [size(number) for number in sizes] == ["84 B", "90 kiB", "14.0 MiB", "2.3 GiB"]
    assert [rate_text(rate) for rate in (41_000, 0.5)] == ["41.0 k/s", "30.0/min"]
