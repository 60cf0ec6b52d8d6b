"""Reads the rollups for one view and one period; gives plain rows and daily arrays. IO, reads only."""

import calendar
import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from registry import rollups
from registry.catalog import Record
from registry.dashboard.views import View
from registry.database import Database, load_queries
from registry.decay import Array

QUERIES = load_queries(Path(__file__).with_name("queries.sql"))
PERIODS = (7, 30, 90, 365)  # days
STATISTICS_DAYS = 365
FRAGMENTS = ("variant_days", "variant_requests", "sign")  # of other queries
KINDS = ("wait", "run")  # of seconds, that pages show as quantiles
Row = Mapping[str, Any]


class Period(Record, frozen=True, kw_only=True):
    """Whole UTC days, both ends included."""

    until: dt.date
    days: int

    @property
    def since(self) -> dt.date:
        return self.until - dt.timedelta(days=self.days - 1)

    @property
    def before(self) -> "Period":
        return Period(until=self.since - dt.timedelta(days=1), days=self.days)

    @property
    def months(self) -> list[dt.date]:
        """The first days of the months of which more lies in it than not: their sums are counted whole."""
        inside = Counter(day.replace(day=1) for day in self.dates)
        return [month for month, days in inside.items() if 2 * days > len(_days_of(month))]

    @property
    def beyond(self) -> list[dt.date]:
        """The days of those months outside the period: what they hold is taken off again."""
        return sorted(self._counted - set(self.dates))

    @property
    def edges(self) -> list[dt.date]:
        """The days to be looked up one by one: its own outside those months, and the ones beyond."""
        return sorted(self._counted ^ set(self.dates))

    @property
    def _counted(self) -> set[dt.date]:
        return {day for month in self.months for day in _days_of(month)}

    @property
    def dates(self) -> list[dt.date]:
        return [self.since + dt.timedelta(days=offset) for offset in range(self.days)]


def _days_of(month: dt.date) -> list[dt.date]:
    """By its first day."""
    return [month.replace(day=day + 1) for day in range(calendar.monthrange(month.year, month.month)[1])]


class Demand(Record, frozen=True, kw_only=True):
    """One variant's requests per whole day of the last year, ending yesterday: float64, shape (365,)."""

    slug: str
    requests: Array
    recent: int  # of the last thirty days

    @property
    def first(self) -> int:
        return int(np.flatnonzero(self.requests)[0]) if self.requests.any() else len(self.requests)


class Figures:
    """The queries of one page, limited by its view."""

    def __init__(self, db: Database, view: View, period: Period) -> None:
        self.db = db
        self.view = view
        self.period = period

    async def rows(self, name: str, period: Period | None = None, **more: object) -> list[Row]:
        chosen = period or self.period
        query = QUERIES[name]
        for fragment in FRAGMENTS:
            query = query.replace(f"{{{fragment}}}", QUERIES[fragment])
        parameters = self.view.limits | _limits(chosen) | {"slug": None} | more
        async with self.db.pool.connection() as connection:
            # Never prepared: the planner must see which limits are null to look the others up in an index.
            found = await connection.execute(query, parameters, prepare=False)
            return list(await found.fetchall())

    async def latencies(self) -> "Latencies":
        """Of each day and all together."""
        return Latencies(await self.rows("latencies", kinds=list(KINDS)))

    async def latency_sums(self, period: Period) -> "Latencies":
        """All together only."""
        return Latencies(await self.rows("latency_sums", period, kinds=list(KINDS)))

    async def demand(self, slug: str | None = None) -> list[Demand]:
        """Every variant of the view, or one; the statistics always look at a year that ended yesterday."""
        year = Period(until=self.period.until - dt.timedelta(days=1), days=STATISTICS_DAYS)
        return [
            Demand(
                slug=row["slug"], requests=_spread(row["days"], row["requests"]), recent=row["recent"] or 0
            )
            for row in await self.rows("series", year, slug=slug)
        ]

    @property
    def first_weekday(self) -> int:
        """Of the arrays that `demand` gives."""
        return (self.period.until - dt.timedelta(days=STATISTICS_DAYS)).weekday()

    @property
    def statistics_since(self) -> dt.date:
        return self.period.until - dt.timedelta(days=STATISTICS_DAYS)


def _limits(period: Period) -> dict[str, object]:
    """A period as queries want it: its ends, the months that are counted whole, and the days that put that right."""
    return {
        "since": period.since,
        "until": period.until,
        "months": period.months,
        "edges": period.edges,
        "beyond": period.beyond,
    }


def _spread(days: Sequence[int], amounts: Sequence[float]) -> Array:
    """A day may come in several pieces."""
    return np.bincount(days, amounts, STATISTICS_DAYS).astype(np.float64)


class Latencies:
    """Buckets of seconds, summed over any part of their days."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._days: dict[tuple[str, dt.date], list[tuple[int, int]]] = {}
        self._all: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        for row in rows:
            buckets = list(zip(row["buckets"], row["requests"], strict=True))
            self._days[row["kind"], row["day"]] = buckets
            for bucket, requests in buckets:
                self._all[row["kind"]][bucket] += requests

    def quantile(self, kind: str, share: float, day: dt.date | None = None) -> float | None:
        buckets = list(self._all[kind].items()) if day is None else self._days.get((kind, day), [])
        return rollups.quantile(buckets, share)
