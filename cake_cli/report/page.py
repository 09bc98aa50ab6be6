"""`report.html` and its pictures: reads a run directory, draws, writes."""

from __future__ import annotations

import re
import shlex
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from cake_cli.config import Config
from cake_cli.errors import DataError, UsageError
from cake_cli.report import headline, prose, tables
from cake_cli.report.canvas import LIGHT, picture, png
from cake_cli.report.confusion import Confusion, confusion, draw_confusion
from cake_cli.report.curves import draw_curves, draw_panel, panels
from cake_cli.report.gallery import peek
from cake_cli.report.samples import SampleSection, health_facts, sample_section
from cake_cli.report.sheet import sample_sheet
from cake_cli.report.words import class_labels, count, dig, number, percent, plural
from cake_cli.runs import RunDirectory
from cake_cli.settings import write_toml
from cake_cli.storage import write_bytes, write_text
from cake_cli.synthesis.bank import SampleBank


def write_report(run: RunDirectory) -> Path:
    """Writes report.html, and samples.png, curves.png and confusion.png where there is something to show.

    Everything is read from the run: its record, metrics, configuration, and a few shards of its bank. What is
    missing there is left out, so a run that stopped early has a report too. Call it after `RunDirectory.finish`,
    whose status the page states.

    Returns:
        The path of the page.

    Raises:
        EnvironmentFault: if the disk is full or refuses.
    """
    record = run.record
    config, config_text = _config(run)
    labels = class_labels(dig(record, "teacher", "class_names"), int(number(dig(record, "teacher", "classes")) or 0))
    gallery, gallery_note = _gallery(run)
    diagrams = panels(run.metrics("synthesis"), run.metrics("training"), run.metrics("baseline"))
    if diagrams:
        write_bytes(run.path / "curves.png", png(draw_curves(diagrams, LIGHT)))
    confused = _confusion(record, labels)
    if confused is not None:
        write_bytes(run.path / "confusion.png", png(draw_confusion(confused, LIGHT)))
    page = _template().render(
        record=record,
        folder=run.path.name,
        title=prose.title(record),
        asked=prose.asked(record),
        banners=prose.banners(record, gate=config.evaluation.min_agreement if config else None),
        stats=headline.stats(record),
        students=tables.several(record, {name: own.record for name, own in run.students().items()}),
        scale=headline.scale(record),
        measured_on=headline.measured_on(record),
        networks=tables.networks(record),
        input_line=tables.input_line(record),
        gallery=gallery,
        gallery_note=gallery_note,
        health=health_facts(record, labels),
        diagrams=[picture(partial(draw_panel, panel), panel.description) for panel in diagrams],
        has_baseline=bool(run.metrics("baseline")),
        confused=confused,
        metrics=tables.metrics(record),
        by_class=tables.by_class(record, labels),
        by_confidence=tables.by_confidence(record),
        advice=prose.advice_without_evaluation(record, run.path, config.teacher.arch if config else None),
        rounds=tables.rounds(record),
        cost=tables.cost(record),
        means=tables.means(record),
        command=[shlex.quote(word) for word in ("cake", *map(str, record.get("argv") or ()))],
        config=config_text,
        limits=prose.limits(record),
    )
    path = run.path / "report.html"
    write_text(path, page)
    return path


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("cake_cli.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"breakable": _breakable, "percent": percent, "count": count, "plural": plural}
    environment.globals["dig"] = dig
    return environment.get_template("report.html.j2")


def _breakable(text: str) -> Markup:
    """A text, escaped, with places in paths and file names where a line may end."""
    return Markup(re.sub(r"(?<=[/_])|(?=\.[A-Za-z])", "<wbr>", str(escape(text))))  # noqa: S704 - escaped here


def _config(run: RunDirectory) -> tuple[Config | None, str]:
    try:
        config = run.config()
    except UsageError as fault:
        return None, f"# {fault.what}"
    return config, write_toml(config)


def _gallery(run: RunDirectory) -> tuple[SampleSection | None, str]:
    """The gallery after writing samples.png; or None, and why."""
    elsewhere = dig(run.record, "bank")
    path = run.bank_path if run.bank_path.is_dir() or not elsewhere else _resolved(run, str(elsewhere))
    if not path.is_dir():
        return None, "There is no sample bank."
    try:
        bank = SampleBank.open(path)
        few = peek(bank)
    except DataError as fault:
        return None, f"The samples could not be read: {fault.what}."
    if few is None or len(few) == 0:
        return None, "The sample bank has no samples yet."
    sample_sheet(few, bank.spec, bank.classes, bank.class_names, run.path / "samples.png")
    return sample_section(few, bank.spec, bank.classes, bank.class_names), ""


def _resolved(run: RunDirectory, written: str) -> Path:
    """A path that may be relative to where the run was started."""
    return Path(str(dig(run.record, "working_directory") or "")) / written


def _confusion(record: dict[str, Any], labels: tuple[str, ...]) -> Confusion | None:
    matrix = dig(record, "evaluation", "models", "student", "student_vs_teacher")
    return confusion(matrix, labels) if labels else None
