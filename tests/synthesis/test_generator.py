"""The generator: any shape, its bounds, and training that a stop does not change by a bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cake_cli.errors import DataError, RunError
from cake_cli.events import SILENT
from cake_cli.hardware import Hardware
from cake_cli.models.classifier import Classifier
from cake_cli.spec import InputSpec
from cake_cli.synthesis import generative
from cake_cli.synthesis.generative import GeneratorTraining
from cake_cli.synthesis.generator import Generator, build_network, draw_latents
from cake_cli.synthesis.noise import stream
from cake_cli.synthesis.objective import cake_objective
from cake_cli.synthesis.space import normalised_range

STAGE = SILENT.stage("", 1, "")


def training(teacher: Classifier, cpu: Hardware, **changes: object) -> GeneratorTraining:
    made = GeneratorTraining(
        teacher=teacher,
        objective=cake_objective(teacher.spec, cls=5.0, contrastive=0.0, tv=0.5),
        rows=2,
        groups=4,
        updates=30,
        lr=3e-3,
        seed=0,
        hardware=cpu,
        rows_per_pass=8,
    )
    return replace(made, **changes)


def untrained(teacher: Classifier, seed: int = 0) -> Generator:
    return Generator(build_network(teacher.spec, teacher.classes, seed), teacher.classes)


def on_target(teacher: Classifier, generator: Generator) -> float:
    targets = torch.arange(400) % teacher.classes
    with torch.no_grad():
        return float(
            (teacher(generator(draw_latents(400, stream(9, 0, "x")), targets)).argmax(1) == targets).float().mean()
        )


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (2, 5, 13), (1, 1, 40), (4, 1, 1), (3, 50, 30), (6,), (1,)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    generator = Generator(build_network(InputSpec(shape, range=None), 3, 0), 3)
    made = generator(draw_latents(4, stream(0, 0, "x")), torch.tensor([0, 1, 2, 0]))
    assert made.shape == (4, *shape)
    assert bool(made.isfinite().all())
    assert float(made.detach().std(dim=0).max()) > 0 or shape == (4, 1, 1)


def test_samples_do_not_depend_on_their_neighbours() -> None:
    generator = Generator(build_network(InputSpec((1, 8, 8)), 3, 0), 3)
    latents, targets = draw_latents(6, stream(0, 0, "x")), torch.arange(6) % 3
    with torch.no_grad():
        torch.testing.assert_close(generator(latents, targets)[:2], generator(latents[:2], targets[:2]))


def test_building_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    first = build_network(InputSpec((1, 8, 8)), 3, 0)
    assert torch.equal(torch.randn(3), expected)
    again, other = (build_network(InputSpec((1, 8, 8)), 3, seed) for seed in (0, 1))
    weights = [next(net.parameters()) for net in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_bounds_hold() -> None:
    spec = InputSpec((1, 8, 8), (0.5,), (0.01,))
    low, high = normalised_range(spec)
    generator = Generator(build_network(spec, 3, 0), 3, (low, high))
    with torch.no_grad():
        for parameter in generator.network.parameters():
            parameter.mul_(20)
        made = generator(draw_latents(20, stream(0, 0, "x")), torch.arange(20) % 3)
    assert bool(((made >= low) & (made <= high)).all())
    assert float(made.abs().max()) > 10


def test_training_reaches_the_targets(toy_teacher: Classifier, cpu: Hardware, tmp_path: Path) -> None:
    generator = untrained(toy_teacher)
    before = on_target(toy_teacher, generator)
    training(toy_teacher, cpu, updates=150).run(generator, tmp_path / "g.safetensors", STAGE)
    assert on_target(toy_teacher, generator) > max(0.9, before + 0.3)


def test_a_stop_changes_nothing(
    toy_teacher: Classifier, cpu: Hardware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, stopped = tmp_path / "whole.safetensors", tmp_path / "stopped.safetensors"
    training(toy_teacher, cpu).run(untrained(toy_teacher), file, STAGE)
    monkeypatch.setattr(generative, "CHECKPOINT_SECONDS", 0.0)
    take = GeneratorTraining.take

    def stop(own: GeneratorTraining, update: int, *rest: object) -> tuple[torch.Tensor, torch.Tensor]:
        if update == 17:
            raise KeyboardInterrupt
        return take(own, update, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(GeneratorTraining, "take", stop)
        with pytest.raises(KeyboardInterrupt):
            training(toy_teacher, cpu).run(untrained(toy_teacher), stopped, STAGE)
    assert any(name.startswith("adam.") for name in load_file(stopped))
    again = untrained(toy_teacher, seed=7)
    training(toy_teacher, cpu).run(again, stopped, STAGE)
    assert stopped.read_bytes() == file.read_bytes()
    done = untrained(toy_teacher, seed=8)
    training(toy_teacher, cpu).run(done, file, STAGE)
    assert all(
        torch.equal(one, two) for one, two in zip(again.network.parameters(), done.network.parameters(), strict=True)
    )
    assert not any(name.startswith("adam.") for name in load_file(file)), "what is done needs no state"


def test_a_pass_in_parts_changes_nothing_but_rounding(toy_teacher: Classifier, cpu: Hardware, tmp_path: Path) -> None:
    made = []
    for rows in (8, 4):
        generator = untrained(toy_teacher)
        training(toy_teacher, cpu, updates=3, rows_per_pass=rows).run(generator, tmp_path / f"{rows}", STAGE)
        made.append(torch.cat([parameter.detach().flatten() for parameter in generator.network.parameters()]))
    torch.testing.assert_close(*made, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(("updates", "rows"), [(30, 2), (100, 3)])  # of the latter, classes are looked at
def test_a_diverging_objective_names_its_update(
    toy_teacher: Classifier, cpu: Hardware, tmp_path: Path, updates: int, rows: int
) -> None:
    file = tmp_path / "g.safetensors"
    with pytest.raises(RunError, match=r"not finite at update \d+") as caught:
        training(toy_teacher, cpu, lr=1e30, updates=updates, rows=rows).run(untrained(toy_teacher), file, STAGE)
    assert "generator_lr" in str(caught.value.fix)
    assert not file.exists(), "what is not finite is not kept"


def flat(teacher: Classifier, cpu: Hardware, **changes: object) -> GeneratorTraining:
    """With a prior that weighs more than any class."""
    objective = cake_objective(teacher.spec, cls=5.0, contrastive=0.0, tv=500.0)
    return training(teacher, cpu, objective=objective, updates=100, **changes)


def test_a_generator_of_one_class_is_stopped_half_way(
    toy_teacher: Classifier, cpu: Hardware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generative, "CHECKPOINT_SECONDS", 0.0)
    file, generator = tmp_path / "g.safetensors", untrained(toy_teacher)
    with pytest.raises(RunError, match=r"after 50 of 100 updates the teacher puts \d+% of its samples in one of its 4"):
        flat(toy_teacher, cpu, rows=3).run(generator, file, STAGE)
    with pytest.raises(RunError, match="after 100 of 100 updates"):  # the look after a stop has seen too few
        flat(toy_teacher, cpu, rows=3).run(generator, file, STAGE)


def test_of_few_samples_no_collapse_is_said(toy_teacher: Classifier, cpu: Hardware, tmp_path: Path) -> None:
    flat(toy_teacher, cpu, rows=1).run(untrained(toy_teacher), tmp_path / "g.safetensors", STAGE)


@pytest.mark.parametrize("content", [b"", b"{}", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_damaged_checkpoint_is_refused(
    toy_teacher: Classifier, cpu: Hardware, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "g.safetensors"
    file.write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        training(toy_teacher, cpu).run(untrained(toy_teacher), file, STAGE)


def test_a_set_is_the_same_in_whatever_wave(toy_teacher: Classifier) -> None:
    generator, targets = untrained(toy_teacher), torch.arange(8) % 4
    alone = generator.draw(targets, stream(0, 3, "latent"), 100)
    assert torch.equal(alone, generator.draw(targets, stream(0, 3, "latent"), 100))
    torch.testing.assert_close(alone, generator.draw(targets, stream(0, 3, "latent"), 3))
    assert not torch.equal(alone, generator.draw(targets, stream(0, 4, "latent"), 100))
