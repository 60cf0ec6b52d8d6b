"""What goes into the queue's tables and comes out: plain records, and their translation from rows. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from registry.catalog import Digest, Price
from router.pricing import Candidate
from router.requests import Outcome, Record, Request, RequestId, State, Status


class Entry(Record, frozen=True, kw_only=True):
    """A request in a dispatcher's memory, with what its row knows beyond what the caller said."""

    request: Request
    origin: str = ""  # the process that accepted it and may have a caller waiting
    attempt: int = 0  # the last number used
    host_faults: int = 0
    host_id: str | None = None
    started_at: datetime | None = None
    returned_at: float | None = None  # unix seconds; since when it waits again

    @property
    def id(self) -> RequestId:
        return self.request.id


class Explanation(Record, frozen=True, kw_only=True):
    """Why an attempt went where it went, kept with it."""

    reason: str
    candidates: tuple[Candidate, ...]  # cheapest first
    evicts: tuple[Digest, ...] = ()


class Assignment(Record, frozen=True, kw_only=True):
    """One attempt that shall be written before it is sent."""

    id: RequestId
    number: int
    host_id: str
    decision: Explanation | None = None


class Return(Record, frozen=True, kw_only=True):
    """An attempt that ends without an outcome: the request waits again."""

    id: RequestId
    number: int
    reason: str
    faults: int


class Adoption(Record, frozen=True, kw_only=True):
    """An attempt that a host still works on after it was believed lost."""

    id: RequestId
    number: int
    host_id: str
    faults: int


class Acceptance(Record, frozen=True, kw_only=True):
    """A partner has taken an attempt and named it."""

    id: RequestId
    number: int
    partner_request_id: str


class Ending(Record, frozen=True, kw_only=True):
    """A request's end. `number` None: not a host's report but a caller's cancellation or a passed deadline."""

    entry: Entry
    number: int | None
    outcome: Outcome
    price: Price | None = None  # the variant's, when it ended


class Ended(Record, frozen=True, kw_only=True):
    """When the database says it began and ended."""

    started_at: datetime | None
    finished_at: datetime


class AttemptRow(Record, frozen=True, kw_only=True):
    """One try of a request as the tables have it."""

    number: int
    host_id: str
    assigned_at: datetime
    ended_at: datetime | None = None
    ended: str | None = None
    decision: Explanation | None = None
    partner_request_id: str | None = None


def bytes_of(value: Any) -> int:
    """About what an input takes in memory: what can be long in it are texts, and lists of them."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):  # as JSON gives it; an abstract class would be asked for each number
        return sum([bytes_of(one) for one in value.values()])
    return sum([bytes_of(one) for one in value]) if isinstance(value, list) else 8


def from_submission(request: Request, *, taken: bool) -> dict[str, Any]:
    row = {name: getattr(request, name) for name in request.__struct_fields__}
    row["taken"] = taken
    return row


def from_ending(ending: Ending) -> dict[str, Any]:
    return {
        "id": ending.entry.id,
        "number": ending.number,
        "state": ending.outcome.state,
        "outcome": ending.outcome,
    }


def to_request(row: Mapping[str, Any]) -> Request:
    plain = {name: row[name] for name in Request.__struct_fields__}
    plain["adapters"] = msgspec.json.decode(row["adapters"])
    plain["input"] = msgspec.json.decode(row["input"])
    return msgspec.convert(plain, Request)


def to_entry(row: Mapping[str, Any]) -> Entry:
    return Entry(
        request=to_request(row),
        origin=row["origin"],
        attempt=row["attempt"],
        host_faults=row["host_faults"],
        host_id=row.get("host_id"),
        started_at=row.get("started_at"),
    )


def to_status(row: Mapping[str, Any]) -> Status:
    outcome = None if row["outcome"] is None else msgspec.json.decode(row["outcome"], type=Outcome)
    return Status(
        request=to_request(row),
        state=State(row["state"]),
        attempt=row["attempt"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        outcome=outcome,
    )


def to_ended(row: Mapping[str, Any] | None) -> Ended | None:
    if row is None:
        return None
    return Ended(started_at=row["started_at"], finished_at=row["finished_at"])
