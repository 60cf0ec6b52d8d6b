"""A caller's requests, newest first: `GET /v1/requests`. Reads the queue's tables and the ledger; a process edge.

Customers see their organization's, operators anybody's. Times are those of the requests' ids, which the index has in
order. A page costs the same however rare the wish is, so it may be shorter than its limit and yet not the last.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from litestar import Router, get

from registry import database, edge, partitions
from registry.catalog import Caller, OrganizationName
from registry.database import Database
from registry.errors import InvalidRequestError
from router import ids
from router.catalogue import Catalogue
from router.clients.door import AnyRequest
from router.errors import ForbiddenError, QueueUnavailableError
from router.fates import PROBLEMS
from router.links import token_of
from router.queue import LOST
from router.requests import Record, State

QUERIES = database.load_queries(Path(__file__).with_suffix(".sql"))
READERS = frozenset({"run", "usage:read", "operate"})
FILTERS = ("status", "slug", "since", "until", "organization", "cursor", "limit")
PAGE, LONGEST_PAGE = 50, 500
LOOKS = 5_000  # requests looked at for one page
LAST = partitions.uuid7((1 << 48) - 1, (1 << 74) - 1)


class Wishes(Record, frozen=True, kw_only=True):
    """Which requests, `first` and `before` being ids; None stands for no limit."""

    organization: str | None = None
    slug: str | None = None
    states: tuple[State, ...] | None = None
    first: str
    before: str
    limit: int = PAGE


class Line(Record, frozen=True, kw_only=True):
    """One request without its input and outputs; what it cost once it has ended."""

    id: str
    organization: str
    slug: str
    status: State
    door: str
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: str | None = None
    wait_seconds: float = 0.0
    load_seconds: float = 0.0
    run_seconds: float = 0.0
    unit: str | None = None
    units: Decimal = Decimal(0)
    amount: Decimal = Decimal(0)
    currency: str | None = None
    reused: bool = False


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """`next_cursor` asks for older ones; None: there are none."""

    requests: tuple[Line, ...]
    next_cursor: str | None


class Logbook(msgspec.Struct, frozen=True, kw_only=True):
    """What a process reads requests with."""

    db: Database
    catalogue: Catalogue

    async def page(self, wishes: Wishes) -> Page:
        """Raises `QueueUnavailableError`."""
        looks = _looks(wishes)
        try:
            async with self.db.pool.connection() as connection:
                found = await _found(connection, wishes, looks)
                lines = await _rows(connection, "lines", {"ids": found["ids"]})
                charges = await _rows(connection, "charges", {"ids": found["ids"]})
        except LOST as error:
            raise QueueUnavailableError("the database does not answer") from error
        known = {row["id"]: row for row in charges}
        requests = tuple(msgspec.convert({**row, **known.get(row["id"], {})}, Line) for row in lines)
        return Page(requests=requests, next_cursor=_next(found, wishes.limit, looks))

    async def recent(
        self, organization: OrganizationName, cursor: str | None
    ) -> tuple[list[str], str | None]:
        """Ids alone, newest first, and where to go on. Raises `QueueUnavailableError`."""
        before = str(LAST) if cursor is None else cursor
        wishes = Wishes(
            organization=organization, first=_id_of("since", "1970-01-01"), before=before, limit=PAGE
        )
        try:
            async with self.db.pool.connection() as connection:
                found = await _found(connection, wishes, PAGE)
        except LOST as error:
            raise QueueUnavailableError("the database does not answer") from error
        return found["ids"], _next(found, PAGE, PAGE)

    async def cost(self, request_id: str) -> str | None:
        """What it cost, like `0.02 USD`; None before its end, and where it has no price."""
        async with self.db.pool.connection() as connection:
            found = await _rows(connection, "charge", {"id": request_id})
        return next(
            (f"{row['amount'].normalize():f} {row['currency']}" for row in found if row["currency"]), None
        )


async def _found(connection: database.Connection, wishes: Wishes, looks: int) -> dict[str, Any]:
    """The ids, and how far it looked."""
    parameters = msgspec.structs.asdict(wishes) | {"looks": looks}
    parameters["states"] = None if wishes.states is None else list(wishes.states)
    (found,) = await _rows(connection, "page", parameters)
    return found


async def _rows(
    connection: database.Connection, name: str, parameters: Mapping[str, Any]
) -> list[dict[str, Any]]:
    # Never prepared: the planner must see the ids to leave partitions out.
    return await (await connection.execute(QUERIES[name], parameters, prepare=False)).fetchall()


def _looks(wishes: Wishes) -> int:
    """Where everything is wished for, nothing is looked at in vain."""
    return wishes.limit if wishes.slug is None and wishes.states is None else max(LOOKS, wishes.limit)


def _next(found: Mapping[str, Any], limit: int, looks: int) -> str | None:
    if len(found["ids"]) == limit:
        return str(found["ids"][-1])
    return str(found["reached"]) if found["looked"] == looks else None


def wishes(caller: Caller, given: Mapping[str, str]) -> Wishes:
    """From an address. Pure. Raises `InvalidRequestError`, and `ForbiddenError` for others' requests."""
    edge.refuse_other_filters(given, FILTERS)
    until = str(LAST) if "until" not in given else _id_of("until", given["until"])
    cursor = ids.parse(given["cursor"]) if "cursor" in given else str(LAST)
    if cursor is None:
        raise InvalidRequestError("cursor", "it is none that a page gave")
    return Wishes(
        organization=_organization(caller, given.get("organization")),
        slug=given.get("slug"),
        states=_states(given["status"]) if "status" in given else None,
        first=_id_of("since", given.get("since", "1970-01-01")),
        before=min(cursor, until),
        limit=_limit(given.get("limit", str(PAGE))),
    )


def _organization(caller: Caller, asked: str | None) -> str | None:
    if "operate" in caller.scopes:
        return asked
    if asked not in {None, caller.organization}:
        raise ForbiddenError("operate")
    return caller.organization


def _states(text: str) -> tuple[State, ...]:
    try:
        return tuple(State(word) for word in text.split(","))
    except ValueError as error:
        raise InvalidRequestError("status", f"one or more of {', '.join(State)}") from error


def _id_of(name: str, text: str) -> str:
    """The first id of a moment; a time without a zone is UTC."""
    try:
        when = datetime.fromisoformat(text)
        when = when.replace(tzinfo=when.tzinfo or UTC)
        return str(partitions.uuid7(max(0, int(when.timestamp() * 1000)), 0))
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError(name, f"{text!r} is no time like 2026-12-01T09:00:00Z") from error


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= LONGEST_PAGE):
        raise InvalidRequestError("limit", f"a number from 1 to {LONGEST_PAGE}")
    return int(text)


def router(home: Callable[[], Logbook]) -> Router:
    @get("/v1/requests", include_in_schema=False)
    async def listing(request: AnyRequest) -> Page:
        logbook = home()
        caller = logbook.catalogue.now.caller(token_of(request.headers.get("authorization")), None)
        if not caller.scopes & READERS:
            raise ForbiddenError("run")
        return await logbook.page(wishes(caller, dict(request.query_params)))

    table = PROBLEMS | {InvalidRequestError: (422, "Not acceptable")}
    handlers: dict[Any, Any] = edge.problem_handlers(table)
    return Router("/", route_handlers=[listing], exception_handlers=handlers)
