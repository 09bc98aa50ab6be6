"""What is fuzzed: for every kind of input the files that are damaged, how, and the commands that meet them."""

from __future__ import annotations

from dataclasses import dataclass

from tests.hostile import mutate as m
from tests.hostile import mutate_files as f
from tests.hostile.seeds import TINY_BANK, TINY_TRAINING

Command = tuple[str, ...]
"""Arguments of `cake`; ``{it}`` is the damaged input, ``{seeds}`` the folder of whole ones, ``{out}`` a new folder."""

INSPECT: Command = ("inspect", "{it}")
SYNTHESIZE: Command = ("synthesize", "{it}", *TINY_BANK, "-o", "{out}")
ASK: Command = ("synthesize", "{it}", "--method", "noise", *TINY_BANK, "-o", "{out}")
ESTIMATE: Command = (*SYNTHESIZE, "--gradients", "estimated", "--set", "synthesis.directions=1")
TRAIN: Command = ("train", "{it}", "--student", "mlp:8", *TINY_TRAINING, "-o", "{out}")
EVALUATE: Command = ("evaluate", "{seeds}/student.safetensors", "--data", "{it}")


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        seed: file or folder of the seeds, copied for every input.
        damaged: which files of a folder may be damaged, as glob patterns, with the mutator of each.
        commands: what meets it; one is drawn.
        written: whether the commands write into the input by design.
    """

    seed: str
    damaged: tuple[tuple[str, m.Mutator], ...]
    commands: tuple[Command, ...]
    written: bool = False


def _file(seed: str, mutator: m.Mutator, *commands: Command) -> Kind:
    return Kind(seed, (("", mutator),), commands)


_BANK = (
    ("manifest.json", m.as_json),
    ("manifest.json", m.as_json),
    ("journal-*.jsonl", m.as_json_lines),
    ("shard-*.safetensors", f.as_safetensors),
)
_RUN = (
    ("run.json", m.as_json),
    ("run.json", m.as_json),
    ("metrics.jsonl", m.as_json_lines),
    ("student.safetensors", f.as_safetensors),
    ("bank/manifest.json", m.as_json),
    ("bank/shard-*.safetensors", f.as_safetensors),
)

_STOPPED = (
    *_RUN,
    ("checkpoints/beside/*/*/shelf.json", m.as_json),
    ("checkpoints/beside/*/*/shard-*.safetensors", f.as_safetensors),
    ("checkpoints/waypoints/*/shelf.json", m.as_json),
    ("checkpoints/waypoints/*/shard-*.safetensors", f.as_safetensors),
)

KINDS: dict[str, Kind] = {
    "onnx": _file("teacher.onnx", f.as_onnx, INSPECT, INSPECT, SYNTHESIZE),
    "onnx-graph": _file("convolution.onnx", f.as_onnx, INSPECT, INSPECT, SYNTHESIZE),
    "onnx-external": Kind(
        "external", (("teacher.onnx", f.as_onnx), ("weights.bin", m.any_bytes)), (("inspect", "{it}/teacher.onnx"),)
    ),
    "onnx-int8": _file("int8.onnx", f.as_onnx, INSPECT, ASK, ESTIMATE),
    "onnx-trees": _file("trees.onnx", f.as_onnx, INSPECT, ASK, ESTIMATE),
    "torchscript": _file("traced.pt", f.as_archive, INSPECT, INSPECT, SYNTHESIZE),
    "torchscript-script": _file("scripted.pt", f.as_archive, ("inspect", "{it}", "--input-shape", "1,4,4")),
    "torch-export": _file("exported.pt2", f.as_archive, INSPECT),  # never with --trust: that runs the file's code
    "weights": _file("weights.safetensors", f.as_safetensors, INSPECT, (*INSPECT, "--arch", "mlp:8")),
    "checkpoint": _file("checkpoint.pt", f.as_archive, INSPECT, (*INSPECT, "--arch", "mlp:8")),
    "legacy-checkpoint": _file("legacy.pt", m.any_bytes, INSPECT, (*INSPECT, "--arch", "mlp:8")),
    "student": _file(
        "student.safetensors",
        f.as_safetensors,
        INSPECT,
        ("evaluate", "{it}", "--data", "{seeds}/heldout.npz"),
        ("export", "{it}", "--to", "onnx", "-o", "{out}.onnx"),
    ),
    "bank": Kind("bank", _BANK, (INSPECT, TRAIN, TRAIN, ("resume", "{it}")), written=True),
    "partial-bank": Kind("partial", _BANK, (("resume", "{it}"), INSPECT), written=True),
    "run": Kind("run", _RUN, (INSPECT, ("report", "{it}"), ("resume", "{it}"), TRAIN), written=True),
    "stopped-run": Kind("stopped", _STOPPED, (("resume", "{it}"), INSPECT), written=True),
    "npz": _file("heldout.npz", f.as_archive, EVALUATE),
    "npz-packed": _file("packed.npz", f.as_archive, EVALUATE),
    "idx": Kind("idx", (("*images*", m.any_bytes), ("*labels*", m.any_bytes)), (EVALUATE,)),
    "idx-gz": Kind("idx-gz", (("*images*", f.as_gzip), ("*labels*", f.as_gzip)), (EVALUATE,)),
    "csv": _file("heldout.csv", m.as_text, EVALUATE),
    "parquet": _file("heldout.parquet", m.any_bytes, EVALUATE),
    "pictures": Kind(
        "pictures", (("test/*/*", f.as_picture), ("test/*/*.png", f.as_picture)), (EVALUATE, (*EVALUATE, "--strict"))
    ),
    "config": _file(
        "config.toml",
        m.as_toml,
        ("distill", "--config", "{it}", "--dry-run", "-o", "{out}"),
        ("distill", "--config", "{it}", "--print-config"),
    ),
    "class-map": Kind(
        "",
        (("map.txt", m.as_text), ("map.json", m.as_json)),
        (("evaluate", "{seeds}/student.safetensors", "--data", "{seeds}/pictures", "--class-map", "{damaged}"),),
    ),
}
