"""Checks that the README's main command, and a smaller run to a network like the teacher, did what is said of them."""

import json
import sys
from pathlib import Path

FLOORS = {"mlp:256,128": 0.96, "cnn": 0.975}
"""Least accuracy on the 500 digits, by student."""
LEAD = 0.01
"""How far the main command's student is ahead of its noise baseline, which learned as many rows: five digits."""
FILES = ("report.html", "samples.png", "curves.png", "confusion.png", "student.safetensors", "config.toml")

for path in map(Path, sys.argv[1:]):
    run = json.loads(path.read_text(encoding="utf-8"))
    accuracy = run["evaluation"]["accuracy"]
    print(path.parent, {name: round(value, 4) for name, value in accuracy.items() if value is not None}, run["seconds"])
    floor = FLOORS[run["config"]["student"]["architecture"]]
    if run["config"]["evaluation"]["baseline"]:
        floor = max(floor, accuracy["noise_baseline"] + LEAD)
    if run["status"] != "complete" or accuracy["student"] < floor:
        sys.exit(f"the student of {path.parent} does not reach {floor:.1%}")
    missing = [name for name in FILES if not (path.parent / name).is_file()]
    if missing:
        sys.exit(f"{path.parent} lacks {missing}")
