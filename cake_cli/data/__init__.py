"""Held-out data and the metrics measured on it, which never train and never select; and real data to learn from."""

from cake_cli.data.class_map import read_class_map
from cake_cli.data.evaluate import TEACHER, Model, evaluate
from cake_cli.data.evaluation import ClassRecall, ConfidenceBin, Evaluation
from cake_cli.data.held_out import HeldOut
from cake_cli.data.opening import open_heldout, what_is_read
from cake_cli.data.training import training_split

__all__ = [
    "TEACHER",
    "ClassRecall",
    "ConfidenceBin",
    "Evaluation",
    "HeldOut",
    "Model",
    "evaluate",
    "open_heldout",
    "read_class_map",
    "training_split",
    "what_is_read",
]
