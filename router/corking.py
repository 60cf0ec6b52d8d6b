"""Fewer system calls: what one turn of the event loop writes to a connection leaves in one piece. Process edge.

uvloop sends each write at once. An answer is two writes, head and body, and a link gets a message per request; each
would wake its reader for a part. What is large goes at once, so that flow control stays the transport's own.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from loaders import keepalive

LARGE_BYTES = 64 << 10


class Corked:
    """A transport that keeps writes until the loop's turn is over. All else is the transport's."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []
        self._size_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        self._size_bytes += len(data)
        if self._size_bytes > LARGE_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        pieces, self._pieces, self._size_bytes = self._pieces, [], 0
        if pieces and not self._transport.is_closing():
            self._transport.writelines(pieces)


class CorkedProtocol(HttpToolsProtocol):
    """uvicorn's own, over a corked transport; a WebSocket that it upgrades to inherits the cork and is watched."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Corked(transport, self.loop))  # type: ignore[arg-type]

    def handle_websocket_upgrade(self) -> None:
        keepalive.watch(self.transport.get_extra_info("socket").fileno())
        super().handle_websocket_upgrade()
