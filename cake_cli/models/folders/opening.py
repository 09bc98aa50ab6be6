"""Opening a model folder as a teacher, with its preprocessing and class names."""

from __future__ import annotations

import json
from pathlib import Path

from cake_cli.config import TeacherConfig
from cake_cli.models.folders.contents import read_contents
from cake_cli.models.folders.timm import open_timm
from cake_cli.models.folders.transformers import open_transformers
from cake_cli.models.layouts import attempts, find_layout
from cake_cli.models.opened import OpenedModel


def open_folder(path: Path, settings: TeacherConfig) -> tuple[OpenedModel, str]:
    """Opens a folder of timm or transformers; never the network, a pickle, or code of the folder.

    Args:
        path: the folder.
        settings: which output, and an input shape where another than the folder's is wanted.

    Returns:
        The opened model and the SHA-256 of what it was read from.

    Raises:
        ModelFileError: if it is damaged, no classifier, or its weights do not fit.
        EnvironmentFault: if timm or transformers is missing.
    """
    contents = read_contents(path)
    held = open_timm(contents) if "architecture" in contents.config else open_transformers(contents)
    shape = settings.input_shape or held.spec.shape
    layout = find_layout(held.module, attempts(shape), output=settings.output)
    metadata = {"cake.input": json.dumps(held.spec.to_json()), "cake.input_source": held.spec.source}
    if held.class_names is not None:
        metadata["cake.class_names"] = json.dumps(held.class_names)
    opened = OpenedModel(
        module=layout.module,
        input_shape=layout.shape,
        output_kind="logits",
        converter=held.library,
        facts={"format": f"folder of {held.library}", "arch": held.architecture},
        metadata=metadata,
        same_as=held.same_as,
        fixed_batch=layout.fixed_batch,
        has_batch_axis=layout.has_batch_axis,
    )
    return opened, contents.digest()
