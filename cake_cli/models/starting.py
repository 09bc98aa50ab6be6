"""Starting a student from weights that exist: all of them fit, or none is taken."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from cake_cli.errors import ModelFileError
from cake_cli.models.formats import sniff
from cake_cli.models.placing import put_into


def start_from(network: nn.Module, path: Path, name: str) -> None:
    """Puts the weights of a file into a network.

    Args:
        network: the student.
        path: a safetensors file or a torch checkpoint, of any kind that `read_weights` reads.
        name: of the student, for the message.

    Raises:
        ModelFileError: as `fitting_weights`.
    """
    put_into(network, fitting_weights(network, path, name))


def fitting_weights(network: nn.Module, path: Path, name: str) -> dict[str, Tensor]:
    """The weights of a file in the form of a network's state dict; the network may be without memory.

    Raises:
        ModelFileError: if the file is damaged, holds no weights, or they do not fit, with the keys, or are no floats.
    """
    from cake_cli.models.weights import read_weights  # torchvision, which it needs, takes seconds
    from cake_cli.models.weights.matching import differences, filled, require_floats

    file = sniff(path)
    if file.format not in ("safetensors", "checkpoint"):
        raise ModelFileError(f"{path} is {file.format}, not weights", "--init FILE.safetensors")
    weights = read_weights(file)
    wanted = network.state_dict()
    told = differences(wanted, weights.tensors, name)
    if not told:
        require_floats(wanted, weights.tensors, name, path)
        return filled(wanted, weights.tensors)
    made = weights.metadata.get("cake.architecture")
    stated = "" if made is None else f", but of {made} with {weights.metadata.get('cake.classes')} classes"
    raise ModelFileError(
        f"the weights of {path} are not those of {name} for this teacher{stated}: {told}",
        "weights of this architecture, input and classes, or none" + ("" if made is None else f"; or --student {made}"),
    )
