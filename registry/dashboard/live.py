"""What the dashboard is told by the process that dispatches: the fleet now, and one request's life. Pure records.

The registry knows no hosts; whoever composes the process hands in an `Observatory`.
"""

import datetime as dt
from collections.abc import Mapping
from typing import Literal, Protocol

from registry.catalog import Record


class Part(Record, frozen=True, kw_only=True):
    """A component or LoRA on a host, in its fastest tier."""

    digest: str
    name: str
    tier: Literal["device", "memory", "disk"]
    size_bytes: int


class HostState(Record, frozen=True, kw_only=True):
    """One linked host."""

    id: str
    name: str
    device: str
    zone: str = ""
    draining: bool = False
    running: int = 0
    staged: int = 0
    slots: int = 1
    budget_bytes: int = 0
    used_bytes: int = 0
    parts: tuple[Part, ...] = ()


class PartnerState(Record, frozen=True, kw_only=True):
    """One provider that serves variants of the catalogue."""

    name: str
    waiting: int = 0
    running: int = 0
    is_down: bool = False  # it failed several times in a row, and nothing has gone well since


class LaunchState(Record, frozen=True, kw_only=True):
    """How ready the pool is for one version of a launch."""

    slug: str
    replicas: int  # asked for
    warm: int
    loading: int
    stage_at: dt.datetime
    opens_at: dt.datetime

    def said(self, now: dt.datetime) -> str:
        """`3 of 4 replicas warm, 12 min to go`."""
        text = f"{self.warm} of {self.replicas} replicas warm"
        if self.loading:
            text += f", {self.loading} loading"
        minutes = round((self.opens_at - now).total_seconds() / 60)
        return f"{text}, {_span(minutes)} to go" if minutes > 0 else f"{text}, open"


def _span(minutes: int) -> str:
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1440} days"


class FleetState(Record, frozen=True, kw_only=True):
    """The pool as its dispatcher sees it. `warm`: hosts per variant that hold all its weights on the device.

    `waiting` and `running` are for hosts; what partners have is theirs.
    """

    at: dt.datetime
    pool: str
    hosts: tuple[HostState, ...] = ()
    waiting: int = 0
    running: int = 0
    warm: Mapping[str, int] = {}
    partners: tuple[PartnerState, ...] = ()
    launches: tuple[LaunchState, ...] = ()  # ahead, or opened a short while ago


class Step(Record, frozen=True, kw_only=True):
    """A stretch of a request's life: queued, loading, running, storing."""

    name: str
    began_seconds: float  # since it was accepted
    seconds: float
    note: str = ""


class Life(Record, frozen=True, kw_only=True):
    """A request from its acceptance to its end, with every placement's reasons."""

    id: str
    slug: str
    organization: str
    state: str
    created_at: dt.datetime
    steps: tuple[Step, ...] = ()
    reasons: tuple[tuple[int, str, str], ...] = ()  # attempt, host, why
    candidates: tuple[
        tuple[int, str, float, str], ...
    ] = ()  # attempt, host, seconds it was priced at, made up of


class Observatory(Protocol):
    """Implemented above the registry, where the hosts are known."""

    def fleet(self) -> FleetState: ...
    async def life(self, request_id: str, organization: str | None) -> Life | None:
        """None for an unknown request, or one of another organization than the given."""
        ...


class NoObservatory:
    """Stands where a process serves pages without dispatching."""

    def fleet(self) -> FleetState:
        return FleetState(at=dt.datetime.now(dt.UTC), pool="")

    async def life(self, request_id: str, organization: str | None) -> Life | None:
        return None
