"""`student.safetensors`: a trained student with everything needed to use it in the file's own header.

The header's metadata are texts:

=======================  =========================================================================================
``cake.version``         of the cake that wrote it
``cake.architecture``    as ``--student`` named it; of one's own code ``file.py:function``, without the folder
``cake.options``         all options that the architecture was built with, also those left to choose
``cake.built_with``      torchvision or timm and its version, where it is theirs
``cake.code_sha256``     of the file of one's own code, which is never run because a header names it
``cake.input``           an `InputSpec` as JSON
``cake.classes``         their number
``cake.class_names``     a JSON list, or null
``cake.teacher``         name of the teacher's file
``cake.teacher_sha256``  and its hash
``cake.start_sha256``    of the weights that it started from, where it did
``cake.data_free``       true or false: whether no real data trained it here; a start from weights is not counted
``cake.origin``          the same in words, and the start
=======================  =========================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from cake_cli import __version__
from cake_cli.catalog import TORCHVISION_NAMES, read_student
from cake_cli.errors import ModelFileError, UsageError
from cake_cli.forms import parse_json
from cake_cli.models.architectures import build_student, written_options
from cake_cli.models.classifier import Classifier
from cake_cli.models.placing import put_into
from cake_cli.models.source import read_source, require_file
from cake_cli.models.weightless import Weightless
from cake_cli.spec import InputSpec
from cake_cli.storage import sha256, write_bytes
from cake_cli.text import whole_characters

MAX_CLASSES = 100_000
ORIGIN = "trained on synthetic samples of the teacher, without real data"
ORIGIN_WITH_DATA = "trained with real data: NOT data-free"
AGAIN = "export or train it again"


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
    code_sha256: str | None = None,
    start_sha256: str | None = None,
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
        code_sha256: hash that the file of one's own code had when the network was made.
        start_sha256: hash of the weights that it started from, where it did.

    Raises:
        EnvironmentFault: if the disk is full or refuses.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _apart(network.state_dict()).items()}
    started = "" if start_sha256 is None else f"; started from the weights of a file with the SHA-256 {start_sha256}"
    metadata = {
        "format": "pt",
        "cake.version": __version__,
        "cake.input": json.dumps(spec.to_json()),
        "cake.classes": str(classes),
        "cake.class_names": json.dumps(class_names),
        "cake.teacher": teacher_name,
        "cake.teacher_sha256": teacher_sha256,
        "cake.data_free": json.dumps(data_free),
        "cake.origin": (ORIGIN if data_free else ORIGIN_WITH_DATA) + started,
        **_described(architecture, spec.shape, code_sha256),
    }
    if start_sha256 is not None:
        metadata["cake.start_sha256"] = start_sha256
    write_bytes(path, _with_sorted_header(save(tensors, metadata=metadata)))


def _apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with memory of their own: tied weights are written twice, as the format wants it."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in state.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return apart


def _described(architecture: str, shape: tuple[int, ...], code_sha256: str | None) -> dict[str, str]:
    """What builds the architecture again."""
    wanted = read_student(architecture)
    source = read_source(Path(architecture))
    if source is not None:
        digest = code_sha256 or sha256(source.file)
        return {"cake.architecture": f"{source.file.name}:{source.function}", "cake.code_sha256": digest}
    described = {"cake.architecture": architecture}
    options = written_options(architecture, shape)
    if options:
        described["cake.options"] = options
    library = "timm" if wanted.kind == "timm" else "torchvision" if wanted.base in TORCHVISION_NAMES else None
    if library is not None:
        described["cake.built_with"] = f"{library} {version(library)}"
    return described


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


def full_name(metadata: Mapping[str, str]) -> str:
    """The architecture of a header with all its options: ``vit:patch=4,dim=64,depth=6,heads=4``."""
    name, options = metadata["cake.architecture"], metadata.get("cake.options")
    return f"{name.partition(':')[0]}:{options}" if options else name


def needs_code(metadata: Mapping[str, str]) -> bool:
    """Whether a header is of a student that one's own code made, by its architecture alone or with its options."""
    if "cake.architecture" not in metadata:
        return False
    names = (metadata["cake.architecture"], full_name(metadata))
    return any(read_source(Path(name)) is not None for name in names)


def load_student(path: Path, code: str | None = None) -> Classifier:
    """A student that `save_student` wrote, as a classifier on the CPU.

    Args:
        path: the file.
        code: ``file.py:function``, for a student that one's own code made: the user names it, never the header.

    Raises:
        ModelFileError: if it is damaged, is not a student of cake, or needs code that was not named.
        EnvironmentFault: if it needs timm, which is missing.
    """
    metadata = student_metadata(path)
    if "cake.architecture" not in metadata:
        raise ModelFileError(
            f"{path} holds weights, but does not say of which architecture",
            "name it with --arch; `cake inspect FILE` lists those that fit",
        )
    mends = _check_code(path, metadata, code) if needs_code(metadata) else ()
    name = code if needs_code(metadata) and code is not None else full_name(metadata)
    try:
        spec = InputSpec.from_json(parse_json(metadata["cake.input"]))
        classes = int(metadata["cake.classes"])
        names = parse_json(metadata["cake.class_names"])
        if not 2 <= classes <= MAX_CLASSES or (names is not None and len(names) != classes):
            raise ValueError(f"{classes} classes")
        if code is None and read_student(name).kind not in ("name", "timm"):
            raise ValueError(f"{name} is not the name of an architecture")
        network = _rebuilt(name, spec.shape, classes, load_file(path))
    except (UsageError, KeyError, ValueError, TypeError, RuntimeError, SafetensorError) as fault:
        reason = str(fault).splitlines()[0]
        built = f" (it was built with {metadata['cake.built_with']})" if "cake.built_with" in metadata else ""
        raise ModelFileError(f"{path} is not a whole student of cake: {reason}{built}", AGAIN) from fault
    return Classifier(
        module=network.eval().requires_grad_(False),
        spec=replace(spec, source="the student's own header"),
        classes=classes,
        class_names=None if names is None else tuple(whole_characters(str(name)) for name in names),
        name=path.name,
        sha256=sha256(path),
        mends=mends,
        architecture=metadata["cake.architecture"],
        same_as=name,
        facts={key: value for key, value in metadata.items() if key.startswith("cake.")},
    )


def _rebuilt(name: str, shape: tuple[int, ...], classes: int, tensors: dict[str, Tensor]) -> nn.Module:
    """The network of a name with the weights in it, all of them and no others."""
    if read_student(name).kind != "name":
        network = build_student(name, shape, classes)
        put_into(network, tensors)
        return network
    with Weightless():
        network = build_student(name, shape, classes)
    put_into(network, tensors, assign=True)
    bare = [key for key, tensor in (*network.named_parameters(), *network.named_buffers()) if tensor.is_meta]
    if bare:
        raise ValueError(f"{bare[0]} is not in the file")
    return network


def _check_code(path: Path, metadata: dict[str, str], code: str | None) -> tuple[str, ...]:
    """What to say of the code that was named for a student.

    Raises:
        ModelFileError: if none was, it is not there, or it is another function.
    """
    made, digest = metadata["cake.architecture"], metadata.get("cake.code_sha256", "")
    source = None if code is None else read_source(Path(code))
    if source is None:
        raise ModelFileError(
            f"{path} was made by {made} (SHA-256 of the file {digest[:16]}...), "
            "and cake runs no code because a file names it",
            f"--arch PATH/{made}, if you trust that code",
        )
    require_file(source)
    function = made.rpartition(":")[2]
    if source.function != function:
        raise ModelFileError(f"{path} was made by the function {function}, not {source.function}",
                             f"--arch {source.file}:{function}")  # fmt: skip
    if sha256(source.file) == digest:
        return ()
    return (f"{source.file.name} has changed since the student was trained: it was a file of SHA-256 {digest[:16]}...",)
