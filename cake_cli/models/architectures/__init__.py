"""Student networks by name, each adapted to the input: channels, small images, number of classes."""

from cake_cli.models.architectures.building import FOR_VECTORS, build_student, written_options
from cake_cli.models.architectures.fitting import does_not_fit, measure_student, size_and_layers, why_not
from cake_cli.models.architectures.plain import LENET_SIZES
from cake_cli.models.architectures.residual import SMALL_IMAGE

__all__ = [
    "FOR_VECTORS",
    "LENET_SIZES",
    "SMALL_IMAGE",
    "build_student",
    "does_not_fit",
    "measure_student",
    "size_and_layers",
    "why_not",
    "written_options",
]
