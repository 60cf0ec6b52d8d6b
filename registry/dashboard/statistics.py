"""Half-lives of all variants of a view, computed once a day, away from the event loop, and kept. Reads through `figures`.

The cache key is the view's limits and the day, so no view can be given another's figures. Single flight: who comes
while a figure is being computed waits for it.
"""

import asyncio
import datetime as dt
from collections.abc import Callable, Sequence

import numpy as np
import structlog
from cachetools import LRUCache

from registry import cohorts, forecasts, halflife
from registry.catalog import Record
from registry.dashboard.figures import STATISTICS_DAYS, Demand, Figures, Period
from registry.dashboard.views import View
from registry.database import Database
from registry.halflife import HalfLife, Turnover

SIZES = (5, 10, 20)
WARM_SECONDS = 30.0

log = structlog.get_logger("marquee.dashboard")


class Standing(Record, frozen=True, kw_only=True):
    """One variant in the league table."""

    slug: str
    recent: int  # requests of the last thirty days
    half_life: HalfLife
    first: int  # day index of its first request


class Statistics(Record, frozen=True, kw_only=True):
    """What a year of daily demand tells about a view's variants."""

    standings: tuple[Standing, ...]
    turnovers: tuple[Turnover, ...]
    cohorts: tuple[cohorts.Curve, ...]
    backtest: forecasts.Backtest | None


class Cache:
    """A process's finished and running statistics."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._kept: LRUCache[object, asyncio.Task[Statistics]] = LRUCache(64)

    async def get(self, figures: Figures) -> Statistics:
        view = figures.view
        past = (await figures.rows("past"))[0]["requests"]  # grows when late rows come in, or demo data
        owner = "" if view.role == "operator" else view.organization
        key = (view.role, owner, view.slugs, figures.period.until, past)
        if key not in self._kept or self._failed(key):
            self._kept[key] = asyncio.create_task(self._compute_in_turn(figures))
        return await asyncio.shield(self._kept[key])

    async def _compute_in_turn(self, figures: Figures) -> Statistics:
        """One at a time: no number of open pages takes more than one core from the gateway."""
        async with self._turn:
            return await _compute(figures)

    async def keep_warm(self, db: Database) -> None:
        """Computes the operators' statistics as soon as a day is over, so that nobody waits for them."""
        view = View(role="operator", organization="")
        while True:
            await asyncio.sleep(WARM_SECONDS)
            today = Period(until=dt.datetime.now(dt.UTC).date(), days=1)
            try:
                await self.get(Figures(db, view, today))
            except Exception as error:  # noqa: BLE001  whoever opens the page tries again and sees the error
                log.warning("statistics could not be computed", error=repr(error))

    def _failed(self, key: object) -> bool:
        task = self._kept[key]
        return task.done() and (task.cancelled() or task.exception() is not None)


async def _compute(figures: Figures) -> Statistics:
    demand = await figures.demand()
    since, weekday = figures.statistics_since, figures.first_weekday

    def month(day: int) -> str:
        return f"{since + dt.timedelta(days=day):%Y-%m}"

    return await asyncio.to_thread(statistics, demand, weekday, month)


def statistics(demand: Sequence[Demand], first_weekday: int, month: Callable[[int], str]) -> Statistics:
    """Pure. `month` names the month of a day index."""
    standings = [
        Standing(
            slug=one.slug,
            recent=one.recent,
            first=one.first,
            half_life=halflife.demand(one.requests, first_weekday=first_weekday),
        )
        for one in demand
    ]
    series = np.array([one.requests for one in demand]).reshape(len(demand), STATISTICS_DAYS)
    busiest = sorted(demand, key=lambda one: -one.recent)[:40]
    launches = [
        cohorts.Launch(cohort=month(one.first), amounts=one.requests[one.first :])
        for one in demand
        if 0 < one.first < STATISTICS_DAYS and one.requests.sum() >= halflife.MINIMUM_AMOUNT
    ]
    return Statistics(
        standings=tuple(sorted(standings, key=lambda one: (-one.recent, one.slug))),
        turnovers=tuple(halflife.turnover(series, size) for size in SIZES if size < len(demand)),
        cohorts=cohorts.curves(launches),
        backtest=forecasts.backtest([one.requests[one.first :] for one in busiest if one.recent]),
    )
