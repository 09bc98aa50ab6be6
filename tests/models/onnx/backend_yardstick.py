"""ONNX's own backend tests as a yardstick for the interpreter.

    python -m tests.models.onnx.backend_yardstick [--verbose] [--converter onnx2torch]

prints how many of each category pass, fail loudly, or are silently wrong, and what is left out with the
reason. In scope are all operators that are differentiable in a float input or that exporters put around
those (shapes, comparisons, masks); left out is what `LEFT_OUT` lists, and nothing else.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto, numpy_helper

from cake_cli.models.onnx.interpreter import Interpreter
from cake_cli.models.onnx.preparation.functions import inline_functions
from cake_cli.models.onnx.preparation.order import sort_nodes
from cake_cli.models.onnx.preparation.spelling import (
    drop_listed_initializers,
    every_node,
    raise_ir_version,
    spell_main_domain,
)

LEFT_OUT: dict[str, str] = {
    "random numbers": "Bernoulli RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial",
    "losses and optimisers: training graphs are refused": "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss Adagrad"
    " Adam Momentum Gradient",
    "strings and text": "StringConcat StringNormalizer StringSplit RegexFullMatch TfIdfVectorizer LabelEncoder",
    "sequences, optionals": "SequenceInsert SequenceEmpty SequenceLength SequenceMap SequenceConstruct SequenceAt"
    " SequenceErase SplitToSequence ConcatFromSequence OptionalGetElement OptionalHasElement Optional",
    "integer arithmetic of quantised graphs, which are refused": "QuantizeLinear DequantizeLinear DynamicQuantizeLinear"
    " ConvInteger MatMulInteger QLinearConv QLinearMatMul",
    "bit patterns": "BitShift BitwiseAnd BitwiseOr BitwiseXor BitwiseNot BitCast",
    "signal processing of complex numbers": "DFT STFT MelWeightMatrix BlackmanWindow HammingWindow HannWindow",
    "decoding of image files": "ImageDecoder",
    "detectors, which are refused": "NonMaxSuppression RoiAlign",
    "results whose size depends on the data": "NonZero Unique",
    "trees, which are refused": "TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor",
    "caches of language decoders": "TensorScatter LinearAttention CausalConvWithState FlexAttention",
    "reassembling of image patches (decoders)": "Col2Im",
}
REASON_OF = {name: reason for reason, names in LEFT_OUT.items() for name in names.split()}
TYPES = {"FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "INT8", "INT16", "INT32", "INT64", "UINT8", "BOOL"}
"""Element types of graphs in scope; the rest are strings, float8, int4 and unsigned types torch lacks."""

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "real")


@dataclass(frozen=True)
class Case:
    """A backend test: a model, with inputs and outputs."""

    name: str
    kind: str
    model: ModelProto
    data: list[tuple[list, list]]
    rtol: float
    atol: float


def load_cases(kinds: tuple[str, ...] = KINDS) -> Iterator[Case]:
    """All tests of the onnx package; "real" ones are the light variants that it carries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        for kind in kinds:
            for test in load_model_tests(kind=kind):
                if kind == "real":
                    case = _light(test)
                    if case is not None:
                        yield case
                    continue
                model = test.model if test.model is not None else onnx.load(Path(test.model_dir) / "model.onnx")
                data = test.data_sets if test.data_sets is not None else _stored(Path(test.model_dir), model)
                yield Case(test.name, kind, model, data, test.rtol, test.atol)


def _stored(folder: Path, model: ModelProto) -> list[tuple[list, list]]:
    sets = []
    for directory in sorted(folder.glob("test_data_set_*")):
        columns = []
        for side, count in (("input", len(model.graph.input)), ("output", len(model.graph.output))):
            paths = [directory / f"{side}_{index}.pb" for index in range(count)]
            columns.append([_tensor(path) for path in paths if path.exists()])
        sets.append((columns[0], columns[1]))
    return sets


def _tensor(path: Path) -> np.ndarray | None:
    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(path.read_bytes())
        return numpy_helper.to_array(tensor)
    except Exception:  # a sequence: such cases are out of scope by their operators
        return None


def _light(test: object) -> Case | None:
    root = Path(onnx.__file__).parent.parent
    path = root / test.url
    if "/light/" not in test.url or not path.exists():
        return None
    model = onnx.load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = []
    for value in model.graph.input:
        if value.name not in weights:
            shape = tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
            count = int(np.prod(shape))
            inputs.append((np.arange(count).reshape(shape) / count).astype(np.float32))
    expected = _tensor(path.with_name(path.stem + "_output_0.pb"))
    return Case(test.name, "light", model, [(inputs, [expected])], test.rtol, test.atol)


def left_out(case: Case) -> str | None:
    """Why a test is not in scope, or None."""
    operators = {node.op_type for node in every_node(case.model)}
    for name in sorted(operators):
        if name in REASON_OF:
            return REASON_OF[name]
    graph = case.model.graph
    for value in (*graph.input, *graph.output):
        if not value.type.HasField("tensor_type"):
            return LEFT_OUT_TYPES
        if onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type) not in TYPES:
            return LEFT_OUT_TYPES
    if "Dropout" in operators and "training" in case.name and "zero_ratio" not in case.name:
        return "random numbers"
    if "BatchNormalization" in operators and "training_mode" in case.name:
        return "losses and optimisers: training graphs are refused"
    return None


LEFT_OUT_TYPES = "strings, sequences, float8, int4 and unsigned types that torch lacks"


def outcome(case: Case, converter: str = "interpreter") -> str:
    """ "passed", "wrong" (a silent wrong answer), or the error."""
    model = ModelProto()
    model.CopyFrom(case.model)
    try:
        for run in (spell_main_domain, raise_ir_version, drop_listed_initializers, inline_functions, sort_nodes):
            run(model)
        module = Interpreter(model) if converter == "interpreter" else _onnx2torch(model)
        for inputs, outputs in case.data:
            with torch.no_grad():
                results = module(*[_to_torch(array) for array in inputs])
            results = results if isinstance(results, tuple) else (results,)
            for found, expected in zip(results, outputs, strict=False):
                if not _equal(found, expected, case):
                    return "wrong"
    except Exception as fault:
        return f"{type(fault).__name__}: {fault}".splitlines()[0]
    return "passed"


def _onnx2torch(model: ModelProto) -> torch.nn.Module:
    from cake_cli.models.onnx.conversion import convert

    return convert(model, "onnx2torch")


def _array(value: np.ndarray | onnx.TensorProto) -> np.ndarray:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def _to_torch(value: np.ndarray | onnx.TensorProto) -> torch.Tensor:
    array = _array(value)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    return torch.from_numpy(np.array(array))


def _equal(found: torch.Tensor, expected: np.ndarray, case: Case) -> bool:
    expected = _array(expected)
    if tuple(found.shape) != expected.shape:
        return False
    half = expected.dtype.name in ("float16", "bfloat16")
    values = found.float().numpy() if found.dtype is torch.bfloat16 else found.numpy()
    return np.allclose(
        values.astype(np.float64) if values.dtype != bool else values,
        expected.astype(np.float64) if expected.dtype != bool else expected,
        rtol=max(case.rtol, 2e-2 if half else 0),
        atol=max(case.atol, 2e-3 if half else 1e-6),
        equal_nan=True,
    )


def main() -> int:
    """Prints the counts; the exit code is 1 if an answer was silently wrong or fewer than 95 % pass."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--verbose", action="store_true", help="list what fails")
    parser.add_argument("--converter", default="interpreter", choices=["interpreter", "onnx2torch"])
    arguments = parser.parse_args()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: Counter[str] = Counter()
    for case in load_cases():
        reason = left_out(case)
        if reason is not None:
            reasons[reason] += 1
            counts[case.kind]["left out"] += 1
            continue
        result = outcome(case, arguments.converter)
        counts[case.kind][result if result in ("passed", "wrong") else "error"] += 1
        if result != "passed" and arguments.verbose:
            print(f"  {case.name}: {result}")
    print(f"{'category':20} {'in scope':>8} {'passed':>8} {'error':>8} {'wrong':>8} {'left out':>8}")
    total: Counter[str] = Counter()
    for kind, row in counts.items():
        total += row
        print(_line(kind, row))
    print(_line("all", total))
    print("left out:")
    for reason, count in reasons.most_common():
        print(f"  {count:5} {reason}")
    scope = total["passed"] + total["error"] + total["wrong"]
    return 0 if not total["wrong"] and total["passed"] >= 0.95 * scope else 1


def _line(kind: str, row: Counter[str]) -> str:
    scope = row["passed"] + row["error"] + row["wrong"]
    share = 100 * row["passed"] / scope if scope else 100.0
    return f"{kind:20} {scope:8} {row['passed']:8} {row['error']:8} {row['wrong']:8} {row['left out']:8}  {share:.1f} %"


if __name__ == "__main__":
    sys.exit(main())
