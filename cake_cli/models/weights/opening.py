"""Opening a file of weights as a teacher, with the architecture that the user names."""

from __future__ import annotations

import json

from torch import nn

from cake_cli.config import TeacherConfig
from cake_cli.errors import ModelFileError
from cake_cli.models.architectures import written_options
from cake_cli.models.formats import ModelFile
from cake_cli.models.layouts import attempts, find_layout
from cake_cli.models.opened import OpenedModel
from cake_cli.models.weights import torchvision
from cake_cli.models.weights.fitting import command, described, fitting, in_spelling_of
from cake_cli.models.weights.naming import Named, build_named
from cake_cli.models.weights.reading import Weights, read_weights
from cake_cli.spec import InputSpec
from cake_cli.storage import sha256


def open_weights(file: ModelFile, settings: TeacherConfig) -> OpenedModel:
    """Opens a state dict as a differentiable classifier.

    Args:
        file: a safetensors file or a torch checkpoint.
        settings: `arch` names the architecture; `input_shape` where neither it nor the weights determine one.

    Raises:
        ModelFileError: if no architecture is named, the weights do not fit it, or the input is unknown.
        UsageError: if there is no such architecture.
        EnvironmentFault: if it needs a package that is missing.
    """
    weights = read_weights(file)
    if settings.arch is None:
        raise nameless(weights)
    weights = in_spelling_of(settings.arch, weights)
    named = build_named(settings.arch, weights, input_shape=settings.input_shape, classes=settings.classes)
    metadata, shape = dict(weights.metadata), settings.input_shape
    entry = None
    if named.origin == "torchvision":
        entry = torchvision.published(settings.arch, sha256(file.path))
    if entry is not None:
        spec = _published_spec(entry)
        shape = shape or spec.shape
        metadata |= {
            "cake.input": json.dumps(spec.to_json()),
            "cake.input_source": spec.source,
            "cake.class_names": json.dumps(entry.meta["categories"]),
        }
        if hasattr(named.module, "transform_input"):
            named.module.transform_input = True  # type: ignore[assignment]  # as torchvision does for its own weights
    shape = shape or _known_shape(settings.arch, named, weights)
    module = named.module.eval().requires_grad_(False)
    layout = find_layout(module, attempts(shape), output=settings.output)
    return OpenedModel(
        module=layout.module,
        input_shape=layout.shape,
        output_kind="logits",
        converter=named.origin,
        facts={"format": f"weights, {len(weights.tensors)} tensors", "arch": settings.arch},
        mends=weights.mends + named.mends,
        metadata=metadata,
        same_as=_same_as(settings.arch, named, layout.shape),
        fixed_batch=layout.fixed_batch,
        has_batch_axis=layout.has_batch_axis,
    )


def _same_as(arch: str, named: Named, shape: tuple[int, ...]) -> str | None:
    """The name of the same network among the students; torchvision's own is the published form at any size.

    None for one's own code: here it builds the one network that the weights are of, a student's is given an input.
    """
    if named.origin == "python":
        return None
    base = arch.partition(":")[0]
    options = written_options(arch, shape) if named.origin == "cake" else ""
    if named.origin == "torchvision":
        options = "form=published"
    return f"{base}:{options}" if options else arch


def nameless(weights: Weights) -> ModelFileError:
    """The refusal of weights whose architecture nobody named: what they fit, and the command."""
    fits = fitting(weights)
    return ModelFileError(
        f"{weights.path} holds weights ({len(weights.tensors)} tensors), "
        f"but does not say of which architecture; {described(weights, fits)}",
        command(weights, fits),
    )


def _published_spec(entry: object) -> InputSpec:
    """The input of weights that torchvision publishes, from its own table."""
    transforms = entry.transforms()  # type: ignore[attr-defined]
    side = int(transforms.crop_size[0])
    return InputSpec(
        shape=(3, side, side),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        source=f"torchvision's table: the file is its {entry}",
    )


def _known_shape(arch: str, named: Named, weights: Weights) -> tuple[int, ...]:
    """The input where the weights determine it.

    Raises:
        ModelFileError: where they do not.
    """
    if arch.startswith("vit_"):
        side = torchvision.vit_image(arch, weights.shapes())
        return (3, side, side)
    if named.origin == "cake":
        fit = next(fit for fit in fitting(weights) if fit.architecture == arch)
        return tuple(int(size) for size in fit.input_shape)
    if named.origin == "python":
        raise ModelFileError(f"{arch} does not state the shape of its input", "--input-shape C,H,W, or D for vectors")
    usual, fixed = _usual(arch, named.module)
    if fixed:
        return usual
    channels, *image = usual
    raise ModelFileError(
        f"{weights.path} does not say the size of its images, and {arch} takes many",
        f"--input-shape {channels},H,W; the published {arch} was trained on {channels},{image[0]},{image[1]}",
    )


def _usual(arch: str, module: nn.Module) -> tuple[tuple[int, ...], bool]:
    """The input of the published model, and whether the architecture takes no other."""
    if arch.startswith("timm:"):
        table = module.pretrained_cfg
        assert isinstance(table, dict)
        return tuple(table["input_size"]), bool(table.get("fixed_input_size"))
    side = torchvision.published_side(arch)
    return (3, side, side), False
