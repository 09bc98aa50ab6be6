"""Folders as timm saves them: ``architecture``, ``num_classes`` and ``pretrained_cfg`` in config.json."""

from __future__ import annotations

from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from cake_cli.errors import ModelFileError, UsageError
from cake_cli.models.architectures.timm import import_timm
from cake_cli.models.folders.contents import Contents
from cake_cli.models.folders.held import Held, names_in_order, numbers
from cake_cli.models.weights.naming import load
from cake_cli.models.weights.reading import Weights
from cake_cli.spec import InputSpec

_NOT_ARGUMENTS = {
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable"),
    *("exportable", "no_jit", "model_name", "features_only"),
}
"""What ``model_args`` may not say: anything that reads other files, or changes what the model is."""


def open_timm(contents: Contents) -> Held:
    """Builds the architecture without any download and puts the folder's weights in it, all of them.

    Raises:
        ModelFileError: if the configuration is damaged, or the weights do not fit.
        EnvironmentFault: if timm is missing.
    """
    timm = import_timm()
    config = contents.config
    name, table, arguments = str(config["architecture"]), config.get("pretrained_cfg"), config.get("model_args")
    if not timm.is_model(name):
        raise ModelFileError(f"{contents.path} names {name!r}, which timm does not have", "pip install -U timm")
    table = table if isinstance(table, dict) else config
    arguments = dict(arguments) if isinstance(arguments, dict) else {}
    refused = sorted(_NOT_ARGUMENTS & set(arguments))
    if refused:
        raise ModelFileError(
            f"the model_args of {contents.path} may not say {', '.join(refused)}", "remove them from its config.json"
        )
    same_as = None if arguments else f"timm:{name}"  # --student takes no arguments of timm's
    try:
        classes = int(config.get("num_classes") or table.get("num_classes") or 0)
        shape = tuple(int(size) for size in table["input_size"])
        arguments |= {"num_classes": classes, "in_chans": shape[0]}
        module = timm.create_model(name, pretrained=False, **arguments)
        spec = _spec(name, shape, table)
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, AssertionError, UsageError) as fault:
        raise ModelFileError(
            f"{contents.path}/config.json does not describe a timm model: {type(fault).__name__}: {fault}",
            "save it again with timm.models.save_for_hf",
        ) from fault
    tensors: dict[str, Any] = {}
    try:
        for file in contents.weights:
            tensors |= load_file(file)
    except (SafetensorError, OSError) as fault:
        raise ModelFileError(f"{file} is not a whole safetensors file: {fault}", "copy it again") from fault
    load(module, tensors, f"timm's {name}", Weights(contents.path, tensors, {}, ()))
    labels = config.get("label_names") or table.get("label_names")
    network = module.eval().requires_grad_(False)
    return Held(network, "timm", name, spec, names_in_order(labels, classes), same_as)


def _spec(name: str, shape: tuple[int, ...], table: dict[str, Any]) -> InputSpec:
    if "mean" not in table or "std" not in table:
        return InputSpec(shape, source="assumed: config.json names no mean and std")
    return InputSpec(shape, numbers(table["mean"], ()), numbers(table["std"], ()), source=f"config.json of {name}")
