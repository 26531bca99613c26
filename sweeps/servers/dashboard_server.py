"""Optuna's pages in a process of their own: for browsers of this machine, and for no page from elsewhere.

Optuna's own server answers whatever name it is called by: a page from elsewhere whose name has come to mean 127.0.0.1
could read searches, and delete them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, make_server

from trainer.machine import OPTUNA_VARIABLE

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


class Quiet(WSGIRequestHandler):
    """Prints no line a request."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


def for_own_pages(app: WSGIApplication, port: int) -> WSGIApplication:
    """``app`` for requests to this machine by its own names, which come from no page but its own."""
    names = {f"{host}:{port}" for host in ("127.0.0.1", "localhost")}
    origins = {None, *(f"http://{name}" for name in names)}

    def guard(environment: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environment.get("HTTP_HOST") in names and environment.get("HTTP_ORIGIN") in origins:
            return app(environment, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"for pages of this machine alone\n"]

    return guard


def main(host: str, port: int) -> None:
    """Serve the database that the environment names, which may hold a password, until the process is ended."""
    from optuna.storages import RDBStorage
    from optuna_dashboard import wsgi

    app = wsgi(RDBStorage(os.environ[OPTUNA_VARIABLE]))
    make_server(host, port, for_own_pages(app, port), handler_class=Quiet).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
