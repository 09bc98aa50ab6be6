"""Asking over HTTP: patience, strictness, and sentences."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from cake_cli.errors import EnvironmentFault, RunError, UsageError
from cake_cli.models.blackbox import client as module
from cake_cli.models.blackbox.client import Client, authorization
from tests.models.blackbox.serving import Served, dripping

QUESTION = b'{"inputs": [[[[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]]}'


def client(served: Served, *, retries: int = 3, pauses: list[float] | None = None, timeout: float = 5.0) -> Client:
    return Client(served.address, timeout=timeout, retries=retries, pause=(pauses if pauses is not None else []).append)


def test_a_busy_endpoint_is_asked_again_as_late_as_it_wants(served: Served) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    served.faults = [(429, {"Retry-After": "7"}, b""), (503, {}, b""), (503, {"Retry-After": later}, b"")]
    pauses: list[float] = []
    assert b"scores" in client(served, pauses=pauses).post(QUESTION)
    assert pauses[:2] == [7.0, 1.0]
    assert 15 < pauses[2] <= 20
    assert served.requests == 4


def test_pauses_double_and_end(served: Served) -> None:
    served.faults = [(503, {"Retry-After": "soon"}, b"")] * 9
    pauses: list[float] = []
    with pytest.raises(EnvironmentFault, match=r"answered 503 .*\(tried 4 times\)") as caught:
        client(served, pauses=pauses).post(QUESTION)
    assert pauses == [0.5, 1.0, 2.0]
    assert "cake resume" in caught.value.fix


def test_an_endpoint_that_wants_too_much_patience_ends_the_run(served: Served) -> None:
    served.faults = [(429, {"Retry-After": "3600"}, b"")]
    with pytest.raises(EnvironmentFault, match=r"429 .*asks to wait 3600 s"):
        client(served).post(QUESTION)
    assert served.requests == 1


def test_a_date_that_no_calendar_has_is_no_wish(served: Served) -> None:
    served.faults = [(429, {"Retry-After": "Wed, 21 Oct 2099 07:28:00 +99999999999999"}, b"")]
    pauses: list[float] = []
    assert b"scores" in client(served, pauses=pauses).post(QUESTION)
    assert pauses == [0.5]


@pytest.mark.parametrize("header", [("Authorization", "Bearer sesame/7"), ("X-Key", "sesame/7")])
def test_what_repeats_the_token_is_shown_without_it(served: Served, header: tuple[str, str]) -> None:
    patient = Client(served.address, timeout=5, retries=0, header=header)
    served.faults = [(307, {"Location": "http://elsewhere/?sesame/7"}, b"")]
    with pytest.raises(EnvironmentFault, match=r"elsewhere/\?\*\*\*, which is not followed") as caught:
        patient.post(QUESTION)
    assert "sesame" not in caught.value.what
    for repeated in (r"sesame\/7", r"sesame\u002f7", "sesame%2F7", "a=sesame/7;"):
        assert "sesame" not in patient.without_token(f'{{"hdr": "Bearer {repeated}"}}')
    short = Client(served.address, timeout=5, retries=0, header=("X-Version", "1"))
    assert short.without_token("127.0.0.1 answered 404") == "127.0.0.1 answered 404"
    cookies = Client(served.address, timeout=5, retries=0, header=("Cookie", "session=SECRET; theme=x"))
    assert cookies.without_token("session=SECRET") == "***=***"
    assert client(served).without_token("as it is") == "as it is"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 500])
def test_what_no_patience_mends_ends_at_once(served: Served, status: int) -> None:
    served.faults = [(status, {}, b"why")]
    with pytest.raises(EnvironmentFault, match=f"answered {status} "):
        client(served).post(QUESTION)
    assert served.requests == 1


@pytest.mark.parametrize(("header", "told"), [(None, "--token-env TOKEN"), (("X-Key", "1"), "check the token")])
def test_who_is_not_let_in_is_told_of_the_token(served: Served, header: tuple[str, str] | None, told: str) -> None:
    served.faults = [(401, {}, b"")]
    with pytest.raises(EnvironmentFault) as caught:
        Client(served.address, timeout=5, retries=0, header=header).post(QUESTION)
    assert told in str(caught.value.fix)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(served: Served, status: int) -> None:
    served.faults = [(status, {"Location": "http://127.0.0.1:9/elsewhere"}, b"")]
    with pytest.raises(EnvironmentFault, match=r"a redirect to http://.*/elsewhere, which is not followed"):
        client(served).post(QUESTION)
    assert served.requests == 1


def test_nobody_there(served: Served) -> None:
    pauses: list[float] = []
    nobody = Client("http://127.0.0.1:9/x", timeout=2, retries=1, pause=pauses.append)
    with pytest.raises(EnvironmentFault, match=r"127\.0\.0\.1:9 does not answer: .*\(tried 2 times\)"):
        nobody.post(QUESTION)
    assert pauses == [0.5]


def test_a_slow_endpoint_is_given_up(served: Served) -> None:
    served.faults = [(200, {"Content-Length": "1000", "X-Slow": "0.6"}, b"{")]
    with pytest.raises(EnvironmentFault, match=r"does not answer: .*timed out"):
        client(served, retries=0, timeout=0.2).post(QUESTION)


OK = b"HTTP/1.1 200 OK\r\n"
DRIPS = {
    "goes on": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "status": (b"HTTP/1.1 200 O", b"K"),
    "header": (OK + b"X: ", b"a"),
    "headers": (OK, b"X: a\r\n"),
    "body": (OK + b"Content-Length: 90000\r\n\r\n", b" "),
    "piece": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
}


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """That of a server on this machine, which clients trust."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("needs openssl")
    key, public = tmp_path / "key.pem", tmp_path / "certificate.pem"
    asked = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    asked += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key)]
    subprocess.run([openssl, "req", "-x509", *asked, "-out", str(public)], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(public))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, key)
    return context


def given_up(address: str) -> None:
    start = time.monotonic()
    with pytest.raises(EnvironmentFault, match=r"localhost:\d+ does not answer: (The read operation )?timed out$"):
        Client(address, timeout=0.5, retries=0).post(QUESTION)
    assert time.monotonic() - start < 20, "the server goes on for a minute"


@pytest.mark.parametrize("part", DRIPS)
def test_an_answer_that_drips_is_given_up(part: str) -> None:
    with dripping(*DRIPS[part]) as address:
        given_up(address)


@pytest.mark.parametrize("part", ["header", "body"])
def test_an_encrypted_answer_that_drips_is_given_up(part: str, certificate: ssl.SSLContext) -> None:
    with dripping(*DRIPS[part], certificate) as address:
        given_up(address)


def test_an_encrypted_answer_is_read(certificate: ssl.SSLContext) -> None:
    body = b" " * 100_000
    with dripping(OK + b"Content-Length: 100000\r\n\r\n" + body, b"", certificate) as address:
        assert Client(address, timeout=5, retries=0).post(b"x" * 200_000) == body


@pytest.mark.parametrize("cut", [OK, OK + b"X: a", OK + b"X: a\r\n"])
def test_an_answer_that_ends_with_its_headers_is_none(cut: bytes) -> None:
    with dripping(cut, b"") as address, pytest.raises(EnvironmentFault, match="its answer ended with its headers"):
        Client(address, timeout=5, retries=0).post(QUESTION)


def test_an_answer_that_breaks_off_is_asked_for_again(served: Served) -> None:
    served.faults = [(200, {"Content-Length": "1000"}, b"{")]
    assert b"scores" in client(served, retries=1).post(QUESTION)
    served.faults = [(200, {"Content-Length": "1000"}, b"{")]
    with pytest.raises(EnvironmentFault, match="its answer ended 999 bytes early"):
        client(served, retries=0).post(QUESTION)


def test_an_answer_that_is_too_long_is_not_read_to_its_end(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 2**20)
    served.faults = [(200, {}, b" " * (2**20 + 1))]
    with pytest.raises(RunError, match="more than 1 MiB"):
        client(served).post(QUESTION)


def test_proxies_of_the_environment_are_not_used(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert b"scores" in client(served, retries=0).post(QUESTION)


def test_the_token_comes_from_the_environment(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", " abc.def ")
    assert authorization(served.address, "MINE") == ("Authorization", "Bearer abc.def")
    monkeypatch.setenv("MINE", "X-Api-Key: 12:3")
    header = authorization("https://example.org/x", "MINE")
    assert header == ("X-Api-Key", "12:3")
    Client(served.address, timeout=5, retries=0, header=header).post(QUESTION)
    assert {name.lower(): value for name, value in served.headers[0].items()}["x-api-key"] == "12:3"
    assert authorization(served.address, None) is None
    monkeypatch.setenv("MINE", "123456:ABC-DEF")
    assert authorization(served.address, "MINE") == ("Authorization", "Bearer 123456:ABC-DEF"), "a token with a colon"


@pytest.mark.parametrize(
    ("value", "address", "said"),
    [
        ("", "https://example.org/x", "not set"),
        ("a\nb", "https://example.org/x", "no header"),
        ("abc", "http://example.org/x", "unencrypted"),
    ],
)
def test_a_token_that_cannot_be_sent(value: str, address: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", value)
    with pytest.raises(UsageError, match=said) as caught:
        authorization(address, "MINE")
    assert not value or value not in caught.value.what
