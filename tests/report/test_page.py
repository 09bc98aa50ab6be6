from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cake_cli.report import prose
from cake_cli.report.page import write_report
from cake_cli.runs import RunDirectory
from cake_cli.spec import InputSpec
from tests.report import made
from tests.report.conftest import read
from tests.report.parsed import Page

SECTIONS = {"asked", "headline", "networks", "samples", "confusion", "metrics", "cost", "repeat", "warnings", "limits"}
PICTURES = ["confusion.png", "curves.png", "samples.png"]
HOSTILE = ("<script>alert(1)</script>", "[red]x[/red]", "a$b$c", "日本語", "_u", "{{ 7 * 7 }}", "x" * 90, "&amp;")


def report(path: Path, **options: Any) -> tuple[RunDirectory, Page]:
    run = made.run(path / "run", **options)
    assert write_report(run) == run.path / "report.html"
    return run, read(run.path / "report.html")


def pictures(run: RunDirectory) -> list[str]:
    return sorted(file.name for file in run.path.glob("*.png"))


def assert_self_contained(page: Page) -> None:
    assert page.faults == []
    assert all(address.startswith("data:") for address in page.addresses)
    assert not page.all("script")
    assert not page.all("iframe")
    assert all(found.get("alt") for found in page.all("img"))


def test_a_whole_run_has_every_section(digits_page: Page) -> None:
    assert digits_page.ids >= SECTIONS | {"curves"}


def test_everything_is_in_the_one_file(digits: RunDirectory, digits_page: Page) -> None:
    assert_self_contained(digits_page)
    text = (digits.path / "report.html").read_text(encoding="utf-8")
    assert "url(" not in text
    assert "@import" not in text
    assert "http://" not in text
    assert "https://" not in text


def test_the_policy_allows_nothing_but_what_is_in_the_page(digits_page: Page) -> None:
    policies = [
        found["content"] for found in digits_page.all("meta") if found.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    for rule in ("default-src 'none'", "img-src data:", "style-src 'unsafe-inline'"):
        assert rule in policies[0]


def test_every_picture_of_the_page_opens(digits_page: Page) -> None:
    found = [a for a in digits_page.addresses if a.startswith("data:image")]
    assert len(found) == 80 + 2 * 4  # samples, and four diagrams in light and dark
    for address in found:
        with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2], validate=True))) as picture:
            picture.verify()


def test_headline_numbers_stand_before_all_tables(digits: RunDirectory, digits_page: Page) -> None:
    evaluation = digits.record["evaluation"]
    start = digits_page.text.partition("Teacher and student")[0]
    for share in (*evaluation["accuracy"].values(), evaluation["agreement"]):
        assert f"{100 * share:.1f} %" in start
    low, high = evaluation["models"]["student"]["accuracy_interval"]
    assert f"{100 * low:.1f} to {100 * high:.1f} %" in start


def test_tables_have_headers_and_captions(digits_page: Page) -> None:
    assert len(digits_page.all("caption")) == len(digits_page.all("table")) >= 5
    assert all(found.get("scope") in ("row", "col") for found in digits_page.all("th"))


def test_the_command_and_the_configuration_can_be_copied(digits_page: Page) -> None:
    assert "cake distill examples/digits/teacher.onnx --student cnn --data 'my data/held out.npz'" in digits_page.text
    assert "max_update = 0.3" in digits_page.text


def test_writes_the_pictures_and_leaves_nothing_else(digits: RunDirectory) -> None:
    assert pictures(digits) == PICTURES
    assert {file.name for file in digits.path.iterdir()} == {
        *PICTURES,
        *("bank", "config.toml", "metrics.jsonl", "report.html", "run.json"),
    }


def test_says_what_is_not_promised(digits_page: Page) -> None:
    for words in ("No privacy guarantee", "teacher's mistakes", "need not look like data", "Data-free, as far as"):
        assert words in digits_page.text


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    run, page = report(
        tmp_path,
        metrics=False,
        classes=len(HOSTILE),
        names=HOSTILE,
        warnings=["<img src=x onerror=alert(1)> [bold]"],
        argv=["distill", "<b>.onnx", "--student", "a;b"],
    )
    assert_self_contained(page)
    assert pictures(run) == ["confusion.png", "samples.png"]
    for name in (*HOSTILE, "<img src=x onerror=alert(1)> [bold]", "'<b>.onnx'", "'a;b'"):
        assert name in page.text


def test_without_held_out_data(tmp_path: Path) -> None:
    run, page = report(tmp_path, measured=False, baseline=False)
    assert_self_contained(page)
    assert page.ids >= SECTIONS
    assert pictures(run) == ["curves.png", "samples.png"]
    assert "94.1 %" in page.text
    assert "are not known" in page.text
    assert "--against examples/digits/teacher.onnx" in page.text


@pytest.mark.parametrize("arch", [None, "net.py:teach"])
def test_what_to_type_to_measure_a_student_of_own_code(tmp_path: Path, arch: str | None) -> None:
    record = {"teacher": {"path": "t.safetensors"}, "student": {"architecture": "my net.py:make"}}
    said = prose.advice_without_evaluation(record, tmp_path, arch)
    assert f"{tmp_path}/student.safetensors --arch 'my net.py:make' --data DATA --against t.safetensors" in said
    assert said.endswith(" --against-arch net.py:teach" if arch else "t.safetensors")


def test_without_a_noise_baseline(tmp_path: Path) -> None:
    _, page = report(tmp_path, baseline=False, metrics=False, with_bank=False)
    assert_self_contained(page)
    assert "oise baseline accuracy" not in page.text


@pytest.mark.parametrize(
    ("status", "words"), [("failed", "This run failed. It stopped with: the loss is odd."), ("interrupted", "resume")]
)
def test_a_run_that_stopped_says_so_first(tmp_path: Path, status: str, words: str) -> None:
    error = "the loss is odd" if status == "failed" else None
    run, page = report(
        tmp_path, status=status, error=error, measured=False, metrics=False, with_bank=False, student=None, seconds={}
    )
    assert_self_contained(page)
    assert pictures(run) == []
    assert words in page.text.partition("Distil the classifier")[0]


def test_a_run_of_which_nothing_is_known_yet(tmp_path: Path) -> None:
    run = made.run(tmp_path / "run", with_bank=False, metrics=False, measured=False)
    fresh = {"schema_version": 1, "command": "distill", "status": "running", "seconds": {}, "warnings": []}
    run.record = fresh
    (run.path / "config.toml").unlink()
    page = read(write_report(run))
    assert_self_contained(page)
    assert page.ids >= SECTIONS
    assert "This run is not finished" in page.text
    assert "there is no configuration file" in page.text


def test_real_data_is_said_loudly(tmp_path: Path) -> None:
    _, page = report(tmp_path, data_free=False, measured=False, metrics=False, with_bank=False)
    start = page.text.partition("Teacher and student")[0]
    assert "This run was not data-free." in start
    assert "without its training data" not in page.text
    assert "Data-free, as far as" not in page.text


def test_a_start_from_weights_and_what_both_networks_cost(tmp_path: Path) -> None:
    run = made.run(tmp_path / "run", metrics=False, with_bank=False)
    student = {"architecture": "/home/me/nets.py:make", "parameters": 50, "size": {"multiply_adds": 48}}
    teacher = dict(run.record["teacher"]) | {"size": {"multiply_adds": 192}}
    run.update(student=student | {"init_sha256": "e" * 64}, teacher=teacher)
    write_report(run)
    page = read(run.path / "report.html")
    assert "The student started from weights." in page.text
    assert "What its first weights saw is not known." in page.text
    assert "nets.py:make" in page.text
    assert "/home/me" not in page.text
    assert "0.25 of the teacher's" in page.text


@pytest.mark.parametrize(("gate", "words"), [(0.5, "is reached"), (0.999, "asked for is missed")])
def test_a_gate_is_told(tmp_path: Path, gate: float, words: str) -> None:
    _, page = report(tmp_path, gate=gate, metrics=False, with_bank=False)
    assert words in page.text


def test_a_train_run_shows_the_bank_that_it_used(tmp_path: Path) -> None:
    made.bank(tmp_path / "elsewhere", made.teacher(made.DIGITS, 10))
    run, page = report(
        tmp_path,
        command="train",
        with_bank=False,
        metrics=False,
        bank="elsewhere",
        working_directory=str(tmp_path),
    )
    assert "samples.png" in pictures(run)
    assert "Train cnn on a bank" in page.text


def test_a_damaged_bank_is_a_note_and_no_failure(tmp_path: Path) -> None:
    run = made.run(tmp_path / "run", metrics=False, measured=False)
    manifest = run.bank_path / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"shards": [{"file": "../x"}]}))
    page = read(write_report(run))
    assert "The samples could not be read" in page.text
    assert pictures(run) == []


@pytest.mark.parametrize(
    ("spec", "classes"),
    [
        (InputSpec((3, 128, 130), (0.5,) * 3, (0.2,) * 3), 1000),
        (InputSpec((2, 6, 7)), 2),
        (InputSpec((7, 1, 90), range=None), 100),
        (InputSpec((2,), range=None), 2),
        (InputSpec((1,), range=None), 3),
        (InputSpec((300,), range=None), 21),
    ],
)
def test_any_input_and_number_of_classes(tmp_path: Path, spec: InputSpec, classes: int) -> None:
    run, page = report(tmp_path, spec=spec, classes=classes, metrics=False)
    assert_self_contained(page)
    assert ("confusion.png" in pictures(run)) == (classes <= 100)
    assert "samples.png" in pictures(run)
    heads = [found for found in page.all("th") if found.get("scope") == "col"]
    assert len(heads) < 40
    assert (run.path / "report.html").stat().st_size < 3_000_000


def test_writing_again_replaces_the_page(tmp_path: Path) -> None:
    run, _ = report(tmp_path, metrics=False, with_bank=False, measured=False)
    run.update(warnings=["a late one"])
    assert "a late one" in read(write_report(run)).text


def test_rounds_are_told(tmp_path: Path) -> None:
    expected, moved = ({"value": value, "low": value - 0.03, "high": 0.9, "samples": 500} for value in (0.773, 0.162))
    entries = [
        {"round": 1, "samples": 500, "disagreement": 0.0, "synthetic_fidelity": 0.5},
        {
            **{"round": 2, "samples": 500, "disagreement": 100.0},
            **{"expected_agreement": expected, "agreement_on_samples": moved},
        },
    ]
    _, page = report(tmp_path, rounds=entries, student_passes={"forward": 32_000, "backward": 32_000})
    assert_self_contained(page)
    for text in (
        "Round 2",
        "77.3 %",
        "74.3",
        "16.2 %",
        "13.2",
        "32,000 + 32,000",
        "drawn to where it differs from the teacher",
    ):
        assert text in page.text, text


def test_one_round_is_no_table(tmp_path: Path) -> None:
    _, page = report(tmp_path, rounds=[{"round": 1, "samples": 500}])
    assert "Round 1" not in page.text
