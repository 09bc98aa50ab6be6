"""From a classifier to a file that was compared before it was put in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch.jit import ScriptModule

from cake_cli.catalog import EXPORTS, ExportFormat
from cake_cli.errors import CakeError, ModelFileError, RunError, UsageError
from cake_cli.models.classifier import Classifier
from cake_cli.models.exporting.comparing import compare
from cake_cli.models.exporting.form import Form
from cake_cli.models.exporting.writing import reason, write_onnx, write_pt2, write_torchscript
from cake_cli.storage import check_file, clear_abandoned, replacing, set_aside, sha256


@dataclass(frozen=True)
class ExportedFile:
    """A file that was written, loaded again and compared."""

    format: ExportFormat
    path: str
    bytes: int
    sha256: str
    outputs: str
    """``logits`` or ``probabilities``."""
    differences: dict[str, float]
    """Largest difference from the model, relative to its largest output, by who loaded the file."""

    @property
    def largest_difference(self) -> float:
        """Of all who loaded it."""
        return max(self.differences.values())

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"largest_difference": self.largest_difference}


def default_path(source: Path, format: ExportFormat) -> Path:
    """Where an export goes if nothing is said: ``student.onnx`` in a run, else beside the file, with its name."""
    if source.is_dir():
        source = source / "student.safetensors"
    return source.with_name(source.stem + EXPORTS[format])


@dataclass(frozen=True)
class Export:
    """A classifier that is to become a file of another format.

    The file appears only after it was loaded by its own runtime and by `cake` and gave the same outputs on
    random rows, in batches of 1 and 5.
    """

    classifier: Classifier
    """On the CPU."""
    path: Path
    """Of the file."""
    format: ExportFormat
    source: Path
    """The file that the classifier was read from, which is never written over."""
    softmax: bool = False
    """End in probabilities."""
    opset: int | None = None
    """Of ONNX; torch's choice where None."""
    force: bool = False
    """Write although there is a file."""
    aside: bool = True
    """Move such a file aside, instead of replacing it."""

    def check(self) -> None:
        """Refuses what `write` would refuse before it starts: of several files all are looked at first.

        Raises:
            ModelFileError: if the classifier gives outputs only.
            UsageError: if `path` is taken, or format and options do not fit each other or the model.
        """
        classifier = self.classifier
        if classifier.no_gradient is not None:
            raise ModelFileError(
                f"{classifier.name} is asked from outside ({classifier.no_gradient}): there are no operators to write",
                "distil it, and export the student",
            )
        _check_options(classifier, self.format, softmax=self.softmax, opset=self.opset)
        if self.path.exists() and self.path.resolve() == self.source.resolve():
            raise UsageError(f"{self.path} is the model itself", f"leave {self.format} out, or -o FILE")
        check_file(self.path, force=self.force)

    def write(self) -> ExportedFile:
        """Writes the file.

        Raises:
            ModelFileError, UsageError: as `check`.
            RunError: if the exporter fails, or the file does not compare equal; then nothing changes on disk.
            EnvironmentFault: if the disk is full or refuses.
        """
        self.check()
        form = Form(self.classifier, self.softmax)
        writers: dict[ExportFormat, Callable[[], bytes]] = {
            "onnx": lambda: write_onnx(form, self.opset),
            "torchscript": lambda: write_torchscript(form),
            "pt2": lambda: write_pt2(form),
            "safetensors": self.source.read_bytes,
        }
        try:
            content = writers[self.format]()
        except (CakeError, OSError, MemoryError):
            raise
        except Exception as fault:  # exporters fail in any way on graphs that they do not take
            raise RunError(
                f"{self.classifier.name} cannot be written as {self.format}: {reason(fault)}",
                "choose another format with --to",
            ) from fault
        clear_abandoned(self.path.parent, f"-{self.path.name}")
        with replacing(self.path) as temporary:
            temporary.write_bytes(content)
            differences = compare(temporary, self.format, form)
            if self.aside:
                set_aside(self.path)
        return ExportedFile(self.format, str(self.path), len(content), sha256(self.path), form.output, differences)


def _check_options(classifier: Classifier, format: ExportFormat, *, softmax: bool, opset: int | None) -> None:
    if opset is not None and format != "onnx":
        raise UsageError(f"--opset is for ONNX, not for {format}", "leave --opset out, or --to onnx")
    if format in ("onnx", "pt2") and any(isinstance(part, ScriptModule) for part in classifier.module.modules()):
        raise UsageError(
            f"{classifier.name} is TorchScript, and torch.export, through which {format} is written, takes none",
            "export the model from the program that made it, or --to torchscript",
        )
    if format != "safetensors":
        return
    if softmax:
        raise UsageError("safetensors holds weights, which have no outputs to take a softmax of", "--to onnx")
    if "cake.architecture" not in classifier.facts or classifier.architecture is None:
        raise UsageError(
            f"{classifier.name} is no student of cake, and safetensors needs an architecture to go with the weights",
            "--to onnx, torchscript or pt2",
        )
