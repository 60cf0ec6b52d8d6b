"""Serves this host's verified blobs to the other hosts of its pool: GET /blobs/{sha256}, with ranges.

IO: a few threads of the standard library's server, so that a GPU host installs no web framework; the kernel copies
from file to socket. Whoever asks proves the pool's host key by a token made from it, so the key itself never
travels between hosts. Who has not shown it gets few connections, for a short time: the port may be open to a whole
network. It gives out bytes by digest alone and refuses to know what they are.
"""

import contextlib
import hmac
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedReader
from pathlib import Path
from typing import Any

import structlog

from loaders.fetch import peer_token

log = structlog.get_logger("marquee.peers")

BLOB = re.compile(r"/blobs/([0-9a-f]{64})")
RANGE = re.compile(r"bytes=(\d+)-(\d*)")
IDLE_SECONDS = 60.0
MOST_CONNECTIONS = 256  # each costs a thread; a host that gets none asks others, then the source
MOST_STRANGERS = 32  # of them, that have not shown the token
STRANGER_SECONDS = 10.0  # to show it

Locate = Callable[[str], Path | None]


class BlobServer:
    """Serves from construction until `close`."""

    def __init__(
        self, locate: Locate, host_key: str | None, *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._server = _Server((host, port), _Handler)
        self._server.locate = locate
        self._server.token = peer_token(host_key)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="peers", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    locate: Locate
    token: str

    def __init__(self, *arguments: Any) -> None:
        self._open: set[socket.socket] = set()
        self._strangers: dict[socket.socket, float] = {}  # since when
        self._lock = threading.Lock()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Beyond the bounds it is hung up at once: no thread, no answer."""
        with self._lock:
            is_full = len(self._open) >= MOST_CONNECTIONS or len(self._strangers) >= MOST_STRANGERS
            if not is_full:
                self._open.add(request)
                self._strangers[request] = time.monotonic()
        if is_full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def introduced(self, connection: socket.socket) -> None:
        """It has shown the token."""
        with self._lock:
            self._strangers.pop(connection, None)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
            self._strangers.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Between two connections, and every tenth of a second: who drips a header byte by byte is cut off."""
        since = time.monotonic() - STRANGER_SECONDS
        with self._lock:
            for stranger, came_at in self._strangers.items():
                if came_at < since:
                    with contextlib.suppress(OSError):
                        stranger.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a peer's connection ended early", address=client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "marquee"
    sys_version = ""
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet: whoever fetches logs."""

    def _answer(self) -> None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self.close_connection = True
            self._head(HTTPStatus.UNAUTHORIZED, 0)
            return
        self.server.introduced(self.connection)
        match = BLOB.fullmatch(self.path)
        path = self.server.locate(match[1]) if match else None
        if path is None:
            self._head(HTTPStatus.NOT_FOUND, 0)
            return
        try:
            file = path.open("rb")
        except OSError:  # evicted since
            self._head(HTTPStatus.NOT_FOUND, 0)
            return
        with file:
            self._send(file, os.fstat(file.fileno()).st_size)

    def _send(self, file: BufferedReader, size_bytes: int) -> None:
        start, stop, status = 0, size_bytes, HTTPStatus.OK
        if asked := RANGE.fullmatch(self.headers.get("Range") or ""):
            start, status = int(asked[1]), HTTPStatus.PARTIAL_CONTENT
            stop = min(int(asked[2]) + 1 if asked[2] else size_bytes, size_bytes)
            if start >= stop:
                self._head(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, 0, f"bytes */{size_bytes}")
                return
        self._head(status, stop - start, f"bytes {start}-{stop - 1}/{size_bytes}")
        if self.command == "GET" and stop > start:
            self.connection.sendfile(file, start, stop - start)

    def _head(self, status: HTTPStatus, length: int, content_range: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Accept-Ranges", "bytes")
        if content_range and status != HTTPStatus.OK:
            self.send_header("Content-Range", content_range)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
