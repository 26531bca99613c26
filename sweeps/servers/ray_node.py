"""What ``make ray-head`` and ``make ray-worker`` ask before they start Ray: whether there is room for a node here.

A head is known by two ports. Ray itself goes on without its server for jobs where that one's port is taken, and calls
the other a bug of its own. A worker on its head's machine would share Ray's folder with it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Sequence

from trainer.declaration import ConfigError

PORTS = (("", 6379, "nodes"), ("127.0.0.1", 8265, "jobs"))
"""Where it listens, and for what."""


def require_free_ports(ports: Sequence[tuple[str, int, str]] = PORTS) -> None:
    """Raise ConfigError, one line, where one of them is taken."""
    for host, port, what in ports:
        try:
            socket.create_server((host, port)).close()
        except OSError as error:
            raise ConfigError(
                f"port {port}, where a head is asked for {what}: {os.strerror(error.errno or 0)}."
                " Where a Ray is up here already, that one will do, whosever it is: a machine has one head."
                " Else end the program that ss -ltnp names"
            ) from error


def require_elsewhere(head: str) -> None:
    """Raise ConfigError, one line, where the head at ``head``, HOST:PORT, is on this machine."""
    host = (head.rpartition(":")[0] or head).strip("[]")
    with contextlib.suppress(OSError):  # an address that is not this machine's, or a name that is nobody's
        family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, 0), family=family).close()
        raise ConfigError(
            f"HEAD={head} is this machine, and a machine has one node: make ray-head CPUS=N lets it train as well"
        )


if __name__ == "__main__":
    try:
        if sys.argv[1:]:
            require_elsewhere(sys.argv[1])
        else:
            require_free_ports()
    except ConfigError as refused:
        sys.exit(f"error: {refused}")
