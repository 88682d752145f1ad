"""Ports for ranks of benchmarks and tests to meet at."""

from __future__ import annotations

import random
import socket
from contextlib import suppress


def free_port() -> int:
    """A port on the loopback at which nobody listens, below those that the kernel gives to outgoing connections.

    One of the kernel's choice would be free now, and some connection's own before the ranks have imported what they need.
    """
    chance = random.SystemRandom()  # whoever forks, or sets a seed, gets another one each time
    while True:
        port = chance.randrange(15_000, 32_000)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
