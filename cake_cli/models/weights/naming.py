"""From `--arch` to a module that holds the weights, or to the keys that do not fit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from cake_cli.catalog import STUDENTS, is_named, read_student
from cake_cli.errors import ModelFileError, UsageError, did_you_mean
from cake_cli.models.architectures import build_student, written_options
from cake_cli.models.architectures.timm import import_timm
from cake_cli.models.placing import put_into
from cake_cli.models.source import Source, call_function, read_source
from cake_cli.models.weightless import Weightless
from cake_cli.models.weights import torchvision
from cake_cli.models.weights.fitting import Fit, fitting
from cake_cli.models.weights.matching import differences, filled, require_floats
from cake_cli.models.weights.reading import Weights


@dataclass(frozen=True)
class Named:
    """A module with the weights in it, and where its form came from."""

    module: nn.Module
    origin: str
    """``torchvision``, ``cake``, ``timm``, or ``python`` for code of the user."""
    mends: tuple[str, ...] = ()


def build_named(
    name: str, weights: Weights, *, input_shape: tuple[int, ...] | None = None, classes: int | None = None
) -> Named:
    """The architecture of a name with the weights in it.

    Args:
        name: a torchvision classifier, a student of cake, ``timm:NAME``, or ``FILE.py:FUNCTION``, whose code
            is run and builds the network that the weights are put in.
        weights: every key and shape must fit.
        input_shape: (C, H, W) or (D,), for architectures that are built for an image size.
        classes: K, where the weights do not say it.

    Raises:
        UsageError: if there is no such architecture.
        EnvironmentFault: if timm is asked for and missing.
        ModelFileError: if the weights do not fit, with the keys.
    """
    source = read_source(Path(name))
    if source is not None:
        return _from_source(source, weights)
    if name.startswith("timm:"):
        return _timm(name.removeprefix("timm:"), weights, input_shape, classes)
    if not is_named(name):
        hint = did_you_mean(name, STUDENTS)
        raise UsageError(
            f"there is no architecture {name!r}" + (f", {hint}" if hint else ""),
            "--arch takes the names of `cake students`, timm:NAME and FILE.py:FUNCTION",
        )
    read_student(name)
    fit = next((fit for fit in fitting(weights) if fit.architecture == name), None)
    if (fit is not None and fit.origin == "cake") or name not in torchvision.NAMES:
        return _student(name, weights, input_shape, fit, classes)
    image = (input_shape[1], input_shape[2]) if input_shape is not None and len(input_shape) == 3 else None
    renamed, mends = _old_names(name, weights.tensors)
    module = torchvision.build(name, {key: tuple(tensor.shape) for key, tensor in renamed.items()}, image)
    load(module, renamed, name, weights)
    return Named(module, "torchvision", tuple(mends))


def _from_source(source: Source, weights: Weights) -> Named:
    """A network built by code of the user; the names of weights are read as its own, with or without prefixes."""
    module = call_function(source, (), contract="make it a function without arguments that returns the network")
    wanted = module.state_dict().keys()
    parts = [f"{part}." for part in weights.prefix.split(".")[:-1]]
    prefixes = ["".join(parts[start:]) for start in range(len(parts) + 1)]
    best = max(prefixes, key=lambda prefix: sum(f"{prefix}{key}" in wanted for key in weights.tensors))
    load(
        module,
        {f"{best}{key}": tensor for key, tensor in weights.tensors.items()},
        f"{source.file.name}:{source.function}",
        weights,
    )
    return Named(module, "python", (f"built by {source.file.name}:{source.function}, whose code was run",))


def _student(
    name: str, weights: Weights, input_shape: tuple[int, ...] | None, fit: Fit | None, classes: int | None
) -> Named:
    shape = input_shape
    if shape is None:
        known = fit.input_shape if fit is not None else ("C", "H", "W")
        if not all(isinstance(size, int) for size in known):
            raise ModelFileError(
                f"{weights.path} does not say the shape of its input",
                f"--arch {name} --input-shape {','.join(map(str, known))}",
            )
        shape = tuple(int(size) for size in known)
    with Weightless():
        module = build_student(
            name, shape, (fit.classes if fit is not None else None) or classes or _last(name, weights)
        )
    load(module, weights.tensors, name, weights)
    note = "the small-image form of cake: a first convolution of stride 1 and no pooling after it"
    return Named(module, "cake", (note,) if written_options(name, shape) == "form=small" else ())


def _last(name: str, weights: Weights) -> int:
    base = name.partition(":")[0]
    head = torchvision.family_of(base).head if base in torchvision.NAMES else "head.weight"
    tensor = weights.tensors.get(head)
    return tensor.shape[0] if tensor is not None and tensor.dim() else 2


def _timm(name: str, weights: Weights, input_shape: tuple[int, ...] | None, classes: int | None) -> Named:
    timm = import_timm()
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models())
        raise UsageError(
            f"timm has no architecture {name!r}" + (f", {hint}" if hint else ""),
            "--arch timm:resnet18, or another of timm.list_models()",
        )
    options: dict[str, object] = {}
    if input_shape is not None and len(input_shape) == 3:
        options["in_chans"] = input_shape[0]
    module = timm.create_model(name, pretrained=False, **options)
    head = module.pretrained_cfg.get("classifier")
    key = f"{head if isinstance(head, str) else (head or ['head'])[0]}.weight"
    found = tuple(weights.tensors[key].shape) if key in weights.tensors else ()
    count = found[0] if found else classes
    if count is None:
        raise ModelFileError(f"{weights.path} has no {key}, so its classes are unknown", "--classes K")
    if count != module.num_classes:
        module = timm.create_model(name, pretrained=False, num_classes=count, **options)
    load(module, weights.tensors, f"timm:{name}", weights)
    return Named(module, "timm")


def _old_names(name: str, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """DenseNet's names of before torch 0.4, ``norm.1`` for ``norm1``, which published files still have."""
    if not name.startswith("densenet"):
        return tensors, []
    renamed = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key): t for key, t in tensors.items()}
    return renamed, ["DenseNet's old names of weights renamed"] if renamed.keys() != tensors.keys() else []


def _other(name: str, fit: Fit) -> str:
    """What to try instead of a name that weights do not fit: another name, or that one for another input."""
    base = name.partition(":")[0]
    if base != fit.architecture:
        return f"--arch {fit.architecture}"
    small = base in torchvision.NAMES and fit.origin == "cake"
    return f"{fit.flags()}{f', below 64 pixels; for larger images --arch {base}:form=small' if small else ''}"


def load(module: nn.Module, tensors: dict[str, Tensor], name: str, weights: Weights) -> None:
    """Puts weights into a module, all of them or none; float16 and the like become float32.

    Raises:
        ModelFileError: with missing, unexpected and mismatched keys, three of each; or where floats are none.
    """
    wanted = module.state_dict()
    told = differences(wanted, tensors, name)
    if told:
        fits = fitting(weights)
        hint = _other(name, fits[0]) if fits else "another --arch; `cake inspect FILE` lists those that fit"
        raise ModelFileError(f"the weights of {weights.path} are not those of {name}: {told}", hint)
    require_floats(wanted, tensors, name, weights.path)
    put_into(module, filled(wanted, tensors), assign=True)
    bare = [key for key, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.is_meta]
    if bare:
        raise ModelFileError(
            f"{name} computes {bare[0]} itself, and cannot be built from weights alone",
            "give a function that returns the model, file.py:function, or export the model as ONNX",
        )
