"""The gateway's Prometheus figures beyond HTTP: requests that ended, where their seconds went, the fleet now. Process edge.

Labels stay few: states, doors, hosts; never slugs or customers, which the dashboard tells apart. Each request is
counted by the one process that stored its end, so sums over gateways are right.
"""

from collections.abc import Callable, Iterator
from typing import Any

from litestar import Router, get
from litestar.exceptions import ServiceUnavailableException
from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from registry import edge
from registry.dashboard.live import FleetState
from registry.edge import SECONDS_BUCKETS
from router.clients.door import AnyRequest, Home
from router.fates import PROBLEMS
from router.requests import State, Status

SECONDS = {
    "wait": "Seconds until a host took a request up.",
    "load": "Seconds a request waited for weights.",
    "run": "Seconds a request ran.",
}


class Telemetry:
    """Told of every end; asked for the fleet at each scrape."""

    def __init__(self, registry: CollectorRegistry, fleet: Callable[[], FleetState | None]) -> None:
        self._requests = Counter(
            "marquee_requests", "Requests that ended.", ["state", "door"], registry=registry
        )
        self._seconds = {
            name: Histogram(f"marquee_{name}_seconds", text, buckets=SECONDS_BUCKETS, registry=registry)
            for name, text in SECONDS.items()
        }
        registry.register(FleetCollector(fleet))

    def ended(self, status: Status) -> None:
        self._requests.labels(status.state, status.request.door).inc()
        if status.state is State.SUCCEEDED and status.outcome is not None:
            for name, histogram in self._seconds.items():
                histogram.observe(getattr(status.outcome, f"{name}_seconds"))


def router(home: Home, fleet: Callable[[], FleetState | None]) -> Router:
    """`GET /v1/fleet` for operators' keys: what `marquee top` reads."""

    @get("/v1/fleet", include_in_schema=False)
    async def read_fleet(request: AnyRequest) -> FleetState:
        home().caller(request, "operate")
        state = fleet()
        if state is None:
            raise ServiceUnavailableException("Another gateway dispatches this pool; ask that one.")
        return state

    handlers: dict[Any, Any] = edge.problem_handlers(PROBLEMS)
    return Router("/", route_handlers=[read_fleet], exception_handlers=handlers)


class FleetCollector(Collector):
    """Gauges of the process that dispatches; the others show none, so nothing is counted twice."""

    def __init__(self, fleet: Callable[[], FleetState | None]) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        fleet = self._fleet()
        if fleet is None:
            return
        labels = ["pool"]
        for name, text, value in (
            ("marquee_hosts", "Hosts that are linked.", len(fleet.hosts)),
            ("marquee_waiting_requests", "Requests that wait for a host.", fleet.waiting),
            ("marquee_assigned_requests", "Requests that hosts have.", fleet.running),
            (
                "marquee_slots",
                "Attempts that all hosts take at once.",
                sum(host.slots for host in fleet.hosts),
            ),
        ):
            family = GaugeMetricFamily(name, text, labels=labels)
            family.add_metric([fleet.pool], value)
            yield family
        yield from _partners(fleet)
        used = GaugeMetricFamily(
            "marquee_device_used_bytes", "Weights on a host's device.", labels=["pool", "host"]
        )
        budget = GaugeMetricFamily(
            "marquee_device_budget_bytes", "What they may take.", labels=["pool", "host"]
        )
        for host in fleet.hosts:
            used.add_metric([fleet.pool, host.name], host.used_bytes)
            budget.add_metric([fleet.pool, host.name], host.budget_bytes)
        yield used
        yield budget


def _partners(fleet: FleetState) -> Iterator[Metric]:
    for name, text, values in (
        (
            "marquee_partner_waiting_requests",
            "Requests that wait for a partner.",
            {one.name: one.waiting for one in fleet.partners},
        ),
        (
            "marquee_partner_running_requests",
            "Requests that a partner has.",
            {one.name: one.running for one in fleet.partners},
        ),
        (
            "marquee_partner_down",
            "Whether a partner failed several times in a row, and nothing has gone well since.",
            {one.name: int(one.is_down) for one in fleet.partners},
        ),
    ):
        family = GaugeMetricFamily(name, text, labels=["pool", "partner"])
        for partner, value in values.items():
            family.add_metric([fleet.pool, partner], value)
        yield family
