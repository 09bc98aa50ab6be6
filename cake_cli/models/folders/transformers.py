"""Folders as transformers saves them: config.json, preprocessor_config.json, safetensors."""

from __future__ import annotations

import os
import warnings
from typing import Any

from torch import Tensor, nn

from cake_cli.errors import EnvironmentFault, ModelFileError, UsageError
from cake_cli.models.folders.contents import Contents
from cake_cli.models.folders.held import Held, names_in_order, numbers
from cake_cli.spec import InputSpec

_UNIT = 1 / 255


class Logits(nn.Module):
    """A transformers classifier that returns its logits; with `turns`, of images whose channels are turned round."""

    def __init__(self, model: nn.Module, *, turns: bool = False) -> None:
        super().__init__()
        self.model = model
        self.turns = turns

    def forward(self, rows: Tensor) -> Tensor:
        """(N, C, H, W) to (N, K)."""
        logits: Tensor = self.model(pixel_values=rows.flip(1) if self.turns else rows).logits
        return logits


def import_transformers() -> Any:
    """The package transformers, told to stay off the network.

    Raises:
        EnvironmentFault: if it is not installed.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import transformers
    except ImportError as fault:
        raise EnvironmentFault("transformers is not installed", "pip install 'cake-cli[transformers]'") from fault
    return transformers


def open_transformers(contents: Contents) -> Held:
    """Loads an image classifier from its folder alone.

    Raises:
        ModelFileError: if it is no image classifier, is damaged, or its weights do not fit exactly.
        EnvironmentFault: if transformers is missing.
    """
    if "model_type" not in contents.config:
        raise ModelFileError(
            f"{contents.path}/config.json is neither timm's (architecture) nor transformers' (model_type)",
            "give the model as ONNX, or its weights with --arch",
        )
    transformers = import_transformers()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, report = transformers.AutoModelForImageClassification.from_pretrained(
                str(contents.path),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                attn_implementation="eager",
            )
    except Exception as fault:  # whatever the library raises for a foreign folder
        reason = next((line for line in str(fault).splitlines() if line.strip()), type(fault).__name__)
        raise ModelFileError(
            f"transformers does not open {contents.path} as an image classifier: {reason[:200]}",
            "check its config.json, or give the model as ONNX",
        ) from fault
    unfit = [f"{kind.replace('_', ' ')}: {sorted(map(str, keys))[0]}" for kind, keys in report.items() if keys]
    if unfit:
        raise ModelFileError(
            f"the weights of {contents.path} do not fit its config.json ({'; '.join(unfit)})",
            "copy or download the folder again, or save the model again: model.save_pretrained(FOLDER)",
        )
    classes = int(model.config.num_labels)
    named = names_in_order(model.config.id2label, classes)
    generic = named == tuple(f"LABEL_{index}" for index in range(classes))
    architecture = (contents.config.get("architectures") or [type(model).__name__])[0]
    return Held(
        Logits(model, turns=_turns(contents)).float().eval().requires_grad_(False),
        "transformers",
        str(architecture),
        _spec(contents),
        None if generic else named,
    )


def _is_of(contents: Contents, network: str) -> bool:
    """Whether images are prepared as a network's own processor does, what it does unsaid included."""
    said = contents.preprocessor
    return str(said.get("image_processor_type") or said.get("feature_extractor_type")).startswith(network)


def _turns(contents: Contents) -> bool:
    """Whether the order of channels is turned round: MobileViT has BGR."""
    return bool(contents.preprocessor.get("do_flip_channel_order", _is_of(contents, "MobileViT")))


def _spec(contents: Contents) -> InputSpec:
    """The input from preprocessor_config.json, and what only config.json says.

    EfficientNet's processor divides by the standard deviation once more (``include_top``), MobileViT's does not
    normalise, and ``rescale_offset`` takes one from what is rescaled.

    Raises:
        ModelFileError: if neither states the image size, or the numbers make no input.
    """
    said, config = contents.preprocessor, contents.config
    try:
        channels = int(config.get("num_channels", 3))
        height, width = _size(config.get("image_size")) or _preprocessed_size(said)
        if not said:
            return InputSpec((channels, height, width), source="assumed: there is no preprocessor_config.json")
        scaled = bool(said.get("do_rescale", True))
        factor = float(said.get("rescale_factor", _UNIT)) if scaled else 1.0
        normalised = bool(said.get("do_normalize", not _turns(contents))) and "image_mean" in said
        mean = numbers(said.get("image_mean"), (0.0,)) if normalised else (0.0,)
        std = numbers(said.get("image_std"), (1.0,)) if normalised else (1.0,)
        if scaled and said.get("rescale_offset"):
            mean = tuple(value + 1 for value in mean)
        if normalised and said.get("include_top", _is_of(contents, "EfficientNet")):
            std = tuple(value**2 for value in std)
        unit = factor / _UNIT  # raw values of cake lie in [0, 1]: value · 255 · factor is what mean and std are for
        return InputSpec(
            shape=(channels, height, width),
            mean=tuple(value / unit for value in mean),
            std=tuple(value / unit for value in std),
            source="preprocessor_config.json",
        )
    except (TypeError, ValueError, KeyError, ZeroDivisionError, UsageError) as fault:
        raise ModelFileError(
            f"{contents.path} does not state its input: {fault}", "add image_size to its config.json"
        ) from fault


def _size(value: Any) -> tuple[int, int] | None:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return int(value[0]), int(value[1])
    return (int(value), int(value)) if isinstance(value, (int, float)) else None


def _preprocessed_size(said: dict[str, Any]) -> tuple[int, int]:
    """The size that images have after resizing and cropping."""
    table = (said.get("crop_size") if said.get("do_center_crop") else None) or said.get("size")
    if isinstance(table, dict) and {"height", "width"} <= table.keys():
        return int(table["height"]), int(table["width"])
    side = _size(table.get("shortest_edge") if isinstance(table, dict) else table)
    if side is None:
        raise ValueError("neither config.json nor preprocessor_config.json has an image size")
    return side
