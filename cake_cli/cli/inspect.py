"""``cake inspect``: what a file or folder is, and what it would need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cake_cli.address import as_address
from cake_cli.catalog import short_name, usual_student
from cake_cli.cli import options as o
from cake_cli.cli.console import Console, count, duration
from cake_cli.text import as_argument, counted


def inspect(
    path: Annotated[
        Path, typer.Argument(help="A model file, an endpoint's address, a bank, or a run directory.", metavar="FILE")
    ],
    arch: o.Arch = None,
    classes: o.Classes = None,
    trust: o.Trust = None,
    input_shape: o.InputShape = None,
    mean: o.Mean = None,
    std: o.Std = None,
    input_range: o.InputRange = None,
    outputs: o.OutputKind = None,
    output: o.OutputName = None,
    verify: o.Verify = None,
    token_env: o.TokenEnv = None,
    assignments: o.Assignments = None,
    json: o.Json = False,
) -> None:
    """Say what a file is and whether it can be a teacher: shapes, classes, what was mended and measured.

    Example: cake inspect teacher.onnx
    """
    settings = o.read_config(
        arch=arch, classes=classes, trust=trust,
        input_shape=input_shape, mean=mean, std=std, input_range=input_range, outputs=outputs, output=output,
        verify=verify, token_env=token_env, assignments=assignments,
    )  # fmt: skip
    from cake_cli.inspection import inspect_path

    console = Console(json_output=json)
    described = inspect_path(path, settings.teacher)
    if json:
        console.json(described)
        return
    kind = "uncoded" if "needs" in described else described["kind"]
    kinds = {"run": _run, "bank": _bank, "weights": _weights, "uncoded": _uncoded, "begun": _begun}
    rows = kinds.get(kind, _model)(described)
    width = max(len(name) for name, _ in rows)
    titles = {"weights": "weights", "begun": "a run or bank that was stopped before anything was done"}
    console.result(f"{as_address(path) or path}: {titles.get(described['kind'], 'a ' + described['kind'])}")
    for name, value in rows:
        console.result(f"  {name:<{width}}  {value}")


def _begun(described: dict[str, Any]) -> list[tuple[str, str]]:
    return [("to go on", f"cake resume {as_argument(described['path'])}")]


def _weights(described: dict[str, Any]) -> list[tuple[str, str]]:
    from cake_cli.spec import format_shape

    rows = [
        ("sha256", described["sha256"][:16]),
        ("tensors", f"{described['tensors']} of {', '.join(described['types'])}"),
        ("parameters", count(described["parameters"])),
    ]
    rows += [("first", f"{name}  {format_shape(shape)}") for name, shape in described["first"]]
    rows += [("mended", mend) for mend in described["mends"]]
    for fit in described["fits"]:
        spelling = f"; {fit['spelling']}" if fit["spelling"] else ""
        rows.append(("fits", f"{fit['architecture']} of {fit['origin']}, {fit['classes']} classes{spelling}"))
    if len(described["fits"]) > 1:
        rows.append(("", "these have the same weights and compute different things: name the one that it is"))
    if described["looks_like"]:
        rows.append(("fits", "no architecture of torchvision, timm or cake"))
        rows.append(("looks like", described["looks_like"]))
    return [*rows, ("to copy it" if described["command"].startswith("cake") else "instead", described["command"])]


def _uncoded(described: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("sha256", described["sha256"][:16]),
        *_descent(described["facts"]),
        ("architecture", f"{described['architecture']}, one's own code, which is not run because a file names it"),
        ("its code", f"a file of SHA-256 {described['code_sha256']}"),
        ("parameters", count(described["parameters"])),
        *([("input", _input(described["input"]))] if described["input"] else []),
        ("classes", str(described["classes"])),
        ("to open it", f"cake inspect {as_argument(described['path'])} {described['needs']}"),
    ]


def _descent(facts: dict[str, str]) -> list[tuple[str, str]]:
    """How a student came to be, and of which teacher, as its header says."""
    return [(name, facts[f"cake.{name}"]) for name in ("origin", "teacher") if f"cake.{name}" in facts]


def _input(fields: dict[str, Any]) -> str:
    """``3x32x32   mean 0.5  std 0.25 (--mean and --std)``."""
    from cake_cli.cli.summary import normalisation
    from cake_cli.spec import InputSpec, format_shape

    spec = InputSpec.from_json(fields)
    return f"{format_shape(spec.shape)}   {normalisation(spec)}"


def _model(described: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("sha256", described["sha256"][:16]), *_descent(described["facts"])]
    if described["architecture"]:
        rows.append(("architecture", described["architecture"]))
    rows += [
        (name, value) for name, value in described["facts"].items() if not name.startswith(("cake.", "parameters"))
    ]
    shown = {"cake.options": "options", "cake.built_with": "built with", "cake.start_sha256": "started from"}
    rows += [(name, described["facts"][key][:64]) for key, name in shown.items() if key in described["facts"]]
    if described["parameters"]:
        rows.append(("parameters", count(described["parameters"])))
        rows.append(("multiply-adds", f"{count(described['multiply_adds'])} a row"))
    rows += [
        ("input", _input(described["input"])),
        ("responds", described["response"]["text"]),
        ("classes", _classes(described)),
        ("ends in", described["output_kind"]),
        ("opened by", f"{described['converter']}, batches {described['batching']}"),
    ]
    rows += [("mended", mend) for mend in described["mends"]]
    rows += [("checked", check) for check in described["checks"]]
    rows += [("check", doubt) for doubt in described["doubts"]]
    if described["check_seconds"]:
        rows.append(("check took", f"{described['check_seconds']:.1f} s (a second or two for ordinary files)"))
    student = usual_student(tuple(described["input"]["shape"]))
    if described["no_gradient"] is not None:
        return [*rows, *_asked(described, student)]
    verb = "evaluate it" if described["architecture"] else "copy it"
    command = "evaluate {} --data DATA" if described["architecture"] else f"distill {{}} --student {student}"
    subject = " ".join([as_argument(described["path"]), *filter(None, [described["flags"]])])
    rows.append((f"to {verb}", "cake " + command.format(subject)))
    return rows


def _asked(described: dict[str, Any], student: str) -> list[tuple[str, str]]:
    """What can be done with a model that gives outputs alone."""
    subject = " ".join([as_argument(described["path"]), *filter(None, [described["flags"]])])
    rows = [
        ("gradient", f"none: {described['no_gradient']}"),
        ("to ask it", f"cake distill {subject} --student {student}"),
    ]
    if described["output_kind"] == "labels":
        return [*rows, ("", "labels move nowhere but on the boundary, so no gradient can be estimated")]
    return [*rows, ("to estimate it", f"cake distill {subject} --student {student} --gradients estimated")]


def _classes(described: dict[str, Any]) -> str:
    names = described["class_names"]
    return str(described["classes"]) + (
        f": {', '.join(names[:10])}{' ...' if len(names) > 10 else ''}" if names else ""
    )


def _whole(described: dict[str, Any]) -> Path:
    from cake_cli.storage import belongs_to

    return belongs_to(Path(described["path"]))


def _bank(described: dict[str, Any]) -> list[tuple[str, str]]:
    health, passes, plan = described["health"], described["teacher_passes"], described["plan"]
    of_all = "" if described["complete"] else f" of {plan['sets'] * plan['rows'] * plan['groups']:,}"
    rows = [
        ("state", "complete" if described["complete"] else f"partial: cake resume {as_argument(_whole(described))}"),
        ("samples", f"{described['samples']:,}{of_all} in {counted(described['shards'], 'shards')}"),
        ("teacher", f"{described['teacher']['name']}  {described['teacher']['sha256'][:16]}"),
        ("classes", _classes(described)),
        ("method", f"{described['synthesis']['method']}, seed {described['seed']}"),
        *[("contract", f"not strict: {used} were used") for used in described["outside_contract"]],
        ("cost", f"{count(passes['forward'])} forward and {count(passes['backward'])} backward teacher passes"),
    ]
    if described["arithmetic"]:
        rows.append(("repeatable", f"to the byte on {_conditions(described)}; otherwise up to rounding"))
    budget = described["time_budget"]
    if budget:
        left = f", ended before its {described['plan']['sets']} sets" if budget["reached"] else ""
        rows.append(("time", f"{duration(budget['spent'])} of a budget of {duration(budget['seconds'])}{left}"))
    if health:
        parts = [f"on target {health['on_target']:.1%}"] if described["aimed"] else []
        parts += [f"confidence {health['confidence']:.2f}", f"balance {health['balance']:.2f}"]
        parts += [f"{name} {health[name]:.1%}" for name in ("saturated", "dead") if health[name] is not None]
        parts += [f"variety {health['variety']:.2f}"] if health["variety"] is not None else []
        rows.append(("health", ", ".join(parts)))
    return rows


def _conditions(described: dict[str, Any]) -> str:
    """What the same command needs to give the same bytes."""
    found, at_once = described["arithmetic"], described["plan"]["at_once"]
    threads = [counted(found["threads"], "threads")] if found["threads"] else []
    ways = [found["layout"].replace("_", " ")] if "layout" in found else []
    ways += [name for key, name in (("compiled", "compiled"), ("graphed", "CUDA graph")) if found.get(key)]
    named = [found["device"], f"torch {found['torch']}", found["precision"], *ways, *threads]
    rows = f"{counted(found['rows_per_pass'], 'rows')} a pass"
    return f"{', '.join(named)}, {counted(at_once, 'sets')} at once, {rows}"


def _of_several(described: dict[str, Any]) -> str:
    accuracy = ((described["evaluation"] or {}).get("accuracy") or {}).get("student")
    told = "" if accuracy is None else f", accuracy {accuracy:.2%}"
    return f"{short_name(described['student']['architecture'])}  {described['path']}  {described['status']}{told}"


def _took(described: dict[str, Any]) -> str:
    """``2m05: load 0.4 s, synthesis 1m20, training 44 s``: a run's time, of several students each one's in all."""
    spent = dict(described["seconds"])
    spent |= {short_name(one["architectures"][0]): sum(one["seconds"].values()) for one in described["students"]}
    parts = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in spent.items())
    return f"{duration(sum(spent.values()))}: {parts}"


def _of_teacher(teacher: dict[str, Any]) -> list[tuple[str, str]]:
    """What a run recorded of its teacher, as far as it came."""
    rows = [("teacher", str(teacher.get("name")))]
    rows += [("input", _input(teacher["input"]))] if "input" in teacher else []
    rows += [("classes", _classes({"class_names": None} | teacher))] if "classes" in teacher else []
    return rows + ([("ends in", teacher["output_kind"])] if teacher.get("output_kind") else [])


def _run(described: dict[str, Any]) -> list[tuple[str, str]]:
    state = "stopped without a word (killed?)" if described["abandoned"] else described["status"]
    rows = [
        ("state", state + (f": {described['error']}" if described["error"] else "")),
        ("started", str(described["started"])),
        *([("took", _took(described))] if described["seconds"] else []),
        *_of_teacher(described["teacher"] or {}),
    ]
    if described["students"]:
        rows += [("student", _of_several(one)) for one in described["students"]]
    else:
        rows.append(("student", ", ".join(map(short_name, described["architectures"]))))
    if described["data_free"] is False:
        rows.append(("data", "NOT data-free: real data trained the student"))
    if "bank" in described:
        planned = (described["plan"] or {}).get("samples")
        of_all = "" if described["bank"]["complete"] or planned is None else f" of {planned:,}"
        rows.append(("bank", f"{counted(described['bank']['samples'], 'samples')}{of_all}"))
    evaluation = described["evaluation"]
    if evaluation:
        accuracy = {name: value for name, value in evaluation["accuracy"].items() if value is not None}
        rows.append(
            ("accuracy", ", ".join(f"{name.replace('_', ' ')} {value:.2%}" for name, value in accuracy.items()))
        )
        if evaluation["agreement"] is not None:
            rows.append(("agreement", f"{evaluation['agreement']:.2%}"))
    rows += [("warning", warning) for warning in described["warnings"]]
    if described["resumable"] and (described["status"] != "running" or described["abandoned"]):
        failed = described["status"] == "failed"
        again = f"cake resume {as_argument(_whole(described))}{', when what failed is mended' if failed else ''}"
        rows.append(("to go on", described["fix"] if failed and described["fix"] else again))
    return rows
