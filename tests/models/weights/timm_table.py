"""Writes the table by which weights of timm's architectures are told: ``python -m tests.models.weights.timm_table``.

Every architecture is built once without memory for its weights, which takes minutes; the table is then read in
milliseconds, with or without timm. Run it again for a new timm.
"""

from __future__ import annotations

import sys
import warnings

import timm
import torch
from torch import nn

from cake_cli.models.weightless import Weightless
from cake_cli.models.weights import timm_table


def build(name: str, **options: int) -> nn.Module:
    """An architecture without memory for its weights, by the first way that it allows."""
    for way in (torch.device("meta"), Weightless()):
        try:
            with warnings.catch_warnings(), way:
                warnings.simplefilter("ignore")
                return timm.create_model(name, pretrained=False, **options)
        except Exception:  # some do arithmetic on what they make
            continue
    return timm.create_model(name, pretrained=False, **options)


def line(name: str) -> str | None:
    """The row of an architecture; None where it has no head of classes."""
    model = build(name)
    heads = model.pretrained_cfg.get("classifier")
    stems = model.pretrained_cfg.get("first_conv")
    head = heads if isinstance(heads, str) else (heads or [""])[0]
    stem = stems if isinstance(stems, str) else (stems or [""])[0]
    shapes = {
        key: tuple(value.shape) for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")
    }
    if f"{head}.weight" not in shapes:
        return None
    entry = timm_table.Entry(name, len(shapes), head, stem, "")
    return " ".join([name, str(len(shapes)), head, stem or "-", timm_table.mark(shapes, entry)])


def main() -> None:
    """The whole table, to the file that the package reads."""
    lines = [f"# timm {timm.__version__}: name, tensors, head, first convolution, hash of the other names and shapes"]
    for name in timm.list_models():
        row = line(name)
        if row is not None:
            lines.append(row)
        sys.stderr.write(f"{name}\n")
    timm_table.FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
