"""A head is refused where its ports are taken, a worker on its head's machine."""

from __future__ import annotations

import socket

import pytest

from sweeps.servers.ray_node import PORTS, require_elsewhere, require_free_ports
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


@pytest.mark.parametrize("head", ["localhost:6379", "127.0.0.1:6379", "127.0.0.1"])
def test_a_worker_beside_its_head_is_refused(head: str) -> None:
    with pytest.raises(ConfigError, match=rf"^HEAD={head} is this machine, .*make ray-head CPUS=N"):
        require_elsewhere(head)


@pytest.mark.parametrize("head", ["192.0.2.77:6379", "head.invalid:6379", "[2001:db8::1]:6379"])
def test_a_worker_elsewhere_is_not(head: str) -> None:
    require_elsewhere(head)
