"""What a host tells of an attempt as spans: how long it had it, waited for the device, for weights, ran, encoded. Pure but for the telling."""

from collections.abc import Iterator

from loaders.protocol import Timings
from registry.tracing import Traces


def tell(
    traces: Traces, parent: str, accepted_at: float, ended_at: float, timings: Timings, error: str = ""
) -> None:
    """Children of one `host` span, which is the router's attempt's child."""
    span = traces.begin("host", parent, at=accepted_at, kind="server")
    for name, began, ended in stretches(ended_at, timings):
        traces.tell(name, span.traceparent, max(began, accepted_at), ended)
    span.end(at=max(accepted_at, ended_at), error=error)


def stretches(ended_at: float, timings: Timings) -> Iterator[tuple[str, float, float]]:
    """The timings end where the attempt did, each before the next; what took no time is left out."""
    ends = ended_at
    parts = [("encode", timings.encode), ("run", timings.run), ("load", timings.load), ("wait", timings.wait)]
    for name, seconds in parts:
        if seconds > 0:
            yield name, ends - seconds, ends
        ends -= seconds
