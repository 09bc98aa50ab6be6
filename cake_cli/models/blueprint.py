"""A student that is known to be possible for a teacher: what it is, what it starts from, what it costs."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cake_cli.catalog import read_student
from cake_cli.errors import ModelFileError, UsageError
from cake_cli.models.architectures import FOR_VECTORS, build_student, does_not_fit, size_and_layers
from cake_cli.models.classifier import Classifier
from cake_cli.models.counting import Size
from cake_cli.models.formats import sniff, weights_file
from cake_cli.models.source import read_source
from cake_cli.models.starting import fitting_weights, start_from
from cake_cli.models.students import full_name, needs_code, student_metadata
from cake_cli.models.weightless import Weightless
from cake_cli.spec import format_shape
from cake_cli.storage import sha256

DEEP = 10
"""Layers of a network that has many: residual networks have, and LeNet, AlexNet and our `cnn` have not."""


@dataclass(frozen=True)
class Blueprint:
    """What a student will be. `build` makes it, as often as it is needed."""

    architecture: str
    """As `build_student` takes it."""
    shape: tuple[int, ...]
    """(C, H, W) or (D,)."""
    classes: int
    size: Size
    layers: int
    """Kernels and matrices that it learns."""
    note: str
    """Where it comes from and what it starts from, in words."""
    weights: Path | None = None
    """The file that it starts from."""
    weights_sha256: str | None = None
    code_sha256: str | None = None
    """Hash of the file of one's own code."""

    @property
    def is_plain(self) -> bool:
        """Whether it takes values as they come, without convolutions or patches."""
        wanted = read_student(self.architecture)
        return wanted.kind == "name" and wanted.base in FOR_VECTORS

    @property
    def is_deep(self) -> bool:
        """Whether it has many layers."""
        return self.layers >= DEEP

    def to_json(self) -> dict[str, Any]:
        """As run.json keeps it."""
        return {
            "architecture": self.architecture,
            "parameters": self.size.parameters,
            "size": asdict(self.size),
            "init": None if self.weights is None else str(self.weights),
            "init_sha256": self.weights_sha256,
            "code_sha256": self.code_sha256,
        }

    def build(self) -> nn.Module:
        """The student on the CPU; draws from torch's global generator what it does not start from.

        Raises:
            CakeError: as `build_student`; or if the file that it starts from has changed.
        """
        network = build_student(self.architecture, self.shape, self.classes)
        if self.weights is not None:
            start_from(network, self.weights, self.architecture)
        return network


def plan_student(
    name: str,
    shape: tuple[int, ...],
    classes: int,
    *,
    weights: str | None = None,
    teacher: Classifier | None = None,
) -> Blueprint:
    """Finds out what a text of ``--student`` means for a teacher's input, and that it is possible.

    Args:
        name: an architecture, ``timm:NAME``, ``file.py:function``, a student's file, or ``same``.
        shape: (C, H, W) or (D,).
        classes: K.
        weights: file to start from; a student's file given as `name` is one.
        teacher: for ``same``.

    Raises:
        UsageError: if the architecture does not take the input, with a few that do; or ``same`` is not known.
        ModelFileError: if the weights, a student's file or one's own code are not what they should be.
        EnvironmentFault: if timm is asked for and missing.
    """
    wanted, note = read_student(name), ""
    if wanted.kind == "same":
        name = _same(teacher)
        note = f"the teacher's {name}, "
    elif wanted.kind == "file":
        name, weights = _of_file(Path(wanted.base), weights)
        note = f"{name}, "
    try:
        size, layers = size_and_layers(name, shape, classes)
    except UsageError as fault:
        raise does_not_fit(name, shape, classes, fault) from fault
    if wanted.kind == "same" and teacher is not None:
        _require_same(name, shape, classes, teacher)
    source = read_source(Path(name))
    start = None if weights is None else weights_file(Path(weights))
    if start is not None:
        _require_weights(name, shape, classes, start)
    return Blueprint(
        architecture=name,
        shape=shape,
        classes=classes,
        size=size,
        layers=layers,
        note=note + ("random init" if start is None else _started(start)),
        weights=start,
        weights_sha256=None if start is None else sha256(start),
        code_sha256=None if source is None else sha256(source.file),
    )


def _started(path: Path) -> str:
    """The file that a student starts from, as its path is read from here, and what it says of its own training."""
    here = Path.cwd()
    near = path.relative_to(here) if path.is_relative_to(here) else path
    header = student_metadata(path) if sniff(path).format == "safetensors" else {}
    return f"starts from {near}" + (", which real data trained" if header.get("cake.data_free") == "false" else "")


def _same(teacher: Classifier | None) -> str:
    if teacher is None:
        raise UsageError(
            "the bank does not say its teacher's architecture", "--teacher FILE, or the name of an architecture"
        )
    if teacher.same_as is None:
        raise UsageError(
            f"{teacher.name} does not say its architecture, so --student same is not known",
            "--student NAME; `cake students TEACHER` lists what fits. It is known of students of cake and their "
            "exports, weights with --arch, and folders of timm",
        )
    return teacher.same_as


def _require_same(name: str, shape: tuple[int, ...], classes: int, teacher: Classifier) -> None:
    """Holds the student's tensors against the teacher's: what goes by a name can be built in several ways.

    Not where the file is a graph: a converter folds and renames tensors, and a student's header says its options.
    """
    if teacher.converter not in ("cake", "torchvision", "timm", "torch"):
        return
    network = _on_paper(name, shape, classes)
    own = Counter(tuple(tensor.shape) for tensor in network.state_dict().values())
    theirs = Counter(tuple(tensor.shape) for tensor in teacher.module.state_dict().values())
    if own - theirs:
        raise UsageError(
            f"{teacher.name} is a {name}, but not as cake builds it for {format_shape(shape)}",
            f"--student {name.partition(':form')[0]}, for the form that cake builds",
        )


def _of_file(path: Path, weights: str | None) -> tuple[str, str]:
    """Architecture and weights of a student's file."""
    file = weights_file(path)
    format = sniff(file).format
    if format not in ("safetensors", "checkpoint"):
        raise ModelFileError(
            f"{path} is {format}, which no student starts from",
            "--student NAME, with --init FILE.safetensors where its weights are there as such",
        )
    metadata = student_metadata(file) if format == "safetensors" else {}
    if weights is not None:
        raise UsageError(f"{path} is a file to start from, and --init names another", "leave one of them out")
    if "cake.architecture" not in metadata:
        raise ModelFileError(
            f"{path} holds weights, but does not say of which architecture", f"--student NAME --init {path}"
        )
    if needs_code(metadata):
        made = metadata["cake.architecture"]
        raise ModelFileError(
            f"{path} was made by {made}, and cake runs no code because a file names it",
            f"--student PATH/{made} --init {path}, if you trust that code",
        )
    name = full_name(metadata)
    if read_student(name).kind not in ("name", "timm"):
        raise ModelFileError(f"{path} is not a whole student of cake: it is of {name!r}", "train it again")
    return name, str(path)


def _require_weights(name: str, shape: tuple[int, ...], classes: int, path: Path) -> None:
    """Holds the file's keys and shapes against the student's."""
    fitting_weights(_on_paper(name, shape, classes), path, name)


def _on_paper(name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """A student of which only keys and shapes matter; our own and torchvision's take no memory then."""
    with Weightless() if read_student(name).kind == "name" else nullcontext():
        return build_student(name, shape, classes)


def check_named(name: str, weights: str | None) -> None:
    """What can be said of ``--student`` and ``--init`` before the teacher is opened.

    Raises:
        CakeError: if there is no such architecture, option or file.
    """
    wanted = read_student(name)
    for path in ((wanted.base,) if wanted.kind == "file" else ()) + ((weights,) if weights else ()):
        sniff(weights_file(Path(path)))
    source = read_source(Path(name))
    if source is not None and not source.file.is_file():
        raise UsageError(f"there is no file {source.file}", "name it as path/to/file.py:function")
