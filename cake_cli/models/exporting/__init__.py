"""Classifiers as files that others load: written, loaded again, compared, and only then put in place."""

from cake_cli.models.exporting.exporting import ExportedFile, check_export, default_path, export

__all__ = ["ExportedFile", "check_export", "default_path", "export"]
