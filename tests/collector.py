"""An OpenTelemetry collector for tests: takes OTLP over real HTTP and keeps the spans."""

import contextlib
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """One span as it arrived."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    began: float
    ended: float
    facts: dict[str, Any]
    failed: bool


class Collector:
    def __init__(self, address: str) -> None:
        self.address = address
        self.spans: list[Told] = []

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = next(
                a.value.string_value for a in resource.resource.attributes if a.key == "service.name"
            )
            for scope in resource.scope_spans:
                self.spans += [_told(service, span) for span in scope.spans]

    def wait_for(self, names: set[str], seconds: float = 20.0) -> None:
        """Batches are sent every five seconds, and when a process ends."""
        until = time.monotonic() + seconds
        while names - {span.name for span in self.spans} and time.monotonic() < until:
            time.sleep(0.05)


def _told(service: str, span: Any) -> Told:
    facts = {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in span.attributes}
    return Told(
        service=service,
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        began=span.start_time_unix_nano / 1e9,
        ended=span.end_time_unix_nano / 1e9,
        facts=facts,
        failed=span.status.code == 2,
    )


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    found: list[Collector] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            found[0].take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.append(Collector(f"http://127.0.0.1:{server.server_port}"))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found[0]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
