"""Links lead to where a request arrived, never to where its Host header points."""

from __future__ import annotations

import os

import pytest
from starlette.requests import Request

from clawplane.api.own_address import own_address

HERE = os.uname().nodename.lower()


def request(host: str | None, server: tuple[str, int | None], scheme: str = "http") -> Request:
    headers = [] if host is None else [(b"host", host.encode("latin-1"))]
    return Request(
        {"type": "http", "scheme": scheme, "server": server, "path": "/", "headers": headers, "query_string": b""}
    )


@pytest.mark.parametrize(
    ("host", "server", "expected"),
    [
        ("127.0.0.1:3456", ("127.0.0.1", 3456), "http://127.0.0.1:3456"),
        ("localhost:3456", ("127.0.0.1", 3456), "http://localhost:3456"),
        ("localhost:8080", ("127.0.0.1", 3456), "http://localhost:8080"),  # through a tunnel
        ("[::1]:3456", ("::1", 3456), "http://[::1]:3456"),
        ("10.0.0.5:3456", ("10.0.0.5", 3456), "http://10.0.0.5:3456"),
        (f"{HERE}:3456", ("10.0.0.5", 3456), f"http://{HERE}:3456"),
        ("10.0.0.5", ("10.0.0.5", 80), "http://10.0.0.5"),
        (None, ("10.0.0.5", 3456), "http://10.0.0.5:3456"),
    ],
)
def test_a_host_that_names_where_the_request_arrived_is_kept(
    host: str | None, server: tuple[str, int], expected: str
) -> None:
    assert own_address(request(host, server), None) == expected


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:3456",
        "10.0.0.6:3456",
        "10.0.0.5:9999",
        "localhost:3456",
        "127.0.0.1:3456",
        "10.0.0.5:3456@evil.example",
        "evil.example/10.0.0.5:3456",
        "evil.example#:3456",
        "10.0.0.5:3456.evil.example",
        "[::1",
        "x:99999",
        "",
        " ",
        "ex\xe4mple",
    ],
)
def test_a_foreign_host_is_answered_with_the_address_of_the_socket(host: str) -> None:
    assert own_address(request(host, ("10.0.0.5", 3456)), None) == "http://10.0.0.5:3456"


def test_an_operators_public_address_wins_over_everything() -> None:
    assert own_address(request("evil.example", ("10.0.0.5", 3456)), "https://plane.example") == "https://plane.example"
