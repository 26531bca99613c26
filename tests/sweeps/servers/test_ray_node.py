"""A head is refused where its ports are taken."""

from __future__ import annotations

import socket

import pytest

from sweeps.servers.head import PORTS, require_free_ports
from tests.docker.servers import free_ports
from trainer.declaration import ConfigError


def test_a_taken_port_is_refused_and_a_free_one_left_free() -> None:
    ports = [("127.0.0.1", port, "jobs") for port in free_ports(2)]
    require_free_ports(ports)
    require_free_ports(ports)
    _, taken, _ = ports[1]
    with (
        socket.create_server(("", taken)),
        pytest.raises(ConfigError, match=rf"^port {taken}, where a head is asked for jobs: Address already in use\. "),
    ):
        require_free_ports(ports)


def test_those_that_clients_and_workers_know() -> None:
    assert [port for _, port, _ in PORTS] == [6379, 8265]
