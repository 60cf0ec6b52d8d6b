"""What passes between an errand and a provider's API. Pure; `Provider` is the seam that each API fills."""

from collections.abc import Mapping
from typing import Any, Protocol

from router.requests import LogLine, Priority, Record


class Call(Record, frozen=True, kw_only=True):
    """One request as the partner shall get it."""

    endpoint: str
    input: Mapping[str, Any]
    priority: Priority = "normal"
    start_within_seconds: float | None = None  # left of the caller's own deadline
    traceparent: str | None = None


class Ticket(Record, frozen=True, kw_only=True):
    """The partner has taken it, and calls it so."""

    id: str


class Pending(Record, frozen=True, kw_only=True):
    """Not over yet."""

    position: int | None = None  # in the partner's queue; None: it runs
    logs: tuple[LogLine, ...] = ()  # all so far


class Made(Record, frozen=True, kw_only=True):
    """The partner's answer. Addresses in it are still the partner's own."""

    result: Any
    is_whole: bool  # the fal door gives `result` as it is; else only its files count, as a local model's do
    run_seconds: float | None = None
    logs: tuple[LogLine, ...] = ()


class Provider(Protocol):
    """One API. Every method may raise any `PartnerError` but `OutputLostError`."""

    name: str
    is_synchronous: bool  # the answer to `submit` is the result, and a lost answer is a lost result

    async def submit(self, call: Call) -> Ticket | Made: ...

    async def look(self, endpoint: str, ticket: str) -> Pending | Made: ...

    async def cancel(self, endpoint: str, ticket: str) -> None: ...
