"""Prints pip constraints that pin every dependency to the lowest version that a pyproject.toml allows."""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
wanted = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
for requirement in wanted:
    found = re.match(r"([\w.-]+)>=([\w.]+)", requirement)
    if found and found[1] not in ("ruff", "mypy", "pre-commit"):  # lint and types are checked with the newest
        print(f"{found[1]}=={found[2]}")
