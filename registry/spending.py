"""What an organization used and spent: `GET /v1/usage`, as JSON or CSV, by day and variant. Reads the sums; process edge.

A key with `usage:read` sees its own organization's, an operator's everybody's or that of one it names.
"""

import csv
import datetime as dt
import io
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from litestar import Response, get

from registry import desk, edge
from registry.admin.office import AnyRequest, Home, caller_of
from registry.catalog import Caller, Record
from registry.database import Database, load_queries
from registry.errors import InvalidRequestError

QUERIES = load_queries(Path(__file__).with_suffix(".sql"))
COLUMNS = {"day": "day", "variant": "slug"}
FILTERS = ("by", "since", "until", "organization", "format")
DAYS = 30  # without `since`
LONGEST_DAYS = 366
EARLIEST = dt.date(1970, 1, 1)  # there are days before it, to count back to


class Question(Record, frozen=True, kw_only=True):
    """Whole UTC days, both ends included; `organization` None: everybody's."""

    organization: str | None
    since: dt.date
    until: dt.date
    by: tuple[str, ...] = ("day", "variant")


class Line(Record, frozen=True, kw_only=True):
    """Sums over requests that ended; what it is not asked by is not there."""

    day: dt.date | None = None
    variant: str | None = msgspec.field(default=None, name="slug")
    requests: int
    failed: int
    images: int
    video_seconds: float
    run_seconds: float
    amount: Decimal
    currency: str


async def lines(db: Database, question: Question) -> list[Line]:
    query = QUERIES["spending"]
    for name, column in COLUMNS.items():
        query = query.replace(f"{{{column}}}", column if name in question.by else "NULL")
    parameters = {name: getattr(question, name) for name in ("organization", "since", "until")}
    async with db.pool.connection() as connection:
        # Never prepared: the planner must see whose it is to choose the index.
        rows = await (await connection.execute(query.encode(), parameters, prepare=False)).fetchall()
    return [msgspec.convert(row, Line) for row in rows]


def question(caller: Caller, given: Mapping[str, str], today: dt.date) -> Question:
    """From an address. Pure. Raises `InvalidRequestError`, `AccessError`."""
    edge.refuse_other_filters(given, FILTERS)
    until = _day("until", given["until"]) if "until" in given else today
    since = _day("since", given["since"]) if "since" in given else until - dt.timedelta(days=DAYS - 1)
    if not 0 <= (until - since).days < LONGEST_DAYS:
        raise InvalidRequestError("since", f"at most {LONGEST_DAYS} days, and not after until")
    by = tuple(given.get("by", "day,variant").split(","))
    if not set(by) <= set(COLUMNS):
        raise InvalidRequestError("by", "day, variant, or both with a comma")
    asked = given.get("organization")
    everybody = asked is None and desk.OPERATE in caller.scopes
    organization = None if everybody else desk.organization_of(caller, asked)
    return Question(organization=organization, since=since, until=until, by=by)


def _day(name: str, text: str) -> dt.date:
    try:
        day = dt.date.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequestError(name, f"{text!r} is no day like 2026-12-01") from error
    if day < EARLIEST:
        raise InvalidRequestError(name, f"nothing was used before {EARLIEST}")
    return day


def table(found: Sequence[Line]) -> str:
    """CSV. Pure."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(Line.__struct_fields__)
    writer.writerows(msgspec.structs.astuple(line) for line in found)
    return out.getvalue()


def route(home: Home) -> Any:
    @get("/v1/usage", include_in_schema=False)
    async def used(request: AnyRequest) -> Response[Any]:
        office = home()
        caller = await caller_of(office, request)
        desk.require(caller, "usage:read")
        asked = question(caller, dict(request.query_params), dt.datetime.now(dt.UTC).date())
        found = await lines(office.db, asked)
        if request.query_params.get("format") == "csv":
            return Response(table(found), media_type="text/csv; charset=utf-8")
        return Response({"since": asked.since, "until": asked.until, "usage": found})

    return used
