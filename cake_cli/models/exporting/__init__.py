"""Classifiers as files that others load: written, loaded again, compared, and only then put in place."""

from cake_cli.models.exporting.exporting import Export, ExportedFile, default_path

__all__ = ["Export", "ExportedFile", "default_path"]
