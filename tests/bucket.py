"""A local server that speaks as much of S3 as reading takes: signed GETs of objects, with ranges and named refusals."""

import contextlib
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RANGE = re.compile(r"bytes=(\d+)-(\d*)")
ERROR = "<?xml version='1.0'?><Error><Code>{0}</Code><Message>{0}</Message></Error>"


@dataclass
class Buckets:
    """Objects by `bucket/key`. Only requests signed by `access_key` are served."""

    objects: dict[str, bytes]
    access_key: str = "AKLOCAL"
    failures: int = 0  # answers 503 so many times
    drips: int = 1  # pieces that an object comes in
    pause_seconds: float = 0.0  # before each
    ranges: list[str | None] = field(default_factory=list)

    def start(self) -> "Buckets":
        buckets = self

        class Handler(_Handler):
            pass

        Handler.buckets = buckets
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    @property
    def environment(self) -> dict[str, str]:
        """What makes the real client talk to it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_address[1]}",
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "local-1",
        }

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    buckets: Buckets
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        signature = self.headers.get("Authorization") or ""
        if f"AWS4-HMAC-SHA256 Credential={self.buckets.access_key}/" not in signature:
            return self.refuse(403, "AccessDenied")
        if self.buckets.failures:
            self.buckets.failures -= 1
            return self.refuse(503, "SlowDown")
        data = self.buckets.objects.get(self.path.lstrip("/"))
        if data is None:
            return self.refuse(404, "NoSuchKey")
        self.buckets.ranges.append(self.headers.get("Range"))
        asked = RANGE.fullmatch(self.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        stop = min(int(asked[2]) + 1 if asked and asked[2] else len(data), len(data))
        if start >= len(data):
            return self.refuse(416, "InvalidRange")
        headers = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"} if asked else {}
        return self.send(206 if asked else 200, data[start:stop], headers)

    def refuse(self, status: int, code: str) -> None:
        self.send(status, ERROR.format(code).encode(), {"Content-Type": "application/xml"})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Mon, 02 Nov 2026 00:00:00 GMT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        step = max(1, -(-len(body) // self.buckets.drips))
        for start in range(0, len(body), step):
            time.sleep(self.buckets.pause_seconds)
            with contextlib.suppress(ConnectionError):  # it was hung up on
                self.wfile.write(body[start : start + step])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Tests read `Buckets.ranges` instead."""
