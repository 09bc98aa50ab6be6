"""What is the address of an endpoint, and what the path of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from cake_cli.address import as_address
from cake_cli.errors import UsageError


@pytest.mark.parametrize("named", ["http://a:80/b/c", "https://a.b/c?x=1", "HTTP://a"])
def test_an_address_is_one_as_a_path_too(named: str) -> None:
    wanted = named.replace("HTTP", "http")
    assert as_address(named) == wanted
    assert as_address(Path(named)) == wanted


@pytest.mark.parametrize("named", ["teacher.onnx", "http", "http:", "http/x.onnx", "./http:/x", "ftp://a/b", "a.py:f"])
def test_a_path_is_none(named: str) -> None:
    assert as_address(named) is None


@pytest.mark.parametrize(
    "named",
    ["http://a b/c", "http://a/#f", "http://a:99999/x", "http://:80/x", "http://a/\n", "http://ä/x", "http://[/"],
)
def test_an_address_that_cannot_be_asked(named: str) -> None:
    with pytest.raises(UsageError, match="no address"):
        as_address(named)


def test_a_password_is_not_written_down() -> None:
    with pytest.raises(UsageError, match="name or a password") as caught:
        as_address("https://me:secret@host/x")
    assert "secret" not in caught.value.what + caught.value.fix
    assert "--token-env" in caught.value.fix
