"""TorchScript files: scanned, loaded, mended, opened. Their graph is code, and it is run."""

from cake_cli.models.torchscript.opening import open_torchscript

__all__ = ["open_torchscript"]
