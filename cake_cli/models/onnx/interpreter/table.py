"""How an ONNX operator is declared: a function of a node and its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Operator:
    """A torch counterpart of an ONNX operator.

    `function(node, *inputs)` gets a tensor for each input, None for an absent one, a `Host` for the
    positions in `host`; it returns one value or a tuple of them.
    """

    function: Callable[..., Any]
    host: frozenset[int] = frozenset()
    """Inputs that must be known without the data: shapes, axes, sizes."""
    scalars: frozenset[int] = frozenset()
    """Inputs that come as a `Host` where they are constant, and as a tensor where not."""
    like: bool = False
    """Whether it takes `like`, the input batch, for its device and precision."""
    bodies: bool = False
    """Whether it takes `execute`, which runs a graph attribute: `execute("then_branch", *inputs)`."""
    weights: tuple[str, ...] = ()
    """Attributes that hold lists of numbers: they follow the inputs as tensors (n,), None where absent or empty."""


class Table:
    """Operators of one theme, by (domain, name)."""

    def __init__(self, domain: str = "") -> None:
        self.domain = domain
        self.operators: dict[tuple[str, str], Operator] = {}

    def add(
        self,
        *names: str,
        host: Iterable[int] = (),
        scalars: Iterable[int] = (),
        like: bool = False,
        bodies: bool = False,
        weights: tuple[str, ...] = (),
    ) -> Callable[[F], F]:
        """A decorator that enters a function under the given operator names."""

        def enter(function: F) -> F:
            for name in names:
                self.operators[self.domain, name] = Operator(
                    function, frozenset(host), frozenset(scalars), like, bodies, weights
                )
            return function

        return enter

    def __iter__(self) -> Iterator[tuple[tuple[str, str], Operator]]:
        return iter(self.operators.items())
