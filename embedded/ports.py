"""Free ports, remembered, so that yesterday's bookmark of the inbox works today."""

import json
import socket
from pathlib import Path

from embedded.errors import StartError

LOOPBACK = "127.0.0.1"
FIRST_CHOICE = {"application": 8000, "inbox": 8025, "flower": 5555, "smtp": 1025, "redis": 6380}
"""Where the search for a free port begins: what people expect, below the range that outgoing connections use. Redis
keeps clear of 6379, which a Redis of one's own would want back."""

_TRIED = 200


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as servers do: a closing connection is no obstacle
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port(first: int, taken: frozenset[int] = frozenset()) -> int:
    """The first free port from `first` upwards, leaving out what is taken in all but name."""
    for port in range(first, first + _TRIED):
        if port not in taken and is_free(port):
            return port
    raise StartError(
        f"No port between {first} and {first + _TRIED - 1} is free on {LOOPBACK}: stop what listens there "
        "(`ss -ltnp` or `lsof -nP -iTCP -sTCP:LISTEN` shows it)."
    )


def choose_ports(memory: Path) -> dict[str, int]:
    """A port for each service: the one of the last time if it is still free. The choice is written to `memory`."""
    remembered = recall_ports(memory)
    chosen: dict[str, int] = {}
    for service, first in FIRST_CHOICE.items():
        last = remembered.get(service, first)
        taken = frozenset(chosen.values())
        chosen[service] = last if last not in taken and is_free(last) else free_port(first, taken)
    memory.write_text(json.dumps(chosen, indent=2) + "\n")
    return chosen


def recall_ports(memory: Path) -> dict[str, int]:
    """The ports of the last start; none if there was none, or if the file makes no sense any more."""
    try:
        ports = json.loads(memory.read_text())
    except (OSError, ValueError):
        return {}
    return (
        {service: port for service, port in ports.items() if isinstance(port, int)} if isinstance(ports, dict) else {}
    )
