"""`tracing.Traces` over OpenTelemetry's SDK, exported by OTLP over HTTP in batches. IO, in the exporter's own thread.

The one module that imports OpenTelemetry; `tracing.opened` does so where a collector is named.
"""

from typing import Literal

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from registry.tracing import Fact, Span

KINDS = {"internal": trace.SpanKind.INTERNAL, "server": trace.SpanKind.SERVER}
PATH = "/v1/traces"
_w3c = TraceContextTextMapPropagator()


def exporting(endpoint: str, service: str, share: float) -> "OtelTraces":
    """To the collector at `endpoint`, an OTLP/HTTP base address such as http://collector:4318."""
    exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/").removesuffix(PATH) + PATH)
    return OtelTraces(BatchSpanProcessor(exporter), service, share)


class OtelTraces:
    """`share` of the traces that begin here is kept; where a caller decided already, so it stays."""

    on = True

    def __init__(self, processor: SpanProcessor, service: str, share: float = 1.0) -> None:
        sampler = ParentBased(TraceIdRatioBased(share))
        self._provider = TracerProvider(
            sampler=sampler,
            resource=Resource.create({SERVICE_NAME: service}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("marquee")

    def begin(
        self,
        name: str,
        parent: str | None,
        *,
        at: float | None = None,
        kind: Literal["internal", "server"] = "internal",
        **facts: Fact,
    ) -> Span:
        return self._start(name, parent, at, KINDS[kind], facts)

    def _start(
        self, name: str, parent: str | None, at: float | None, kind: trace.SpanKind, facts: dict[str, Fact]
    ) -> "_Span":
        context = Context() if parent is None else _w3c.extract({"traceparent": parent}, Context())
        return _Span(
            self._tracer.start_span(
                name, context, kind=kind, start_time=_nanoseconds(at), attributes=_attributes(facts)
            )
        )

    def tell(
        self, name: str, parent: str | None, began: float, ended: float, *, error: str = "", **facts: Fact
    ) -> None:
        span = self._start(name, parent, began, trace.SpanKind.INTERNAL, facts)
        span.end(at=max(began, ended), error=error)

    def close(self) -> None:
        self._provider.shutdown()


class _Span:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> str | None:
        carrier: dict[str, str] = {}
        _w3c.inject(carrier, trace.set_span_in_context(self._span))
        return carrier.get("traceparent")

    def end(
        self, *, at: float | None = None, name: str | None = None, error: str = "", **facts: Fact
    ) -> None:
        if name is not None:
            self._span.update_name(name)
        self._span.set_attributes(_attributes(facts))
        if error:
            self._span.set_status(trace.StatusCode.ERROR, error)
        self._span.end(_nanoseconds(at))


def _attributes(facts: dict[str, Fact]) -> dict[str, Fact]:
    """`host_id` becomes `marquee.host_id`; a name with `__` is somebody else's: `http__route` is `http.route`."""
    return {
        name.replace("__", ".") if "__" in name else f"marquee.{name}": value for name, value in facts.items()
    }


def _nanoseconds(at: float | None) -> int | None:
    return None if at is None else int(at * 1e9)
