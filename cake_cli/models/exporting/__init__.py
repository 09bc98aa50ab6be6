"""Classifiers as files that others load: written, loaded again, compared, and only then put in place."""

from cake_cli.models.exporting.exporting import ExportedFile, default_path, export

__all__ = ["ExportedFile", "default_path", "export"]
