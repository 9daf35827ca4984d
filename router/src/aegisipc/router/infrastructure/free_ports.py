"""Free TCP ports that stay free while their owner restarts."""

from __future__ import annotations

import random
import socket
from collections.abc import Container
from pathlib import Path

from aegisipc.eventstore.errors import AegisError

_LOWEST = 10_000
_DEFAULT_EPHEMERAL_START = 32_768
_ATTEMPTS = 200
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


class NoFreePort(AegisError):
    """No free port was found."""

    code = "no_free_port"


def choose_free_port(host: str, avoid: Container[int] = ()) -> int:
    """A port of ``host`` on which nobody listens now, outside the range the kernel gives to outgoing
    connections.

    Inside that range a client that keeps reconnecting while the server is down can be given the server's
    port as its own (it then connects to itself), and the restarted server finds its port taken. Somebody
    may still take the port before the caller does: be ready to choose again. Raises ``NoFreePort``.
    """
    generator = random.SystemRandom()
    for _ in range(_ATTEMPTS):
        port = generator.randrange(_LOWEST, max(_ephemeral_start(), _LOWEST + 1000))
        if port not in avoid and _is_free(host, port):
            return port
    raise NoFreePort(f"cannot find a free port on {host}: name one explicitly")


def _ephemeral_start() -> int:
    try:
        return int(_EPHEMERAL_RANGE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return _DEFAULT_EPHEMERAL_START


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
