"""What ``make ray-head`` asks before it starts Ray: whether the two ports that a head is known by are free.

Ray itself goes on without its server for jobs where that one's port is taken, and calls the other a bug of its own.
"""

from __future__ import annotations

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


if __name__ == "__main__":
    try:
        require_free_ports()
    except ConfigError as refused:
        sys.exit(f"error: {refused}")
