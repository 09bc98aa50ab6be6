"""Measures models on a held-out set, all in one pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from cake_cli.data.evaluation import Evaluation
from cake_cli.data.held_out import HeldOut
from cake_cli.data.tally import Tally
from cake_cli.errors import DataError, EnvironmentFault, ModelFileError, RunError, is_out_of_memory
from cake_cli.events import SILENT, Reporter
from cake_cli.spec import format_shape

Model = Callable[[Tensor], Tensor]
"""From float32 (N, *spec.shape) in the normalised space to logits (N, K), on the device of evaluation."""

TEACHER = "teacher"
"""The teacher's own key among the results."""


def evaluate(
    models: Mapping[str, Model],
    heldout: HeldOut,
    *,
    classes: int,
    teacher: Model | None = None,
    device: torch.device | str,
    batch_size: int = 256,
    may_guess: Collection[str] = (),
    reporter: Reporter = SILENT,
) -> dict[str, Evaluation]:
    """Runs one pass over the held-out set for all models.

    When memory runs out on a batch, that model goes on with smaller ones, and the reporter says so. Images
    found unreadable during the pass, and accuracy no better than chance, are warnings.

    Args:
        models: by name; modules must be in eval mode on `device` already.
        heldout: the labelled rows.
        classes: K.
        teacher: what the models are compared with.
        device: where rows are moved.
        batch_size: rows a forward pass.
        may_guess: models of which nobody expects more than chance, by name.
        reporter: told the stage "evaluation", counted in samples.

    Returns:
        One evaluation for each model under its name, and the teacher's own under `TEACHER`, first.

    Raises:
        RunError: if outputs are not finite.
        ModelFileError: if outputs are not (N, K).
        DataError: if the held-out set is damaged or gives no rows.
        EnvironmentFault: if one row is too much for the device's memory.
        ValueError: if a model is named like the teacher, or there is nothing to evaluate.
    """
    if teacher is not None and TEACHER in models:
        raise ValueError(f"{TEACHER!r} is the teacher's own name")
    runners = [_Runner(name, model, classes, reporter) for name, model in models.items()]
    if teacher is not None:
        runners.insert(0, _Runner(TEACHER, teacher, classes, reporter))
    if not runners:
        raise ValueError("there is no model to evaluate")
    tallies = {
        runner.name: Tally(classes, against_teacher=teacher is not None and runner.name != TEACHER)
        for runner in runners
    }
    told = set(heldout.notes)
    seen = 0
    with reporter.stage("evaluation", heldout.samples, "samples") as stage, torch.no_grad():
        for rows, labels in heldout.batches(batch_size):
            rows_there = rows.to(device)
            teacher_logits: Tensor | None = None
            for runner in runners:
                logits = runner.logits(rows_there)  # (N, K)
                tallies[runner.name].update(logits, labels, teacher_logits)
                if teacher is not None and runner.name == TEACHER:
                    teacher_logits = logits
            seen += len(rows)
            stage.advance(len(rows))
        if seen == 0:
            raise DataError(f"{heldout.name} gave no rows", "give a held-out set with at least one")
        results = {name: tally.evaluation(heldout.class_names) for name, tally in tallies.items()}
        stage.conclude(", ".join(f"{name} {100 * found.accuracy:.1f} %" for name, found in results.items()))
    for note in heldout.notes:
        if note not in told:
            reporter.warn(note)
    expected = {name: found for name, found in results.items() if name not in may_guess}
    _warn_of_chance(expected, classes, teacher is not None, reporter)
    return results


class _Runner:
    """One model, and the batch size that the device's memory has shown it can take."""

    def __init__(self, name: str, model: Model, classes: int, reporter: Reporter) -> None:
        self.name = name
        self._model = model
        self._classes = classes
        self._reporter = reporter
        self._rows = 0

    def logits(self, rows: Tensor) -> Tensor:
        """Checked logits of a batch, float32 (N, K) on the CPU; raises as `evaluate`."""
        self._rows = self._rows or len(rows)
        while True:
            try:
                parts = [self._model(part).float().cpu() for part in torch.split(rows, self._rows)]
                break
            except (RuntimeError, MemoryError) as fault:
                if not is_out_of_memory(fault):
                    raise
                tried = min(self._rows, len(rows))
                if tried == 1:
                    raise EnvironmentFault(
                        f"the device has not enough memory for one input of {self.name}", "--device cpu"
                    ) from fault
                self._rows = tried // 2
            self._reporter.note(f"memory ran out on {tried} rows; {self.name} goes on with {self._rows} at a time")
        logits = torch.cat(parts)
        if logits.shape != (len(rows), self._classes):
            raise ModelFileError(
                f"{self.name} answers {len(rows)} rows with {format_shape(logits.shape)}, "
                f"not {len(rows)}x{self._classes}",
                "compare models of the same classes",
            )
        if not logits.isfinite().all():
            bad = (~logits.isfinite()).any(dim=1)
            raise RunError(
                f"{self.name} gives outputs that are not finite, for {int(bad.sum())} of {len(rows)} held-out rows, "
                f"whose normalised values reach {float(rows[bad.to(rows.device)].abs().max()):.3g}",
                "check those rows, --mean, --std and --input-range; try --precision fp32",
            )
        return logits


def at_chance(found: Evaluation) -> bool:
    """Whether a model cannot be told from guessing: its interval reaches down to one in K."""
    return found.accuracy_interval[0] <= 1 / len(found.per_class)


def _warn_of_chance(results: Mapping[str, Evaluation], classes: int, with_teacher: bool, reporter: Reporter) -> None:
    """Warns when what should be good cannot be told from guessing: the teacher or the one model, else any model."""
    guessing = [name for name, found in results.items() if at_chance(found)]
    good = TEACHER if with_teacher else next(iter(results), TEACHER)
    if good in guessing and (with_teacher or len(results) == 1):
        found = results[good]
        reporter.warn(
            f"{good} is right on {100 * found.accuracy:.1f} % of {found.samples:,} held-out rows, and chance is "
            f"{100 / classes:.3g} %: check mean and std, the input range, and the order of the labels"
        )
        return
    for name in guessing:
        reporter.warn(
            f"{name} is right on {results[name].accuracy:.1%}, no more than chance: it has learned little, or it takes "
            "inputs or orders classes in another way"
        )
