"""A payload that shows whether a file's pickle was run."""

from __future__ import annotations

from pathlib import Path


class Planted:
    """Unpickling this writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.write_text, (self.marker, "executed"))
