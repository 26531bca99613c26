"""Optuna's pages: for this machine's browser, and for no page from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment
from wsgiref.util import setup_testing_defaults

import pytest

from sweeps.servers.dashboard_server import for_own_pages


def app(_environment: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b"all studies"]


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:8080", None, "200 OK"),
        ("localhost:8080", "http://localhost:8080", "200 OK"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080", "200 OK"),
        ("evil.example:8080", None, "403 Forbidden"),
        ("evil.example", None, "403 Forbidden"),
        ("127.0.0.1:9090", None, "403 Forbidden"),
        (None, None, "403 Forbidden"),
        ("127.0.0.1:8080", "http://evil.example", "403 Forbidden"),
        ("127.0.0.1:8080", "http://127.0.0.1:9090", "403 Forbidden"),
        ("127.0.0.1:8080", "null", "403 Forbidden"),
    ],
)
def test_a_request_is_answered_by_whom_it_calls_and_where_it_comes_from(
    host: str | None, origin: str | None, status: str
) -> None:
    environment: WSGIEnvironment = {}
    setup_testing_defaults(environment)
    environment.pop("HTTP_HOST")
    environment |= {name: value for name, value in {"HTTP_HOST": host, "HTTP_ORIGIN": origin}.items() if value}
    said: list[str] = []
    body = b"".join(for_own_pages(app, 8080)(environment, lambda told, _headers, *_: said.append(told)))  # type: ignore[arg-type]
    assert said == [status]
    assert (body == b"all studies") == (status == "200 OK")
