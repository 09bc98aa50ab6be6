"""Checks that the README's main command did what the README says of it."""

import json
import sys
from pathlib import Path

FLOOR = 0.96
LEAD = 0.01
"""How far the student is ahead of its noise baseline, which learned as many rows, at least: five digits of 500."""

run = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
accuracy = run["evaluation"]["accuracy"]
print({name: round(value, 4) for name, value in accuracy.items()}, run["seconds"])
if run["status"] != "complete" or accuracy["student"] < max(FLOOR, accuracy["noise_baseline"] + LEAD):
    sys.exit(f"the student does not reach {FLOOR:.0%}, or is less than {LEAD:.0%} ahead of its noise baseline")
missing = [
    name
    for name in ("report.html", "samples.png", "curves.png", "confusion.png", "student.safetensors", "config.toml")
    if not (Path(sys.argv[1]).parent / name).is_file()
]
if missing:
    sys.exit(f"the run directory lacks {missing}")
