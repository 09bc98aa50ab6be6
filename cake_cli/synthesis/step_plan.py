"""How a step is computed: what a probe may choose, and what a bank remembers, because it decides the last bits."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

from cake_cli.config import Precision
from cake_cli.hardware import Layout


@dataclass(frozen=True)
class StepPlan:
    """Choices that change the speed of a step, and its result up to rounding."""

    layout: Layout
    precision: Precision
    """Of the teacher's passes."""
    rows_per_pass: int
    """Samples that go through the teacher together."""
    threads: int | None = None
    """Of the CPU; None for as many as torch takes by itself."""
    compiled: bool = False
    """Whether the teacher is compiled with torch.compile."""
    graphed: bool = False
    """Whether a step is captured once as a CUDA graph, and replayed."""

    def describe(self) -> str:
        """``channels last, fp32, 500 rows, 2 threads, compiled``."""
        parts = [self.layout.replace("_", " "), self.precision, f"{self.rows_per_pass} rows"]
        parts += [] if self.threads is None else [f"{self.threads} thread{'s' * (self.threads != 1)}"]
        parts += ["compiled"] * self.compiled + ["CUDA graph"] * self.graphed
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """As plain values, for a manifest."""
        return asdict(self)

    @staticmethod
    def from_json(content: Any) -> StepPlan:
        """The plan that `to_json` wrote; other entries are passed over.

        Raises:
            ValueError: if it is none.
        """
        try:
            plan = StepPlan(**{entry.name: content[entry.name] for entry in fields(StepPlan)})
        except (KeyError, TypeError) as fault:
            raise ValueError(f"not a step plan: {fault!r}") from fault
        threads = plan.threads is None or (type(plan.threads) is int and plan.threads > 0)
        rows = type(plan.rows_per_pass) is int and plan.rows_per_pass > 0
        switches = type(plan.compiled) is bool and type(plan.graphed) is bool
        named = plan.layout in get_args(Layout) and plan.precision in ("fp32", "bf16", "fp16")
        if not (threads and rows and switches and named):
            raise ValueError(f"not a step plan: {content!r}")
        return plan
