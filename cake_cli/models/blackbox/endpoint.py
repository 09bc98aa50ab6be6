"""An endpoint as a teacher: rows as JSON, scores as JSON.

::

    POST {"inputs": [[...], ...]}       one nested list a row, of the shape of --input-shape
    200  {"scores": [[...], ...]}       as many rows, K numbers each

Instead of ``scores`` an answer may say ``outputs``, ``predictions``, ``probabilities``, ``logits``, or ``labels`` with
one whole number a row. Nothing else of an answer is looked at.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from urllib.parse import urlsplit

import numpy as np

from cake_cli.config import TeacherConfig
from cake_cli.errors import RunError, UsageError
from cake_cli.models.blackbox.box import Answer, BlackBox
from cake_cli.models.blackbox.client import Client, authorization
from cake_cli.models.opened import OpenedModel, OutputKind

KEYS: dict[str, OutputKind | None] = {
    "scores": None,
    "outputs": None,
    "predictions": None,
    "probabilities": "probs",
    "logits": "logits",
    "labels": "labels",
}
"""Under which an answer may stand, and what it then is; the first that is there counts."""
VALUES_PER_REQUEST = 25_000
"""Input values of one request: about half a megabyte of JSON."""
MOST_ROWS = 256


class EndpointOracle:
    """Whoever answers at an address."""

    def __init__(self, client: Client, *, labels: bool) -> None:
        self.client = client
        self.labels = labels

    def ask(self, rows: np.ndarray) -> Answer:
        """Sends float32 rows (N, *row) and reads what comes back.

        Raises:
            RunError: if that is no answer of the form that this module documents.
            EnvironmentFault: if nothing comes back.
        """
        body = self.client.post(json.dumps({"inputs": rows.tolist()}).encode())
        return read_answer(body, len(rows), self.client.host, labels=self.labels, clean=self.client.without_token)


def read_answer(
    body: bytes, rows: int, host: str, *, labels: bool = False, clean: Callable[[str], str] = str
) -> Answer:
    """What an endpoint said.

    Args:
        body: of its response.
        rows: that were asked.
        host: for messages.
        labels: whether one number a row is a label; otherwise it is a score.
        clean: takes out of what is shown of it what nobody may see.

    Raises:
        RunError: if it is not JSON, or not of the form that this module documents.
    """
    shown = _shown(body, clean)
    fix = 'the endpoint must answer {"scores": [[...], ...]}, as many rows as were asked'
    try:
        told = json.loads(body)
    except (ValueError, RecursionError) as fault:
        raise RunError(f"{host} answered what is not JSON: {shown}", fix) from fault
    key = next((name for name in KEYS if isinstance(told, dict) and name in told), None)
    if key is None:
        raise RunError(f"{host} answered JSON without scores: {shown}", fix)
    values = _numbers(told[key])
    if values is None:
        raise RunError(f"{host} answered {key!r} that are no table of numbers: {shown}", fix)
    if len(values) != rows:
        raise RunError(f"{host} was asked {rows} rows and answered {len(values)}", fix)
    kind = KEYS[key]
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 and (labels or kind == "labels") else values
    if values.ndim == 1 and (labels or kind == "labels"):
        if not bool((values == np.rint(values)).all()):
            raise RunError(f"{host} answered labels that are no whole numbers: {shown}", fix)
        return Answer(values.astype(np.int64), "labels")
    if kind == "labels":
        raise RunError(f"{host} answered several labels a row: {shown}", fix)
    with np.errstate(over="ignore"):  # what is too large for float32 is not finite then, and refused
        return Answer(values.reshape(rows, -1).astype(np.float32), kind)


def _numbers(given: object) -> np.ndarray | None:
    """A list of numbers (N,), or of lists of equally many numbers (N, K); None for anything else."""
    if not isinstance(given, list) or not given:
        return None
    rows = given if isinstance(given[0], list) else [[value] for value in given]
    if any(not isinstance(row, list) or len(row) != len(rows[0]) or not row for row in rows):
        return None
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for row in rows for value in row):
        return None
    try:
        values = np.array(rows, dtype=np.float64)
    except OverflowError:
        return None
    return values if isinstance(given[0], list) else values[:, 0]


def _shown(body: bytes, clean: Callable[[str], str]) -> str:
    """The beginning of an answer, on one line."""
    text = " ".join(clean(body[:10_000].decode("utf-8", "replace")).split())
    return repr(text if len(text) <= 80 else text[:77] + "...")


def open_endpoint(address: str, settings: TeacherConfig) -> tuple[OpenedModel, str, str]:
    """An endpoint as an opened model; it is not asked yet.

    Args:
        address: ``http://...`` or ``https://...``.
        settings: the input's shape, what the answers are, the token, and how patient to be.

    Returns:
        The model, its name, and a hash of what it is known by: its address and the shape.

    Raises:
        UsageError: if the shape is missing, or the token.
    """
    host = urlsplit(address).netloc
    if settings.arch is not None:
        raise UsageError(f"--arch is for weights, and {host} is an endpoint", "leave --arch out")
    if settings.input_shape is None:
        raise UsageError(f"an endpoint does not state the shape of its input ({host})", "--input-shape C,H,W or D")
    client = Client(
        address,
        timeout=settings.timeout,
        retries=settings.retries,
        header=authorization(address, settings.token_env),
    )
    most = settings.request_rows or max(1, min(MOST_ROWS, VALUES_PER_REQUEST // math.prod(settings.input_shape)))
    labels = settings.outputs == "labels"
    box = BlackBox(
        EndpointOracle(client, labels=labels),
        most_rows=most,
        classes=settings.classes,
    )
    opened = OpenedModel(
        module=box,
        input_shape=settings.input_shape,
        output_kind="logits",
        converter="endpoint",
        facts={"address": address, "requests": f"POST of JSON, {most} rows at most"},
        no_gradient=f"{host} is an endpoint: it gives outputs alone",
        answers_may_cost=True,
        answers_may_change=True,
    )
    digest = hashlib.sha256(json.dumps([address, settings.input_shape]).encode()).hexdigest()
    return opened, address, digest
