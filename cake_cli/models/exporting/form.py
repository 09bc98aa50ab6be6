"""What an exported file computes, and what it says of itself."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cake_cli import __version__
from cake_cli.models.classifier import Classifier, Denormalise, Normalise
from cake_cli.models.verify import probe_rows

EXAMPLE_ROWS = 2
"""Rows of the example that exporters run: with one, they take the batch for a constant."""


@dataclass(frozen=True)
class Form:
    """A classifier in the form in which it is written.

    The file takes what the teacher's file took: normalised rows, or raw ones (`InputSpec.expects`), in which
    case their normalisation is part of the file.
    """

    classifier: Classifier
    softmax: bool
    """Whether the file ends in probabilities instead of logits."""

    @property
    def module(self) -> nn.Module:
        """From the file's rows (N, *spec.shape) to logits or probabilities (N, K), in eval mode."""
        parts: list[nn.Module] = [] if self._takes_normalised else [Normalise(self.classifier.spec)]
        parts.append(self.classifier.module)
        parts += [nn.Softmax(dim=1)] if self.softmax else []
        return parts[0] if len(parts) == 1 else nn.Sequential(*parts).eval()

    @property
    def _takes_normalised(self) -> bool:
        return self.classifier.spec.expects == "normalised" or self.classifier.spec.is_identity

    @property
    def output(self) -> str:
        """Name of the output."""
        return "probabilities" if self.softmax else "logits"

    @property
    def example(self) -> Tensor:
        """Rows for an exporter to run, (2, *spec.shape)."""
        return self.rows(EXAMPLE_ROWS)[1]

    @property
    def weight_bytes(self) -> int:
        """What the tensors take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.classifier.module.state_dict().values())

    def rows(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Random rows, normalised and as the file takes them, each (count, *spec.shape), and what it must answer."""
        spec = self.classifier.spec
        normalised = probe_rows(spec.shape, count, seed=count)
        with torch.no_grad():
            rows = normalised if self._takes_normalised else Denormalise(spec)(normalised)
            return normalised, rows, self.outputs(self.classifier, normalised)  # (count, K)

    def outputs(self, classifier: Classifier, normalised: Tensor) -> Tensor:
        """What a classifier says of normalised rows (N, *spec.shape), in terms of this form: (N, K)."""
        logits = classifier(normalised).float()
        return logits.softmax(dim=1) if self.softmax else logits

    @property
    def metadata(self) -> dict[str, str]:
        """The texts that the file carries, by key; `cake` reads them back, others may."""
        classifier = self.classifier
        stated = {key: text for key, text in classifier.facts.items() if key.startswith("cake.")}
        stated.pop("cake.input_source", None)
        if "cake.origin" not in stated:
            stated |= {
                "cake.origin": f"converted from {classifier.name}, not trained by cake",
                "cake.source_sha256": classifier.sha256,
            }
        return stated | {
            "cake.input": json.dumps(classifier.spec.to_json()),
            "cake.classes": str(classifier.classes),
            "cake.class_names": json.dumps(classifier.class_names),
            "cake.outputs": self.output,
            "cake.exporter": f"cake {__version__}",
        }

    def deviation(self, found: Tensor, wanted: Tensor) -> float:
        """Largest difference between two outputs, relative to the largest wanted; infinite where shapes differ."""
        if found.shape != wanted.shape:
            return math.inf
        difference = float((found.float() - wanted).abs().max() / wanted.abs().max().clamp_min(1e-3))
        return math.inf if math.isnan(difference) else difference
