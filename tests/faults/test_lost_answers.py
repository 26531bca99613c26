"""A tracking server that does what it is told to, but whose answers get lost on the way: nothing is there twice."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Iterator

import pytest
from mlflow.entities import ViewType

from sweeps.servers.ui import HOST
from tests.faults.harness import Numbers, Workplace, assert_equals_undisturbed
from tests.faults.test_tracking_server import Server
from tests.faults.test_tracking_server import server as server  # a fixture
from trainer.machine import TRACKING_VARIABLE

pytestmark = pytest.mark.faults


class Line:
    """The way from the clients to a server, at an address of its own.

    Of the requests to make a run two of six get no answer, for their connections end before: as when a machine in
    between fails.
    """

    def __init__(self, port: int) -> None:
        self.lost, self._port, self._requests = 0, port, itertools.count()
        self._socket = socket.create_server((HOST, 0))
        self.uri = f"http://{HOST}:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._socket.accept()
                server = socket.create_connection((HOST, self._port))
                lost = threading.Event()
                threading.Thread(target=self._carry, args=(client, server, lost, True), daemon=True).start()
                threading.Thread(target=self._carry, args=(server, client, lost, False), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, lost: threading.Event, asks: bool) -> None:
        with contextlib.suppress(OSError), source, target:
            while (content := source.recv(2**16)) and (asks or not lost.is_set()):
                if asks and b"/runs/create " in content and self._loses():
                    lost.set()
                target.sendall(content)
            for end in (source, target):
                end.shutdown(socket.SHUT_RDWR)  # closing alone waits for the other thread

    def _loses(self) -> bool:
        loses = next(self._requests) % 6 in (2, 3)
        self.lost += loses
        return loses

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def line(place: Workplace, server: Server) -> Iterator[Line]:
    line = Line(server.port)
    place.variables[TRACKING_VARIABLE] = line.uri
    yield line
    line.close()


def test_runs_whose_making_was_not_answered_are_not_there_twice(
    place: Workplace, undisturbed: Numbers, line: Line
) -> None:
    place.finish()
    assert line.lost > 5
    client, [run, *_] = place.runs()
    doubles = client.search_runs([run.info.experiment_id], run_view_type=ViewType.DELETED_ONLY)
    assert {run.data.tags["kind"] for run in doubles} == {"trial", "cell"}, "these were made twice"
    assert_equals_undisturbed(place, undisturbed)
