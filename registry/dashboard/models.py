"""Which models rise and which fade: ranks over time, the half-life league table, shares, turnover, cohorts."""

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping, Sequence

from registry.dashboard.figures import Figures, Row
from registry.dashboard.panels import Chart, Column, Page, Panel, Tile
from registry.dashboard.statistics import Standing, Statistics
from registry.halflife import Turnover

RANKED = 10
SHARED = 8
LEAGUE = 100
Weeks = Mapping[str, Mapping[int, int]]  # slug → weeks ago → requests


async def page(figures: Figures, statistics: Statistics) -> Page:
    weeks = _weeks(await figures.rows("weeks"))
    count = max(1, figures.period.days // 7)
    return Page(
        title="Models",
        tiles=tuple(_turnover_tile(turnover) for turnover in statistics.turnovers) + _fading_tile(statistics),
        panels=(
            _ranks(figures, weeks, count),
            _league(figures, statistics),
            _shares(figures, weeks, count),
            _turnover(statistics.turnovers),
            _cohorts(statistics),
            _scored(statistics),
        ),
    )


def _weeks(rows: Sequence[Row]) -> Weeks:
    return {row["slug"]: dict(zip(row["weeks_ago"], row["requests"], strict=True)) for row in rows}


def _turnover_tile(turnover: Turnover) -> Tile:
    return Tile(name=f"Half of the top {turnover.size} gone after", value=turnover.days, kind="days")


def _fading_tile(statistics: Statistics) -> tuple[Tile, ...]:
    days = sorted(one.half_life.days for one in statistics.standings if one.half_life.days)
    return (Tile(name="Median half-life", value=days[len(days) // 2], kind="days"),) if days else ()


def _week_end(figures: Figures, weeks_ago: int) -> dt.date:
    return figures.period.until - dt.timedelta(days=7 * weeks_ago)


def _ranks(figures: Figures, weeks: Weeks, count: int) -> Panel:
    places: dict[str, dict[int, int]] = defaultdict(dict)
    for ago in range(count):
        ordered = sorted(
            (slug for slug in weeks if weeks[slug].get(ago)), key=lambda slug: (-weeks[slug][ago], slug)
        )
        for place, slug in enumerate(ordered[:RANKED], 1):
            places[slug][ago] = place
    shown = sorted(
        places, key=lambda slug: (0 not in places[slug], min(places[slug].values()), slug)
    )  # whoever is among them now, before whoever was
    shown = shown[: 2 * RANKED]
    return Panel(
        id="ranks",
        title="Rank by requests, week by week",
        note=f"The {RANKED} most called of each week that ends on the day shown.",
        columns=(Column(name="week to", kind="day"), *(Column(name=slug) for slug in shown)),
        rows=[
            (_week_end(figures, ago), *(places[slug].get(ago) for slug in shown))
            for ago in reversed(range(count))
        ],
        chart=Chart(kind="ranks"),
        wide=True,
    )


def _shares(figures: Figures, weeks: Weeks, count: int) -> Panel:
    totals = {slug: sum(n for ago, n in weeks[slug].items() if ago < count) for slug in weeks}
    top = sorted(totals, key=lambda slug: (-totals[slug], slug))[:SHARED]
    rows = []
    for ago in reversed(range(count)):
        everything = sum(weeks[slug].get(ago, 0) for slug in weeks)
        calls = [weeks[slug].get(ago, 0) for slug in top]
        parts = [*calls, everything - sum(calls)]
        rows.append((_week_end(figures, ago), *(part / everything if everything else None for part in parts)))
    return Panel(
        id="shares",
        title="Share of traffic",
        columns=(
            Column(name="week to", kind="day"),
            *(Column(name=slug, kind="share") for slug in top),
            Column(name="all others", kind="share"),
        ),
        rows=rows,
        chart=Chart(kind="stack"),
    )


def _league(figures: Figures, statistics: Statistics) -> Panel:
    columns = (
        Column(name="model", kind="model"),
        Column(name="half-life", kind="days"),
        Column(name="from", kind="days"),
        Column(name="to", kind="days"),
        Column(name="verdict", kind="text"),
        Column(name="peak", kind="day"),
        Column(name="requests, 30 days"),
        Column(name="why no figure", kind="text"),
    )
    return Panel(
        id="halflife",
        title="Half-life league table",
        note="Days until demand halves after its peak, with a 90 % interval; the most called of the last 30 days first.",
        columns=columns,
        rows=[_standing(figures, one) for one in statistics.standings],
        limit=LEAGUE,
        wide=True,
    )


def _standing(figures: Figures, one: Standing) -> Sequence[object]:
    found = one.half_life
    peak = figures.statistics_since + dt.timedelta(days=found.peak_day)
    bounds = (found.low, found.high) if found.days else (None, None)
    return (one.slug, found.days, *bounds, found.verdict, peak, one.recent, found.reason)


def _turnover(turnovers: Sequence[Turnover]) -> Panel:
    longest = max((len(turnover.survival) for turnover in turnovers), default=0)
    rows = [
        (day, *(t.survival[day] if day < len(t.survival) else None for t in turnovers))
        for day in range(min(longest, 181))
    ]
    notes = [
        f"top {t.size}: {t.days:.0f} days ({_bound(t.low)} to {_bound(t.high)})"
        if t.days
        else f"top {t.size}: {t.reason}"
        for t in turnovers
    ]
    return Panel(
        id="turnover",
        title="How long the top keeps its members",
        note="Half of the set has left after… " + "; ".join(notes) if notes else "",
        columns=(Column(name="days"), *(Column(name=f"top {t.size}", kind="share") for t in turnovers)),
        rows=rows,
        chart=Chart(kind="survival"),
    )


def _bound(days: float | None) -> str:
    return f"{days:.0f}" if days else "open"


def _scored(statistics: Statistics) -> Panel:
    """Forecasts are believed as far as they were right before."""
    found = statistics.backtest
    columns = (
        Column(name="scored on", kind="text"),
        Column(name="forecasts"),
        Column(name="off by", kind="share"),
        Column(name="“as last week” is off by", kind="share"),
        Column(name="intervals held, before widening", kind="share"),
        Column(name="widened by", kind="number"),
    )
    rows = (
        []
        if found is None
        else [
            (
                "the 40 busiest models, four times 14 days",
                found.forecasts,
                found.error,
                found.naive_error,
                found.coverage,
                found.factor,
            )
        ]
    )
    return Panel(
        id="forecasts",
        title="How right the forecasts were",
        note="Sums of errors over sums of requests. Intervals are widened by the factor that would have held 90 % of days.",
        columns=columns,
        rows=rows,
        wide=True,
        empty="No model is old enough to have been forecast and scored.",
    )


def _cohorts(statistics: Statistics) -> Panel:
    curves = statistics.cohorts[-8:]
    longest = min(181, max((len(curve.median) for curve in curves), default=0))
    return Panel(
        id="cohorts",
        title="Launch cohorts: share of peak demand by age",
        note="Median over the models launched in a month, weekly means.",
        columns=(
            Column(name="age, days"),
            *(Column(name=f"{curve.cohort} ({curve.members})", kind="share") for curve in curves),
        ),
        rows=[
            (age, *(curve.median[age] if age < len(curve.median) else None for curve in curves))
            for age in range(longest)
        ],
        chart=Chart(kind="survival"),
        wide=True,
    )
