"""`student.safetensors`: a trained student with everything needed to use it in the file's own header.

The header's metadata (texts) are: ``cake.version``, ``cake.architecture``, ``cake.input`` (an `InputSpec`
as JSON), ``cake.classes`` (their number), ``cake.class_names`` (a JSON list, or null),
``cake.teacher`` and ``cake.teacher_sha256`` (name and hash of its file), ``cake.data_free`` (true or false), and
``cake.origin``, which says the same in words.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from cake_cli import __version__
from cake_cli.errors import ModelFileError, UsageError
from cake_cli.models.architectures import build_student
from cake_cli.models.classifier import Classifier
from cake_cli.spec import InputSpec
from cake_cli.storage import sha256, write_bytes

MAX_CLASSES = 100_000
ORIGIN = "trained on synthetic samples of the teacher, without real data"
ORIGIN_WITH_DATA = "trained with real data: NOT data-free"


def save_student(
    path: Path,
    network: nn.Module,
    architecture: str,
    *,
    spec: InputSpec,
    classes: int,
    class_names: tuple[str, ...] | None,
    teacher_sha256: str,
    teacher_name: str = "",
    data_free: bool = True,
) -> None:
    """Writes a student, atomically.

    Args:
        path: the file.
        network: maps normalised (N, *spec.shape) to (N, classes) logits.
        architecture: the name that `build_student` made it from.
        spec: the teacher's input, which is the student's too.
        classes: K.
        class_names: K names, or None.
        teacher_sha256: hash of the teacher's file.
        teacher_name: name of the teacher's file, where it is known.
        data_free: whether no real data trained it.

    Raises:
        EnvironmentFault: if the disk is full or refuses.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    metadata = {
        "format": "pt",
        "cake.version": __version__,
        "cake.architecture": architecture,
        "cake.input": json.dumps(spec.to_json()),
        "cake.classes": str(classes),
        "cake.class_names": json.dumps(class_names),
        "cake.teacher": teacher_name,
        "cake.teacher_sha256": teacher_sha256,
        "cake.data_free": json.dumps(data_free),
        "cake.origin": ORIGIN if data_free else ORIGIN_WITH_DATA,
    }
    write_bytes(path, _with_sorted_header(save(tensors, metadata=metadata)))


def _with_sorted_header(content: bytes) -> bytes:
    """The same safetensors file with its metadata in order.

    The library writes them in a random one, and equal students are to have equal hashes.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    written = json.dumps(header, separators=(",", ":")).encode()
    written += b" " * (-len(written) % 8)
    return len(written).to_bytes(8, "little") + written + content[8 + length :]


def student_metadata(path: Path) -> dict[str, str]:
    """The header metadata of a safetensors file.

    Raises:
        ModelFileError: if it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as fault:
        raise ModelFileError(f"{path} is not a whole safetensors file: {fault}", "copy it again") from fault


def load_student(path: Path) -> Classifier:
    """A student that `save_student` wrote, as a classifier on the CPU.

    Raises:
        ModelFileError: if it is damaged, or is not a student of cake.
    """
    metadata = student_metadata(path)
    if "cake.architecture" not in metadata:
        raise ModelFileError(
            f"{path} holds weights, but does not say of which architecture",
            "name it with --arch; `cake inspect FILE` lists those that fit",
        )
    try:
        spec = InputSpec.from_json(json.loads(metadata["cake.input"]))
        classes = int(metadata["cake.classes"])
        names = json.loads(metadata["cake.class_names"])
        if not 2 <= classes <= MAX_CLASSES or (names is not None and len(names) != classes):
            raise ValueError(f"{classes} classes")
        with torch.device("meta"):
            network = build_student(metadata["cake.architecture"], spec.shape, classes)
        network.load_state_dict(load_file(path), strict=True, assign=True)
    except (UsageError, KeyError, ValueError, TypeError, RuntimeError, SafetensorError) as fault:
        reason = str(fault).splitlines()[0]
        raise ModelFileError(f"{path} is not a whole student of cake: {reason}", "export or train it again") from fault
    return Classifier(
        module=network.eval().requires_grad_(False),
        spec=replace(spec, source="the student's own header"),
        classes=classes,
        class_names=None if names is None else tuple(str(name) for name in names),
        name=path.name,
        sha256=sha256(path),
        architecture=metadata["cake.architecture"],
        facts={key: value for key, value in metadata.items() if key.startswith("cake.")},
    )
