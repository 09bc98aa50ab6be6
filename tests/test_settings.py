"""Configurations: precedence, faults all at once, TOML there and back, and the paper's recipes."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cake_cli.config import (
    DEFAULT_SAMPLES,
    TV_WEIGHT,
    Config,
    EvaluationConfig,
    StudentConfig,
    SynthesisConfig,
    TeacherConfig,
    TrainingConfig,
    parse_duration,
)
from cake_cli.errors import UsageError
from cake_cli.settings import (
    build,
    defaults,
    descriptions,
    field_types,
    flatten,
    read_assignment,
    read_file,
    recipe_names,
    recipe_text,
    resolve,
    write_toml,
)
from tests.reference import reference_weights

FULL = Config(
    seed=7,
    teacher=TeacherConfig(
        file='a "quoted" \\ path.onnx',
        input_shape=(3, 32, 32),
        mean=(0.1, 1e-5, 3.0),
        std=(1.0, 2.0, 1e10),
        input_range=(0.0, 255.0),
        outputs="log-probs",
        output="scores [1]",
        verify=False,
    ),
    student=StudentConfig("mlp:8,8"),
    synthesis=SynthesisConfig(method="naive", samples=3, step_size=1e-5, set_size=20, groups=2, noise="both"),
    training=TrainingConfig(epochs=1, labels="hard", min_step_size=1e-4),
    evaluation=EvaluationConfig(data="\N{SNOWMAN}/val", min_agreement=0.5, report=False),
)


# --- precedence ---------------------------------------------------------------------------------------------------


def test_later_sources_win(tmp_path: Path):
    key = "synthesis.steps"
    file = tmp_path / "own.toml"
    file.write_text("[synthesis]\nsteps = 3\n")
    assert resolve().synthesis.steps == defaults()[key]
    assert resolve(recipe="paper").synthesis.steps == 500
    assert resolve(recipe="paper", file=file).synthesis.steps == 3
    assert resolve(recipe="paper", file=file, assignments=["steps=4"]).synthesis.steps == 4
    assert resolve(recipe="paper", file=file, assignments=["steps=4"], flags={key: 5}).synthesis.steps == 5


def test_a_source_leaves_alone_what_it_does_not_name(tmp_path: Path):
    file = tmp_path / "own.toml"
    file.write_text("seed = 9\n")
    found = resolve(recipe="paper", file=file, assignments=["training.lr=0.25"], flags={"training.epochs": None})
    assert found.seed == 9
    assert found.synthesis.cls_weight == 100.0
    assert (found.training.lr, found.training.epochs) == (0.25, 30)


# --- faults -------------------------------------------------------------------------------------------------------


def fault_of(values: dict[str, Any]) -> str:
    with pytest.raises(UsageError) as caught:
        build(values)
    return caught.value.what


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("synthesis.stepz", "synthesis.steps"),
        ("stepsize", "synthesis.step_size"),
        ("training.learning", "training."),
        ("evaluation.min_agreemnt", "evaluation.min_agreement"),
    ],
)
def test_an_unknown_key_suggests_the_nearest(key: str, suggestion: str):
    said = fault_of({key: 1})
    assert f"unknown key {key!r}" in said
    assert f"did you mean '{suggestion}" in said


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("synthesis.steps", 1.5, "must be a whole number"),
        ("synthesis.steps", True, "must be a whole number"),
        ("synthesis.steps", "many", "must be a whole number"),
        ("training.lr", "1e-5x", "must be a number"),
        ("teacher.verify", 1, "must be true or false"),
        ("student.architecture", 3, "is a text"),
        ("synthesis.method", "cakes", "must be one of cake, naive, generative, noise, smooth-noise"),
        ("teacher.input_shape", [3, "a"], "must be a whole number"),
        ("hardware.precision", ["fp32"], "must be one of auto, fp32"),
    ],
)
def test_a_wrong_type_is_named_with_the_value(key: str, value: Any, said: str):
    found = fault_of({key: value})
    assert f"{key} {said}" in found
    assert repr(value) in found


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("synthesis.samples", 0, "--samples"),
        ("synthesis.steps", 0, "--steps 0"),
        ("synthesis.time_budget", "1.5h", "is no duration"),
        ("synthesis.time_budget", "0s", "is no duration"),
        ("training.epochs", 10**400, "at most 64 bits"),
        ("training.noise_samples", 2**63, "noise_samples is at most 1,000,000,000"),
        ("synthesis.time_budget", "9" * 5000 + "s", "is no duration"),
        ("synthesis.steps", -1, "--steps"),
        ("synthesis.step_size", float("nan"), "step_size"),
        ("synthesis.tv_weight", -1.0, "tv_weight cannot be negative"),
        ("training.batch_size", 1, "--batch-size"),
        ("training.lr", 0, "--lr"),
        ("training.heldout_fraction", 0.9, "heldout_fraction"),
        ("teacher.mean", [0.5], "--mean and --std"),
        ("teacher.input_range", [1], "--input-range"),
        ("evaluation.min_agreement", 0.5, "--min-agreement needs held-out data"),
        ("seed", -1, "--seed"),
        ("seed", 2**63, "--seed"),
    ],
)
def test_a_broken_invariant_names_its_flag(key: str, value: Any, said: str):
    assert said in fault_of({key: value})


@pytest.mark.parametrize(
    ("values", "fix"),
    [
        ({"teacher.mean": [0.5]}, "give both"),
        ({"seed": -1}, "--seed 0"),
        ({"synthesis.tv_weight": -1}, "--set synthesis.tv_weight=0 switches it off"),
        ({"synthesis.time_budget": "3x"}, "--time-budget 90s, 20m or 1h30m"),
        ({"training.lr": "x"}, "cake recipes --keys lists every key"),
        ({"training.views": ["mixx"]}, "--set training.views=mix"),
        ({"sed": 1, "seed": -1}, "cake recipes --keys lists every key"),
        ({"training.lr": 0, "seed": -1}, "what stands in brackets after each"),
    ],
)
def test_what_to_try_is_of_the_fault(values: dict[str, Any], fix: str):
    with pytest.raises(UsageError) as caught:
        build(values)
    assert caught.value.fix == fix


def test_lambda_is_refused_without_real_data_whatever_it_is():
    assert "--lambda needs real data" in fault_of({"training.hard_weight": 0.5})
    given = {"training.hard_weight": 0.5, "training.real_data": "real.npz"}
    for values in ({"training.real_data": "real.npz"}, given):
        assert build(values).training.true_label_weight == 0.5


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("20m", 1200), ("1h30m", 5400), ("2h", 7200), ("1h0m5s", 3605), (" 5M ", 300)]
)
def test_durations(text: str, seconds: int):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "20", "m", "1m1h", "-5m", "5 m", "1.5h", "five minutes", "0h0m"])
def test_what_is_no_duration(text: str):
    with pytest.raises(UsageError, match="is no duration"):
        parse_duration(text)


def test_a_set_that_cannot_be_cut_into_rows_is_refused():
    assert "100 samples cannot be cut into rows of 7" in fault_of({"synthesis.set_size": 100, "synthesis.groups": 7})


def test_all_faults_are_reported_at_once():
    values = {"synthesis.stepz": 1, "training.lr": "x", "synthesis.samples": -1, "seed": -1, "training.epochs": 0}
    said = fault_of(values)
    assert "has 5 faults" in said
    for part in ("'synthesis.stepz'", "training.lr must be a number", "--samples", "--seed", "--epochs"):
        assert part in said


def test_the_origin_is_named():
    with pytest.raises(UsageError) as caught:
        build({"sed": 1}, origin="own.toml")
    assert caught.value.what.startswith("own.toml: ")
    with pytest.raises(UsageError) as caught:
        build({"seed": -1}, origin="own.toml")
    assert caught.value.what.startswith("own.toml: ")


# --- files and assignments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"seed = ", b"\xff\xfe\x00", b"a = 1\na = 2\n", b"lr: 1e-5\n"])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes):
    file = tmp_path / "own.toml"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="not readable as TOML"):
        read_file(file)


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="no configuration file"):
        read_file(tmp_path / "none.toml")


def test_a_folder_is_not_a_configuration(tmp_path: Path):
    with pytest.raises(UsageError, match="not readable as TOML"):
        read_file(tmp_path)


@pytest.mark.parametrize(("real", "weight"), [("", None), ('real_data = "real.npz"\n', 0.5)])
def test_the_lambda_that_every_run_once_wrote_is_read(tmp_path: Path, real: str, weight: float | None):
    file = tmp_path / "config.toml"
    file.write_text(f"[training]\n{real}hard_weight = 0.5\n")
    assert resolve(file=file).training.hard_weight == weight


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("synthesis.steps=64", ("synthesis.steps", 64)),
        ("steps=64", ("synthesis.steps", 64)),
        ("lr=1e-5", ("training.lr", 1e-5)),
        ("teacher.mean=[0.1, 0.2]", ("teacher.mean", [0.1, 0.2])),
        ("verify=true", ("teacher.verify", True)),
        ("data=a=b", ("evaluation.data", "a=b")),
        ("method=naive", ("synthesis.method", "naive")),
        ("stepz=1", ("stepz", 1)),
    ],
)
def test_assignments(text: str, expected: tuple[str, Any]):
    assert read_assignment(text) == expected


def test_an_assignment_cannot_carry_a_second_key():
    key, value = read_assignment("data=1\nseed = 5")
    assert key == "evaluation.data"
    assert value == "1\nseed = 5"


def test_an_assignment_without_a_sign_is_refused():
    with pytest.raises(UsageError, match="KEY=VALUE"):
        read_assignment("synthesis.steps")


# --- writing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [Config(), FULL], ids=["defaults", "everything"])
def test_toml_and_back(config: Config, tmp_path: Path):
    file = tmp_path / "written.toml"
    file.write_text(write_toml(config), encoding="utf-8")
    assert resolve(file=file) == config


@pytest.mark.parametrize("name", ["od'd/n\"et.py:make", "n\\et.py:make", "é, [x].py:make", "tab\t.py:make"])
def test_any_path_in_a_list_is_read_back(name: str, tmp_path: Path):
    config = Config(student=StudentConfig("linear", others=(name, "cnn")))
    (file := tmp_path / "written.toml").write_text(write_toml(config), encoding="utf-8")
    assert resolve(file=file).student.others == (name, "cnn")


def test_written_toml_names_every_key_with_its_meaning():
    written = write_toml(Config())
    for key in field_types():
        assert f"# {descriptions()[key]}\n" in written
        assert f"\n{key.rpartition('.')[2]} =" in written or f"\n# {key.rpartition('.')[2]} =" in written


def test_every_key_has_a_default_and_a_meaning():
    assert list(field_types()) == list(defaults()) == list(flatten(FULL))
    assert set(descriptions()) >= set(field_types())
    assert all(descriptions()[key].endswith(".") or key == "seed" for key in field_types())


def test_short_names_are_not_ambiguous():
    short = [key.rpartition(".")[2] for key in field_types()]
    assert len(set(short)) == len(short)


# --- recipes ------------------------------------------------------------------------------------------------------

REFERENCE = {
    # recipe: contr, cls, tv, groups, steps, set size, sets, first step size
    "paper": (1e1, 1e3, 1e5, 10, 500, 100, 256, 1e-1),
    "paper-mnist": (1e-3, 1e3, 1e7, 10, 256, 500, 512, 1e-1),
    "paper-cifar": (1e1, 1e3, 1e5, 10, 256, 500, 500, 1e-1),
    "paper-toy": (1e-3, 1e-2, 0.0, 2, 250, 100, 100, 1e-2),
}
"""The reference's own numbers, as its configuration has them."""


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_resolves_and_begins_with_what_it_is(name: str):
    assert resolve(recipe=name) != Config()
    assert recipe_text(name).startswith("# ")


@pytest.mark.parametrize("name", REFERENCE)
def test_the_papers_recipes_are_the_references_settings(name: str):
    contr, cls, tv, groups, steps, set_size, sets, step_size = REFERENCE[name]
    found = resolve(recipe=name).synthesis
    weights = reference_weights(contr=contr, cls=cls, tv=tv, set_size=set_size, groups=groups)
    assert (found.cls_weight, found.contrastive_weight, found.tv_weight) == pytest.approx(weights, rel=1e-12)
    assert (found.groups, found.steps, found.set_size, found.samples) == (groups, steps, set_size, set_size * sets)
    assert (found.step_size, found.step_size_decades, found.schedule) == (step_size, 4.0, "linear")
    assert (found.contrastive, found.tv, found.noise, found.optimizer) == ("mse", "anisotropic", "implicit", "sgd")
    assert (found.init, found.bounds, found.l2_weight, found.range_weight) == ("normal", "none", 0.0, 0.0)
    assert found.max_update == 0.0, "the reference takes plain steps"
    assert found.redraws == 0, "and starts where it starts"
    assert found.rounds == 1
    assert found.outside_contract == ()


def test_many_labels_cost_what_the_default_costs():
    found, default = resolve(recipe="many-labels"), Config()
    assert found.synthesis.samples is not None
    assert found.training.noise_samples is not None
    walks, whole = (samples * (2 * found.synthesis.steps + 1) for samples in (found.synthesis.samples, DEFAULT_SAMPLES))
    assert walks + found.training.noise_samples == pytest.approx(whole + 7 * DEFAULT_SAMPLES, rel=0.02)
    changed = {key for key, value in flatten(found).items() if value != flatten(default)[key]}
    assert changed == {"synthesis.samples", "training.noise_samples", "training.chosen", "training.epochs"}


@pytest.mark.parametrize("name", ["paper", "paper-mnist", "paper-cifar"])
def test_the_papers_student_is_trained_as_in_the_reference(name: str):
    found = resolve(recipe=name).training
    assert (found.epochs, found.batch_size, found.lr) == (30, 256, 0.5)
    assert (found.momentum, found.weight_decay, found.labels) == (0.9, 5e-4, "soft")


def test_the_defaults_weigh_as_the_references_cifar_preset():
    synthesis = resolve(recipe="paper-cifar").synthesis
    same = ("cls_weight", "contrastive", "tv", "noise")
    assert {name: getattr(synthesis, name) for name in same} == {
        name: getattr(Config().synthesis, name) for name in same
    }
    assert (synthesis.contrastive_weight, synthesis.tv_weight) == (Config().synthesis.contrast, TV_WEIGHT)
    assert (synthesis.optimizer, synthesis.bounds) == ("sgd", "none")
    plain = replace(Config().synthesis, optimizer="sgd")
    assert plain.step_sizes_for(images=True) == synthesis.step_sizes_for(images=True) == (0.1, 4.0)


def test_an_unknown_recipe_suggests_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'paper-mnist'"):
        recipe_text("paper-mnst")


def test_recipes_hold_only_what_they_change():
    for name in recipe_names():
        assert "teacher" not in tomllib.loads(recipe_text(name))


def test_replacing_a_section_checks_it_again():
    with pytest.raises(UsageError):
        replace(FULL.training, epochs=0)
