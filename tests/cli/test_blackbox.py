"""Teachers without a gradient, as a user meets them: files that are only run, and endpoints."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import SYNTHESIS, TINY, digest, record, refusal, save_heldout
from tests.conftest import Outcome
from tests.models.blackbox.files import int8, labels_only, trees
from tests.models.blackbox.serving import Scores, Served, serving, tanh_scores

Cake = Callable[..., Outcome]
ASKED = ["--input-shape", "1,4,4"]
ESTIMATED = ["--gradients", "estimated", "--set", "synthesis.directions=3"]
CHECK, LOOK = 9, 3
"""Rows asked before a synthesis and after each wave, to see that answers stay."""


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as server:
        yield server


def shards(bank: Path) -> list[str]:
    return [digest(file) for file in sorted(bank.glob("shard-*.safetensors"))]


@pytest.mark.parametrize("kind", ["int8", "trees", "labels", "endpoint"])
def test_pure_querying_goes_the_whole_way(cake: Cake, own_folder: Path, served: Served, kind: str) -> None:
    files = {"int8": int8, "trees": trees, "labels": labels_only}
    flags = {"int8": [], "trees": [], "labels": ["--classes", "3"], "endpoint": ASKED}[kind]
    teacher = served.address if kind == "endpoint" else files[kind](own_folder)
    image = kind in ("int8", "endpoint")
    data = ["--data", heldout(own_folder, image)]
    outcome = cake("distill", teacher, *flags, *TINY, *data, "-o", "run", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["teacher_passes"] == {"forward": 60, "backward": 0}
    assert "60 for samples (labels alone), 40 for the held-out data" in outcome.err
    assert "on target" not in outcome.err, "labels are asked for, and nothing is aimed at"
    made = record(Path("run"))
    assert made["teacher"]["no_gradient"]
    assert made["synthesis"]["method"] == ("smooth-noise" if image else "noise"), "chosen for the teacher"
    assert not Path("run/noise_baseline.safetensors").exists(), "the student is its own floor"
    if kind == "endpoint":
        assert served.rows == CHECK + 60 + 2 * LOOK + 40
        assert record(Path("run"))["teacher"]["path"] == served.address
    compared = cake("evaluate", "run", *data, "--against", teacher, *flags, "--json")
    assert compared.code == 0, compared.err
    assert 0 <= json.loads(compared.out)["agreement"] <= 1


def test_labels_that_teach_little_are_warned_of(cake: Cake, own_folder: Path) -> None:
    """Of a forest whose features lie around 50, while the range that a file does not say is assumed."""
    outcome = cake("distill", trees(own_folder, around=50.0), *TINY, "-o", "run")
    assert outcome.code == 0
    said = "the teacher puts 100% of them in one of its 3 classes, so they teach little: check --input-range, --mean"
    assert said in " ".join(outcome.err.split())
    assert any(said in warning for warning in record(Path("run"))["warnings"])


def heldout(folder: Path, image: bool) -> Path:
    if image:
        return save_heldout(folder / "heldout.npz")
    draw = np.random.default_rng(0)
    np.savez(folder / "vectors.npz", x=draw.normal(size=(40, 4)).astype(np.float32), y=np.arange(40) % 3)
    return folder / "vectors.npz"


@pytest.mark.parametrize("kind", ["int8", "trees"])
def test_gradients_are_estimated_where_there_are_none(cake: Cake, own_folder: Path, kind: str) -> None:
    teacher = (int8 if kind == "int8" else trees)(own_folder)
    said = refusal(cake("distill", teacher, *TINY, "--method", "cake", "-o", "run"), 3)
    assert ("int8" if kind == "int8" else "tree ensemble") in said
    assert "--gradients estimated" in said
    assert not Path("run").exists()
    assert "and --rounds 2 needs one" in refusal(cake("distill", teacher, *TINY, "--rounds", "2", "-o", "run"), 3)
    outcome = cake(
        "distill", teacher, *[flag for flag in TINY if flag != "--no-report"], *ESTIMATED, "-o", "run", "--json"
    )
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["teacher_passes"] == {"forward": 60 * (2 * 7 + 1), "backward": 0}
    assert Path("run/report.html").is_file()
    assert "900 for samples (3 directions a step, smoothing 0.1)" in outcome.err


@pytest.mark.parametrize("directions", [0, 3], ids=["student alone", "both"])
def test_rounds_go_where_the_student_differs_from_answers(cake: Cake, own_folder: Path, directions: int) -> None:
    teacher = int8(own_folder)
    asked = ["--gradients", "estimated", "--set", f"synthesis.directions={directions}", "--rounds", "2", *TINY]
    for out, weight in (("apart", "5"), ("alone", "0")):
        outcome = cake("distill", teacher, *asked, "--disagreement", weight, "-o", out, "--json")
        assert outcome.code == 0, outcome.err
        passes = 60 * (2 * (1 + 2 * directions) + 1)
        assert json.loads(outcome.out)["teacher_passes"] == {"forward": passes, "backward": 0}
        assert (record(Path(out))["student_passes"]["backward"] > 0) == (weight == "5")
    first, second = ([shards(Path(out, "bank"))[of] for out in ("apart", "alone")] for of in (0, -1))
    assert first[0] == first[1]
    assert second[0] != second[1]


def test_a_budget_of_queries_is_kept_to_the_row(cake: Cake, served: Served) -> None:
    flags = [*ASKED, *SYNTHESIS, *ESTIMATED, "--queries", "700"]
    planned = cake("synthesize", served.address, *flags, "--dry-run", "--json")
    assert json.loads(planned.out)["teacher_passes"] == {"forward": 480, "backward": 0}
    assert served.rows == CHECK, "nothing is asked to time a step"
    assert "480 of at most 700 for samples" in planned.err
    served.rows = 0
    made = cake("synthesize", served.address, *flags, "-o", "bank", "--json")
    assert made.code == 0, made.err
    assert json.loads(made.out)["teacher_passes"]["forward"] == 480
    assert served.rows == CHECK + 480 + 2 * LOOK
    assert "--queries is 20" in refusal(cake("synthesize", served.address, *flags[:-1], "20"), 2)


def test_what_an_endpoint_is(cake: Cake, served: Served) -> None:
    shown = cake("inspect", served.address, *ASKED)
    assert shown.code == 0
    assert shown.out.startswith(f"{served.address}: a teacher\n")
    assert "gradient        none: 127.0.0.1:" in shown.out
    assert f"cake distill {served.address} --input-shape 1,4,4 --student cnn\n" in shown.out
    assert "--gradients estimated" in shown.out
    assert "asked 9 rows to open it" in shown.out
    assert served.rows == 9
    described = json.loads(cake("inspect", served.address, *ASKED, "--json").out)
    assert described["path"] == served.address
    assert "--gradients" not in cake("inspect", served.address, *ASKED, "--outputs", "labels").out
    assert "--input-shape" in refusal(cake("inspect", served.address), 2)


def test_what_a_file_without_a_gradient_is(cake: Cake, own_folder: Path) -> None:
    shown = cake("inspect", trees(own_folder))
    assert shown.code == 0
    assert "none: the model is a tree ensemble" in shown.out
    assert "--student mlp\n" in shown.out


@pytest.mark.parametrize("where", [6, 9, 13])
def test_an_endpoint_that_dies_is_gone_on_with(cake: Cake, served: Served, where: int) -> None:
    flags = [*ASKED, *TINY, *ESTIMATED]
    assert cake("distill", served.address, *flags, "-o", "whole").code == 0
    served.requests, served.dies_after = 0, 5 + where
    said = refusal(cake("distill", served.address, *flags, "-o", "run"), 5)
    assert "answered 500" in said
    assert "cake resume" in said
    assert record(Path("run"))["status"] == "failed"
    assert len(shards(Path("run/bank"))) == where // 10
    refusal(cake("resume", "run"), 5)
    served.dies_after = None
    assert cake("resume", "run").code == 0
    assert shards(Path("run/bank")) == shards(Path("whole/bank"))
    assert record(Path("run"))["teacher_passes"] == record(Path("whole"))["teacher_passes"]


def test_another_model_behind_the_address_is_noticed(cake: Cake, served: Served) -> None:
    flags = [*ASKED, *SYNTHESIS, *ESTIMATED]
    served.dies_after = 5 + 13
    refusal(cake("synthesize", served.address, *flags, "-o", "bank"), 5)
    served.dies_after, first = None, served.scores
    served.scores = tanh_scores(seed=1)
    said = refusal(cake("resume", "bank"), 6)
    assert "answers otherwise than when the bank bank was begun: by " in said
    served.scores = first
    assert cake("resume", "bank").code == 0
    served.requests, other = 0, tanh_scores(seed=1)
    served.scores = lambda rows: first(rows) if served.requests < 18 else other(rows)
    assert "answers otherwise" in refusal(cake("synthesize", served.address, *flags, "-o", "mixed"), 6)
    assert len(shards(Path("mixed"))) == 1, "the wave in which the model changed is not stored"
    served.scores = first
    assert cake("resume", "mixed").code == 0
    assert shards(Path("mixed")) == shards(Path("bank"))


def test_garbage_stops_a_run_that_can_be_gone_on_with(cake: Cake, served: Served) -> None:
    served.change = lambda answer: answer if served.requests < 12 else {"scores": "sorry"}
    said = refusal(cake("distill", served.address, *ASKED, *TINY, *ESTIMATED, "-o", "run"), 6)
    assert "no table of numbers" in said
    served.change = lambda answer: answer
    assert cake("resume", "run").code == 0


def test_noisy_answers_are_said_before_the_run(cake: Cake, served: Served) -> None:
    draw = np.random.default_rng(0)
    noisy = served.scores
    served.scores = lambda rows: noisy(rows) + 0.1 * draw.normal(size=(len(rows), 3))
    outcome = cake("distill", served.address, *ASKED, *TINY, "--method", "noise", "-o", "run")
    assert outcome.code == 0, outcome.err
    assert "answers change: by " in outcome.err
    assert any("answers change: by " in told for told in record(Path("run"))["warnings"])
    rounds = cake("distill", served.address, *ASKED, *TINY, "--rounds", "2", *ESTIMATED, "-o", "rounds").err
    assert rounds.count("labels are noisy") == 2, "in the plan, and once as a warning"


def test_a_noisy_model_that_is_another_one_is_noticed(cake: Cake, served: Served) -> None:
    draw = np.random.default_rng(0)
    right, flags = served.scores, [*ASKED, *SYNTHESIS, *ESTIMATED]
    served.dies_after = 5 + 13
    refusal(cake("synthesize", served.address, *flags, "-o", "bank"), 5)
    served.dies_after = None
    served.scores = lambda rows: -right(rows) + 0.05 * draw.normal(size=(len(rows), 3))
    assert "answers otherwise than when the bank bank was begun" in refusal(cake("resume", "bank"), 6)
    served.scores = lambda rows: right(rows) + 0.05 * draw.normal(size=(len(rows), 3))
    outcome = cake("resume", "bank")
    assert outcome.code == 0, outcome.err
    assert "answers change: by " in outcome.err, "it is the same, and noisy now"


def test_another_model_is_noticed_among_probabilities_that_jitter(cake: Cake, served: Served) -> None:
    draw, right, flags = np.random.default_rng(0), served.scores, [*ASKED, *SYNTHESIS, *ESTIMATED]

    def jittering(scores: Scores) -> Scores:
        def ask(rows: np.ndarray) -> np.ndarray:
            odds = np.exp(4 * scores(rows))
            return np.maximum(0, odds / odds.sum(1, keepdims=True) + 1e-4 * draw.normal(size=(len(rows), 3)))

        return ask

    served.scores = jittering(right)
    served.dies_after = 5 + 13
    refusal(cake("synthesize", served.address, *flags, "-o", "bank"), 5)
    served.dies_after = None
    served.scores = jittering(lambda rows: -right(rows))
    assert "answers otherwise than when" in refusal(cake("resume", "bank"), 6)
    served.scores = jittering(right)
    outcome = cake("resume", "bank")
    assert outcome.code == 0, outcome.err
    assert "noisy" not in outcome.err, "so little is none"


@pytest.mark.parametrize("classes", [6, 7])
def test_a_model_of_other_classes_is_noticed(cake: Cake, served: Served, classes: int) -> None:
    right = served.scores
    served.dies_after = 5 + 13
    flags = [*ASKED, *SYNTHESIS, "--set", "set_size=30", *ESTIMATED]
    refusal(cake("distill", served.address, *flags, "--student", "linear", "-o", "run"), 5)
    stopped = record(Path("run"))
    assert stopped["teacher_passes"]["forward"] > 0, "what was asked for is known of a run that stopped, too"
    served.dies_after = None
    served.scores = tanh_scores(classes=classes)
    said = refusal(cake("resume", "run"), 6)
    assert f"answers of {classes} classes, and the bank run/bank was begun of 3" in said
    served.scores = right
    assert cake("resume", "run").code == 0


def test_what_has_no_flag_is_told_as_a_setting(cake: Cake, served: Served) -> None:
    flags = [*ASKED, "--set", "teacher.retries=0", "--set", "teacher.request_rows=1000000"]
    told = cake("inspect", served.address, *flags).out
    assert "--set teacher.request_rows=1000000 --set teacher.retries=0 --student" in told


def test_a_label_that_is_another_now_and_then_stops_nothing(cake: Cake, served: Served) -> None:
    right, looks = served.scores, []

    def sometimes(rows: np.ndarray) -> np.ndarray:
        looks.extend([served.requests] if len(rows) == LOOK else [])
        return -right(rows) if len(looks) % 4 == 3 and len(rows) == LOOK else right(rows)

    served.scores = sometimes
    outcome = cake("distill", served.address, *ASKED, *TINY, "--samples", "200", "--set", "sets_at_once=1", "-o", "run")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("answers the same question otherwise now and then, so labels are noisy") == 1


def test_small_requests_can_be_asked_for_everywhere(cake: Cake, served: Served, own_folder: Path) -> None:
    small = [*ASKED, "--set", "teacher.request_rows=2"]
    assert cake("inspect", served.address, *small).code == 0
    served.requests = 0
    data = heldout(own_folder, True)
    found = json.loads(cake("evaluate", served.address, *small, "--data", data, "--json").out)
    assert served.requests >= found["samples"] / 2


def test_the_token_is_written_nowhere(
    cake: Cake, served: Served, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "sesame-7")
    flags = [*ASKED, "--token-env", "MY_TOKEN"]
    outcome = cake("distill", served.address, *flags, *TINY, "--method", "noise", "-o", "run", "-v")
    assert outcome.code == 0, outcome.err
    assert served.headers[0]["Authorization"] == "Bearer sesame-7"
    assert "sesame" not in outcome.out + outcome.err
    served.requests, served.change = (
        0,
        lambda answer: answer if served.requests < 7 else {"error": "hdr Bearer sesame-7"},
    )
    said = refusal(cake("distill", served.address, *flags, *TINY, "--method", "noise", "-o", "told"), 6)
    assert "without scores" in said
    assert "sesame" not in said
    served.change = lambda answer: answer
    assert not [file for file in own_folder.rglob("*") if file.is_file() and b"sesame" in file.read_bytes()]
    assert "--token-env is for endpoints" in refusal(cake("inspect", int8(own_folder), "--token-env", "MY_TOKEN"), 2)
    data = save_heldout(own_folder / "heldout.npz")
    assert cake("evaluate", "run", "--data", data, "--against", served.address, *flags, "--csv", "c.csv").code == 0
    teacher = next(csv.DictReader(Path("c.csv").read_text(encoding="utf-8").splitlines()))
    assert teacher["role"] == "teacher"
    assert {teacher[name] for name in ("parameters", "multiply_adds", "bytes")} == {""}, "nobody knows them"


def test_what_needs_the_teacher_itself_is_refused(cake: Cake, own_folder: Path) -> None:
    file = int8(own_folder)
    assert "bench" in refusal(cake("bench", file, "--method", "noise"), 3)
    assert "no operators to write" in refusal(cake("export", file, "--to", "torchscript"), 3)
    labels = labels_only(own_folder)
    said = refusal(cake("distill", labels, "--classes", 3, *TINY, "--gradients", "estimated"), 2)
    assert "no gradient can be estimated" in said
    assert "generative" in refusal(cake("distill", file, *TINY, *ESTIMATED, "--method", "generative"), 2)
    assert "--gradients exact needs one" in refusal(
        cake("distill", file, *TINY, "--method", "noise", "--gradients", "exact"), 3
    )


def test_a_float_teacher_can_be_asked_only(cake: Cake, mlp_file: Path) -> None:
    outcome = cake("distill", mlp_file, *TINY, *ESTIMATED, "-o", "run", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["teacher_passes"] == {"forward": 900, "backward": 0}
    assert record(Path("run"))["teacher"]["no_gradient"] is None
