"""Is the other end of a connection still there? Its kernel is asked, which answers while its process is busy.

A process that dies closes its connections at once. A machine or network that dies says nothing: the kernel's probes
find that out within seconds, whatever Python, a device or an import does there at that moment. So pings, which need
the process itself, may be patient: they only find a process that hangs for ever. IO.
"""

import contextlib
import socket

IDLE_SECONDS = 5  # without a byte, then it is probed
PROBE_SECONDS = 2
PROBES = 3  # unanswered: gone
PING_SECONDS = 5.0
PONG_SECONDS = (
    45.0  # longer than a process that imports its libraries among a dozen others on two cores is away
)

OPTIONS = {
    (socket.SOL_SOCKET, "SO_KEEPALIVE"): 1,
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE"): IDLE_SECONDS,
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL"): PROBE_SECONDS,
    (socket.IPPROTO_TCP, "TCP_KEEPCNT"): PROBES,
    # What was sent and is not acknowledged is not probed for; without this it is tried again for a quarter of an hour.
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT"): int(PONG_SECONDS * 1000),
}


def watch(descriptor: int) -> None:
    """Have the kernel probe this connection; systems lack some of the options."""
    with contextlib.suppress(OSError), socket.socket(fileno=socket.dup(descriptor)) as connection:
        for (level, name), value in OPTIONS.items():
            if hasattr(socket, name):
                connection.setsockopt(level, getattr(socket, name), value)
