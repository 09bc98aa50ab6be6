"""Seeded damage of bytes, texts, JSON and TOML.

Every mutator takes bytes and a `random.Random` and returns bytes, so that a seed and a number name an input for ever.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

Mutator = Callable[[bytes, Random], bytes]

NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    127,
    128,
    255,
    256,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    -(2**63),
)
TEXTS = (
    *("", " ", "\0", "\n", "\x1b[2J\x1b[31mred", "\x9b31m", "\u202egnp.exe", "\r error: all is well", "a" * 5000),
    *(
        "../../outside/secret.txt",
        "/etc/passwd",
        "..\\..\\outside",
        "~",
        "/dev/zero",
        "/proc/self/mem",
        "file:///etc/passwd",
    ),
    *(
        "%s%n",
        "{0}",
        "[red]x[/red]",
        "$(touch pwned)",
        "; touch pwned",
        "\ud800",
        "é\u0301",
        "NaN",
        "1e999",
        "-0",
        "0x10",
    ),
    *(
        "__import__('os').system('touch pwned')",
        "!!python/object:os.system",
        "${jndi}",
        "teacher",
        "mlp:8",
        "mlp:9999999999",
    ),
    *("cnn", "mlp:", "mlp:-1", "cake-bank", "linear", "resnet18", "complete", "partial", "9" * 5000),
)
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        [],
        {},
        [[]],
        [None],
        {"": None},
        float("nan"),
        float("inf"),
        -float("inf"),
        1e308,
        5e-324,
        -0.0,
        0.5,
    ),
    *(10**30, [1] * 2000, {"a": {"b": {"c": []}}}),
)


def flip(content: bytes, source: Random) -> bytes:
    """One to eight bits the other way."""
    found = bytearray(content)
    for _ in range(source.randint(1, 8) if found else 0):
        found[source.randrange(len(found))] ^= 1 << source.randrange(8)
    return bytes(found)


def poke(content: bytes, source: Random) -> bytes:
    """Bytes of the kind that ends texts and signs numbers."""
    found = bytearray(content)
    for _ in range(source.randint(1, 4) if found else 0):
        found[source.randrange(len(found))] = source.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, 0x1B, 0x2E))
    return bytes(found)


def cut(content: bytes, source: Random) -> bytes:
    """Only the beginning."""
    return content[: source.randrange(len(content) + 1)]


def splice(content: bytes, source: Random) -> bytes:
    """A piece taken out, put in twice, or moved."""
    if len(content) < 4:
        return content * 2
    start, stop = sorted(source.sample(range(len(content)), 2))
    stop = min(stop, start + 256)
    piece, place = content[start:stop], source.randrange(len(content))
    kind = source.randrange(3)
    if kind == 0:
        return content[:start] + content[stop:]
    return content[:place] + piece + content[place + (len(piece) if kind == 1 else 0) :]


def lengthen(content: bytes, source: Random) -> bytes:
    """Four or eight bytes overwritten by a length that is not true."""
    width, order = source.choice(((4, "<"), (4, ">"), (8, "<"), (2, "<")))
    if len(content) < width:
        return content
    place = source.randrange(len(content) - width + 1) if source.random() < 0.6 else 0
    mask = (1 << (8 * width)) - 1
    number = source.choice((*NUMBERS, len(content), len(content) + 1)) & mask
    packed = struct.pack(order + {2: "H", 4: "I", 8: "Q"}[width], number)
    return content[:place] + packed + content[place + width :]


def pad(content: bytes, source: Random) -> bytes:
    """Something before or after."""
    more = source.choice((b"\0" * 64, b"\xff" * 64, source.randbytes(100), content[:200]))
    return more + content if source.random() < 0.3 else content + more


BYTES: tuple[Mutator, ...] = (flip, flip, poke, cut, splice, lengthen, pad)


def any_bytes(content: bytes, source: Random) -> bytes:
    """One or two of the mutations of plain bytes."""
    for _ in range(source.randint(1, 2)):
        content = source.choice(BYTES)(content, source)
    return content


def odd_value(source: Random) -> Any:
    """A value that a JSON or TOML field was not made for."""
    return source.choice((source.choice(NUMBERS), source.choice(TEXTS), source.choice(ODD), source.choice(TEXTS)))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield value, key
        yield from _places(inner)


def change_tree(tree: Any, source: Random) -> Any:
    """One to three fields of a tree replaced, removed, doubled or renamed."""
    for _ in range(source.randint(1, 3)):
        places = list(_places(tree))
        if not places or source.random() < 0.02:
            return odd_value(source)
        container, key = source.choice(places)
        kind = source.randrange(8)
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, list):
            container.extend([container[key]] * source.choice((1, 2, 50)))
        elif kind == 1:
            container[source.choice(TEXTS)] = container[key]
        elif kind == 2 and isinstance(container[key], str):
            container[key] = source.choice(
                (container[key] + source.choice(TEXTS), container[key][::-1], f"../{container[key]}")
            )
        elif kind == 3 and isinstance(container[key], (int, float)):
            container[key] = source.choice(
                (-container[key], container[key] * 10**9, container[key] + 1, str(container[key]))
            )
        elif kind == 4:
            other, place = source.choice(places)
            if place in other if isinstance(other, dict) else place < len(other):
                container[key] = json.loads(json.dumps(other[place]))
        else:
            container[key] = odd_value(source)
    return tree


def as_json(content: bytes, source: Random) -> bytes:
    """Fields of a JSON text, or its nesting."""
    if source.random() < 0.15:
        return any_bytes(content, source)
    if source.random() < 0.03:
        depth = source.choice((500, 5000, 100_000))
        return b"[" * depth + b"]" * depth
    return json.dumps(change_tree(json.loads(content), source), ensure_ascii=source.random() < 0.7).encode(
        errors="replace"
    )


def as_json_lines(content: bytes, source: Random) -> bytes:
    """One line of many."""
    lines = content.splitlines()
    if not lines or source.random() < 0.1:
        return any_bytes(content, source)
    place = source.randrange(len(lines))
    lines[place] = as_json(lines[place], source).replace(b"\n", b" ")
    return b"\n".join(lines) + b"\n"


def as_toml(content: bytes, source: Random) -> bytes:
    """Values and names of a TOML text."""
    import tomllib

    import tomli_w

    if source.random() < 0.2:
        return any_bytes(content, source)
    try:
        return tomli_w.dumps(change_tree(tomllib.loads(content.decode()), source)).encode(errors="surrogatepass")
    except (TypeError, AttributeError, ValueError):  # no TOML can say it
        return as_lines(content, source)


def as_lines(content: bytes, source: Random) -> bytes:
    """Cells and lines of a text."""
    lines = content.decode("utf-8", "replace").splitlines()
    for _ in range(source.randint(1, 3)):
        if not lines:
            break
        place = source.randrange(len(lines))
        cells = lines[place].split(",")
        kind = source.randrange(4)
        if kind == 0:
            cells[source.randrange(len(cells))] = str(odd_value(source))
        elif kind == 1:
            del cells[source.randrange(len(cells))]
        elif kind == 2:
            cells *= 2
        else:
            lines.insert(place, lines[source.randrange(len(lines))])
        lines[place] = ",".join(cells)
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


def as_text(content: bytes, source: Random) -> bytes:
    """Lines, or bytes."""
    return as_lines(content, source) if source.random() < 0.7 else any_bytes(content, source)
