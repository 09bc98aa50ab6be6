"""Folders in the Hugging Face layouts: a config.json that names the architecture, and safetensors beside it."""

from cake_cli.models.folders.opening import open_folder

__all__ = ["open_folder"]
