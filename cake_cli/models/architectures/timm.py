"""Architectures of timm, which is an extra."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from cake_cli.errors import EnvironmentFault, UsageError, did_you_mean
from cake_cli.spec import format_shape


def import_timm() -> Any:
    """The package timm.

    Raises:
        EnvironmentFault: if it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import timm
    except ImportError as fault:
        raise EnvironmentFault("timm is not installed", "pip install 'cake-cli[timm]'") from fault
    return timm


def timm_network(name: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """An architecture of timm, freshly drawn; nothing is downloaded.

    It is built for the number of channels and classes, and for the size of the image where timm fixes one
    (Vision Transformers and their like).

    Raises:
        EnvironmentFault: if timm is not installed.
        UsageError: if it has no such architecture, or cannot build it for this input.
    """
    timm = import_timm()
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models())
        raise UsageError(f"timm has no architecture {name!r}" + (f", {hint}" if hint else ""), "--student timm:NAME")
    options: dict[str, Any] = {"num_classes": classes, "in_chans": shape[0]}
    described = timm.get_pretrained_cfg(name)
    if described is not None and described.fixed_input_size:
        options["img_size"] = shape[1:]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network: nn.Module = timm.create_model(name, pretrained=False, **options)
    except (TypeError, ValueError, RuntimeError, AssertionError, IndexError, ZeroDivisionError) as fault:
        reason = str(fault).strip().partition("\n")[0] or type(fault).__name__
        raise UsageError(
            f"timm:{name} cannot be built for inputs of {format_shape(shape)}: {reason}", "another --student"
        ) from fault
    return network
