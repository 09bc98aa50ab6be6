"""The house: imports run downward only, and nothing below the command line touches the terminal.

Read from the sources, so that an import inside a function counts as much as one at the top. Imports under
``if TYPE_CHECKING`` tie no module to another when the program runs, but they must not climb either.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import cake_cli

PACKAGE = Path(cake_cli.__file__).parent
FLOORS = {
    0: {
        "",
        "errors",
        "interval",
        "address",
        "spec",
        "config",
        "synthesis_config",
        "training_config",
        "settings",
        "events",
        "storage",
        "forms",
        "text",
        "runs",
        "recording",
        "catalog",
        "locks",
    },
    1: {"hardware", "threads", "ranks"},
    2: {"models", "data"},
    3: {"synthesis", "distillation"},
    4: {"report"},
    5: {
        "methods",
        "planning",
        "subject",
        "estimating",
        "pipeline",
        "rounds",
        "synthesizing",
        "tuning",
        "benchmark",
        "training",
        "lesson",
        "real_data",
        "labelled",
        "inspection",
        "offering",
        "assessment",
    },
    6: {"cli", "__main__"},
}
FLOOR_OF = {part: floor for floor, parts in FLOORS.items() for part in parts}
NEIGHBOURS = {
    ("pipeline", "planning"),
    ("pipeline", "synthesizing"),
    ("pipeline", "rounds"),
    ("rounds", "planning"),
    ("rounds", "synthesizing"),
    ("rounds", "training"),
    ("rounds", "lesson"),
    ("synthesizing", "planning"),
    ("synthesizing", "methods"),
    ("synthesizing", "tuning"),
    ("tuning", "planning"),
    ("benchmark", "planning"),
    ("benchmark", "tuning"),
    ("pipeline", "training"),
    ("training", "planning"),
    ("training", "labelled"),
    ("rounds", "labelled"),
    ("labelled", "planning"),
    ("labelled", "methods"),
    ("training", "lesson"),
    ("training", "real_data"),
    ("planning", "real_data"),
    ("estimating", "planning"),
    ("planning", "methods"),
    ("planning", "subject"),
    ("benchmark", "methods"),
    ("training", "methods"),
    ("tuning", "methods"),
    ("estimating", "methods"),
    ("__main__", "cli"),
}
"""The only imports between two parts of a floor above the ground: all other parts of a floor are strangers."""
MAY_NOT = {
    ("synthesis", "data"): "data-freeness is a property of the architecture",
    ("distillation", "data"): "data-freeness is a property of the architecture",
    ("distillation", "models"): "a trainer needs a module, not where it came from",
    ("report", "data"): "a report shows what the run recorded, and opens no real data",
    ("report", "models"): "a report shows what the run recorded, and opens no model",
    ("inspection", "data"): "to look at a file takes no data",
    ("data", "hardware"): "held-out rows are read on the CPU; who evaluates moves them",
}
SILENCES = {"cake_cli.models.exporting.writing"}
"""Who imports logging only to keep others quiet: torch's exporters log to the terminal."""
HEAVY = {"torch", "torchvision", "torchmetrics", "numpy", "onnx", "onnx2torch", "onnxruntime", "safetensors", "PIL"}


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


SOURCES = {module_name(file): ast.parse(file.read_text(encoding="utf-8")) for file in sorted(PACKAGE.rglob("*.py"))}


def imports(module: str) -> Iterator[str]:
    """Dotted names that a module imports, anywhere in it."""
    for node in ast.walk(SOURCES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module is not None
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in SOURCES else node.module for name in names)


def part(module: str) -> str:
    """``models`` of ``cake_cli.models.onnx``; an empty text for the package itself."""
    return module.partition(".")[2].partition(".")[0]


OWN = sorted(
    {
        (module, imported)
        for module in SOURCES
        for imported in imports(module)
        if imported.partition(".")[0] == "cake_cli" and part(module) != part(imported)
    }
)


def test_every_part_of_the_package_has_a_floor():
    assert {part(module) for module in SOURCES} == set(FLOOR_OF)


def test_the_sources_were_read():
    assert ("cake_cli.synthesizing", "cake_cli.synthesis.bank") in OWN
    assert ("cake_cli.cli.resume", "cake_cli.runs") in OWN, "imports inside functions count"


def test_imports_run_downward():
    climbing = [pair for pair in OWN if FLOOR_OF[part(pair[1])] > FLOOR_OF[part(pair[0])]]
    assert climbing == []


def test_parts_of_a_floor_are_strangers():
    across = {(part(one), part(other)) for one, other in OWN}
    same_floor = {(one, other) for one, other in across if FLOOR_OF[one] == FLOOR_OF[other] > 0}
    assert same_floor <= NEIGHBOURS


@pytest.mark.parametrize(("importer", "imported"), MAY_NOT, ids=lambda name: name)
def test_what_must_not_know_of_what(importer: str, imported: str):
    found = [pair for pair in OWN if (part(pair[0]), part(pair[1])) == (importer, imported)]
    assert found == [], MAY_NOT[importer, imported]


def reachable(start: str) -> set[str]:
    """Every module of the package that importing and running `start` can bring in."""
    seen: set[str] = set()
    waiting = [module for module in SOURCES if part(module) == start]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += [name for name in imports(module) if name in SOURCES]
    return seen


@pytest.mark.parametrize("start", ["synthesis", "distillation", "report"])
def test_real_data_cannot_be_reached_by_a_detour(start: str):
    assert {module for module in reachable(start) if part(module) == "data"} == set()


def test_no_module_imports_itself_by_a_detour():
    graph = {module: {name for name in imports(module) if name in SOURCES} - {module} for module in SOURCES}
    inside_functions = {("cake_cli.models.loading", "cake_cli.models.onnx")}
    assert all(pair[1] in graph[pair[0]] for pair in inside_functions)
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", [name for name in SOURCES if FLOOR_OF[part(name)] == 0])
def test_the_ground_floor_is_light(module: str):
    assert {name.partition(".")[0] for name in imports(module)} & HEAVY == set()


@pytest.mark.parametrize("module", [name for name in SOURCES if part(name) in ("cli", "__main__")])
def test_the_command_line_imports_heavy_things_inside_functions_only(module: str):
    top = [node for node in SOURCES[module].body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in top if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} & HEAVY == set()
    own = {name for name in names if name.startswith("cake_cli.")}
    assert {part(name) for name in own if FLOOR_OF[part(name)] not in (0, 6)} == set()


def terminal_uses(tree: ast.Module) -> Iterator[str]:
    """Where a module prints, writes to a standard stream, or talks to rich or typer."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "print":
            yield f"print, line {node.lineno}"
        if isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr", "__stdout__", "__stderr__"):
            yield f"{node.attr}, line {node.lineno}"
        if isinstance(node, ast.ImportFrom) and node.module == "sys":
            yield f"a name of sys, line {node.lineno}"


@pytest.mark.parametrize("module", [name for name in SOURCES if FLOOR_OF[part(name)] < 6])
def test_nothing_below_the_command_line_prints(module: str):
    assert list(terminal_uses(SOURCES[module])) == []
    terminal = {"rich", "typer", "click"} | (set() if module in SILENCES else {"logging"})
    assert {name.partition(".")[0] for name in imports(module)} & terminal == set()


def test_a_print_would_be_seen():
    seen = list(terminal_uses(ast.parse("import sys\nfrom sys import stdout\nprint(1)\nsys.stderr.write('')")))
    assert len(seen) == 3
