"""Copies what a classifier knows into another network, without its training data."""

__version__ = "0.1.0"
