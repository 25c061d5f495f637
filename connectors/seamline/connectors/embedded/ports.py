"""Which TCP ports the stack listens on.

Decides: how a free port is found and how a taken one is told. Invariants: a port that a person gave
is used or refused, never replaced; a port of ours lies below the range from which the kernel takes
ports for outgoing connections, so that no client sits on it by chance. A port can still be taken
between the question and the bind: whoever starts a server must be ready to try another.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Collection
from dataclasses import dataclass

from seamline.schemas.errors import TransportError, UsageError

HOST = "127.0.0.1"
LOWEST, HIGHEST = 20_000, 32_000
TRIES = 200


@dataclass(frozen=True, slots=True)
class BrokerPlace:
    """Where one broker of a stack listens; brokers are numbered from 1."""

    number: int
    port: int
    controller_port: int

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"


def is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As Java binds: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def require_free(port: int, parameter: str) -> int:
    """`port`, or UsageError when it is no port or something listens on it."""
    if not 0 < port < 65536:
        raise UsageError("not a port (1 to 65535)", parameter=parameter, value=port)
    if not is_free(port):
        raise UsageError(
            "something else listens on this port",
            parameter=parameter,
            value=port,
            fix="Give another port, or none: a free one is found",
        )
    return port


def pick(rng: random.Random, taken: Collection[int] = (), preferred: int | None = None) -> int:
    """A free port that is not in `taken`; `preferred` if it is one."""
    if preferred is not None and preferred not in taken and is_free(preferred):
        return preferred
    for _ in range(TRIES):
        port = rng.randrange(LOWEST, HIGHEST)
        if port not in taken and is_free(port):
            return port
    raise TransportError(
        f"no free port found between {LOWEST} and {HIGHEST} in {TRIES} tries",
        parameter="port",
        value=None,
        fix="End what listens there, or give ports",
    )
