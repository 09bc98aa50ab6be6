"""Text that others wrote, made safe to show: names in files may hold what steers a terminal."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line feed, what turns the direction of text, and halves of characters."""


def printable(text: str) -> str:
    """The text with a mark in place of every character that no terminal should be sent."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def is_text(name: str) -> bool:
    """Whether a name can be written down as UTF-8: of a file's whose bytes are not, Python makes surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_argument(path: object) -> str:
    """A path as it is typed in a shell; one that begins with a dash would be taken for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def counted(number: int, units: str) -> str:
    """``20,000 samples``, ``1 sample``."""
    return f"{number:,} {units.removesuffix('s') if number == 1 else units}"


def whole_characters(text: str) -> str:
    """The text with a question mark for every half of a character, which JSON can say and no file can hold."""
    return text.encode("utf-8", "replace").decode()


def printable_json(content: Any) -> str:
    r"""JSON in which such characters are escaped as ``\u001b``, so that nothing is lost."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
