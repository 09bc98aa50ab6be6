"""Between a `Config` and its written forms: TOML files, `--set`, flags; with every fault at once."""

from __future__ import annotations

import ast
import inspect
import json
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from cake_cli import config as config_module
from cake_cli import synthesis_config as synthesis_module
from cake_cli import training_config as training_module
from cake_cli.config import Config
from cake_cli.errors import UsageError, did_you_mean
from cake_cli.text import is_text

Values = dict[str, Any]
"""Settings by dotted key: ``{"synthesis.steps": 64}``."""
KEYS = "cake recipes --keys lists every key"


@cache
def field_types() -> dict[str, Any]:
    """The type of every setting by dotted key, in the order of `Config`."""
    types: dict[str, Any] = {}
    for name, section in get_type_hints(Config).items():
        if is_dataclass(section):
            types |= {f"{name}.{key}": kind for key, kind in get_type_hints(section).items()}
        else:
            types[name] = section
    return types


@cache
def descriptions() -> dict[str, str]:
    """The line under every field of the configuration, by dotted key."""
    lines: dict[str, dict[str, str]] = {}
    for module in (config_module, synthesis_module, training_module):
        for node in ast.parse(inspect.getsource(module)).body:
            if isinstance(node, ast.ClassDef):
                lines[node.name] = dict(_documented_fields(node))
    found = dict(lines["Config"])
    for name, section in get_type_hints(Config).items():
        if is_dataclass(section):
            found |= {f"{name}.{key}": line for key, line in lines[section.__name__].items()}  # type: ignore[union-attr]
    return found


def _documented_fields(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for statement, following in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            yield statement.target.id, " ".join(following.value.value.split())


@cache
def defaults() -> Values:
    """The default of every setting."""
    return flatten(Config())


def flatten(config: Config) -> Values:
    """Every setting of a configuration by dotted key."""
    values: Values = {}
    for name, section in asdict(config).items():
        values |= {f"{name}.{key}": value for key, value in section.items()} if isinstance(section, dict) else {}
        if not isinstance(section, dict):
            values[name] = section
    return values


def choices_of(key: str) -> tuple[str, ...]:
    """The words that a setting, or each part of it, is one of; none where it is anything else."""
    kind = field_types()[key]
    inner = get_args(kind)[0] if get_origin(kind) in (UnionType, Union, tuple) else kind
    return get_args(inner) if get_origin(inner) is Literal else ()


def build(values: Mapping[str, Any], *, origin: str = "the configuration") -> Config:
    """A configuration from settings by dotted key, as read from TOML or flags.

    Raises:
        UsageError: with every unknown key, wrong type and broken invariant in one message.
    """
    faults: list[UsageError] = []
    checked: Values = {}
    for key, value in values.items():
        if key not in field_types():
            faults.append(UsageError(_unknown(key), KEYS))
            continue
        try:
            checked[key] = coerce(field_types()[key], value)
        except ValueError as fault:
            choices = choices_of(key)
            faults.append(UsageError(f"{key} {fault}, not {value!r}", f"--set {key}={choices[0]}" if choices else KEYS))
    sections: dict[str, Any] = {key: value for key, value in checked.items() if "." not in key}
    for section in fields(Config):
        kind = get_type_hints(Config)[section.name]
        if not is_dataclass(kind):
            continue
        own = {key.split(".", 1)[1]: value for key, value in checked.items() if key.startswith(f"{section.name}.")}
        try:
            sections[section.name] = kind(**own)  # type: ignore[operator]
        except UsageError as fault:
            faults.append(fault)
    try:
        config = Config(**sections)
    except UsageError as fault:
        faults.append(fault)
    if not faults:
        return config
    raise _all_faults(faults, origin)


def _all_faults(faults: Sequence[UsageError], origin: str) -> UsageError:
    """All faults of a configuration as one, which has the fix of the only one, or theirs in brackets."""
    if len(faults) == 1:
        return UsageError(f"{origin}: {faults[0].what}", faults[0].fix)
    listed = "\n  ".join(fault.what if fault.fix == KEYS else f"{fault.what} ({fault.fix})" for fault in faults)
    fix = KEYS if any(fault.fix == KEYS for fault in faults) else "what stands in brackets after each"
    return UsageError(f"{origin} has {len(faults)} faults:\n  {listed}", fix)


def _unknown(key: str) -> str:
    hint = did_you_mean(key, field_types()) or did_you_mean(key.rsplit(".", 1)[-1], _short_names())
    return f"unknown key {key!r}" + (f", {hint}" if hint else "")


@cache
def _short_names() -> dict[str, str]:
    """Full keys by their last part."""
    return {key.rsplit(".", 1)[-1]: key for key in field_types()}


def full_key(name: str) -> str:
    """``steps`` and ``synthesis.steps`` both name ``synthesis.steps``; anything else is returned as it is."""
    return name if name in field_types() else _short_names().get(name, name)


def coerce(kind: Any, value: Any) -> Any:
    """A value as TOML or a flag gives it, in the type of its field.

    Raises:
        ValueError: with words that complete "KEY ...", such as "must be a whole number".
    """
    if get_origin(kind) in (UnionType, Union):
        options = [option for option in get_args(kind) if option is not NoneType]
        return None if value is None else coerce(options[0], value)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError("must be one of " + ", ".join(get_args(kind)))
        return value
    if get_origin(kind) is tuple:
        items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        return tuple(coerce(get_args(kind)[0], item) for item in items)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind is float and (whole or isinstance(value, float)):
        if not abs(value) <= sys.float_info.max:
            raise ValueError("must be a finite number")
        return float(value)
    if kind is int and whole and abs(value) >= 2**64:
        raise ValueError("must be a whole number of at most 64 bits")
    if kind is str and isinstance(value, str) and not is_text(value):
        raise ValueError("must be UTF-8: rename the file or folder")
    if (kind is int and whole) or (kind in (bool, str) and isinstance(value, kind)):
        return value
    names = {bool: "must be true or false", int: "must be a whole number", float: "must be a number", str: "is a text"}
    raise ValueError(names[kind])


def read_file(path: Path) -> Values:
    """The settings of a TOML file, or of a run's run.json, by dotted key, unchecked.

    A lambda of 0.5 without real data is passed over: the settings of every run said it when that was its default.

    Raises:
        UsageError: if the file is missing or not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        read = _flatten_tables(json.loads(text)["config"] if path.name == "run.json" else tomllib.loads(text))
    except FileNotFoundError:
        raise UsageError(f"there is no configuration file {path}", "cake distill ... --print-config > FILE") from None
    except RecursionError:
        raise UsageError(
            f"{path} is nested too deeply to be a configuration", "cake distill ... --print-config"
        ) from None
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as fault:
        raise UsageError(f"{path} holds no settings: {fault!r}", "--config config.toml, beside it") from fault
    except (OSError, ValueError) as fault:  # of which UnicodeDecodeError and TOMLDecodeError are two
        raise UsageError(f"{path} is not readable as TOML: {fault}", "cake distill ... --print-config") from fault
    if read.get("training.hard_weight") == 0.5 and "training.real_data" not in read:
        del read["training.hard_weight"]
    return read


def _flatten_tables(tables: Mapping[str, Any]) -> Values:
    values: Values = {}
    for name, entry in tables.items():
        values |= {f"{name}.{key}": value for key, value in entry.items()} if isinstance(entry, dict) else {name: entry}
    return values


def read_assignment(text: str) -> tuple[str, Any]:
    """One ``--set KEY=VALUE``: the value is TOML, or a plain text.

    Raises:
        UsageError: if there is no ``=``.
    """
    name, sign, written = text.partition("=")
    if not sign:
        raise UsageError(f"--set takes KEY=VALUE, not {text!r}", "--set synthesis.steps=64")
    try:
        read = tomllib.loads(f"value = {written}")
    except (ValueError, RecursionError):
        read = {}
    return full_key(name.strip()), read["value"] if len(read) == 1 else written


def recipe_names() -> list[str]:
    """The recipes that come with cake."""
    folder = resources.files("cake_cli") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def recipe_text(name: str) -> str:
    """A recipe as it is written.

    Raises:
        UsageError: if there is none of that name.
    """
    if name not in recipe_names():
        hint = did_you_mean(name, recipe_names())
        raise UsageError(f"there is no recipe {name!r}" + (f", {hint}" if hint else ""), "cake recipes lists them")
    return (resources.files("cake_cli") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")


def resolve(
    *,
    recipe: str | None = None,
    file: Path | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """The configuration of a run; later sources win: defaults, recipe, file, --set, flags.

    Args:
        recipe: name of a recipe.
        file: a TOML file.
        assignments: ``KEY=VALUE`` texts.
        flags: settings by dotted key; None means not given.

    Raises:
        UsageError: with all faults at once.
    """
    values: Values = {}
    if recipe is not None:
        values |= _flatten_tables(tomllib.loads(recipe_text(recipe)))
    if file is not None:
        values |= read_file(file)
    values |= dict(read_assignment(text) for text in assignments)
    values |= {key: value for key, value in (flags or {}).items() if value is not None}
    return build(values)


def write_toml(config: Config) -> str:
    """The configuration as commented TOML, which `read_file` reads back to the same values."""
    import tomli_w

    lines: list[str] = []
    section = ""
    for key, value in flatten(config).items():
        table, _, name = key.rpartition(".")
        if table != section:
            lines += ["", f"[{table}]"]
            section = table
        lines.append(f"# {descriptions()[key]}")
        written = list(value) if isinstance(value, tuple) else value
        if value is None:
            lines.append(f"# {name} =")
        elif isinstance(written, list):
            items = (tomli_w.dumps({"item": item}).strip().removeprefix("item = ") for item in written)
            lines.append(f"{name} = [{', '.join(items)}]")
        else:
            lines.append(tomli_w.dumps({name: written}).strip())
    return "\n".join(lines).strip() + "\n"
