"""One model: its demand with fitted decay and forecast, versions, adapters, callers, where its seconds go, its windows."""

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from registry import decay, forecasts, halflife
from registry.dashboard.figures import STATISTICS_DAYS, Figures, Row
from registry.dashboard.panels import Chart, Column, Page, Panel, Tile
from registry.dashboard.statistics import Statistics
from registry.decay import Array
from registry.halflife import HalfLife


async def page(figures: Figures, statistics: Statistics, slug: str) -> Page | None:
    """None where the view holds nothing of this name."""
    demand = next(iter(await figures.demand(slug)), None)
    days = await figures.rows("one_variant", slug=slug)
    releases = await figures.rows("releases", slug=slug) if figures.view.role != "customer" else []
    if demand is None and not days and not releases:
        return None
    series = np.zeros(STATISTICS_DAYS) if demand is None else demand.requests
    found = halflife.demand(series, first_weekday=figures.first_weekday)
    factor = statistics.backtest.factor if statistics.backtest else 1.0
    panels = [
        _demand(figures, series, found, factor),
        _split(days),
        _versions(figures, await figures.rows("versions", slug=slug)),
        _ranking("adapters", "LoRAs it was called with", "LoRA", await figures.rows("adapters", slug=slug)),
    ]
    if figures.view.role == "operator":
        panels.append(_callers(await figures.rows("callers", slug=slug)))
    if releases:
        panels.append(windows_panel(releases, with_model=False))
    return Page(title=slug, lead=sentence(found), tiles=_tiles(days, found), panels=tuple(panels))


def sentence(found: HalfLife) -> str:
    """The half-life in words, never more certain than the data."""
    if found.days is None:
        return f"{found.verdict.capitalize()}: {found.reason}."
    high = f"{found.high:.0f}" if found.high else "open"
    return f"Its demand halves every {found.days:.0f} days (90 % interval {found.low:.0f} to {high})."


def _tiles(days: Sequence[Row], found: HalfLife) -> tuple[Tile, ...]:
    requests = sum(row["requests"] for row in days)
    failed = sum(row["failed"] for row in days) / requests if requests else None
    return (
        Tile(name="Requests", value=requests),
        Tile(name="Failed", value=failed, kind="share"),
        Tile(name="Half-life", value=found.days, kind="days"),
        Tile(name="Spend, USD", value=sum(row["amount"] for row in days), kind="money"),
    )


def _demand(figures: Figures, series: Array, found: HalfLife, factor: float) -> Panel:
    """The last year, the fit since its peak, and two weeks ahead with their interval."""
    ahead = forecasts.forecast(series, first_weekday=figures.first_weekday, factor=factor)
    trend = _trend(series, found, figures.first_weekday)
    begun = int(np.argmax(series > 0)) if series.any() else 0
    start = max(begun, STATISTICS_DAYS - figures.period.days, 0)
    rows: list[tuple[object, ...]] = [
        (figures.statistics_since + dt.timedelta(days=day), float(series[day]), trend[day], None, None, None)
        for day in range(start, STATISTICS_DAYS)
    ]
    if ahead:
        rows += [
            (figures.statistics_since + dt.timedelta(days=STATISTICS_DAYS + step), None, None, *values)
            for step, values in enumerate(zip(ahead.expected, ahead.low, ahead.high, strict=True))
        ]
    return Panel(
        id="demand",
        title="Demand, fitted decay and the next two weeks",
        columns=(
            Column(name="day", kind="day"),
            Column(name="requests"),
            Column(name="fitted", kind="number"),
            Column(name="forecast", kind="number"),
            Column(name="low", kind="number"),
            Column(name="high", kind="number"),
        ),
        rows=rows,
        chart=Chart(kind="band", band=("low", "high"), dashed=("fitted", "forecast")),
        empty="No request before today in these days.",
        wide=True,
    )


def _trend(series: Array, found: HalfLife, first_weekday: int) -> list[float | None]:
    trend: list[float | None] = [None] * len(series)
    if found.verdict == "not enough data":
        return trend
    tail = series[found.peak_day :]
    fit = decay.fit(tail, first_weekday=(first_weekday + found.peak_day) % decay.WEEK_DAYS)
    trend[found.peak_day :] = fit.trend(np.arange(len(tail), dtype=np.float64)).tolist()
    return trend


def _split(days: Sequence[Row]) -> Panel:
    rows = [
        (
            row["day"],
            *(row[name] / 1000 / max(row["requests"], 1) for name in ("wait_ms", "load_ms", "run_ms")),
        )
        for row in days
    ]
    return Panel(
        id="latency",
        title="Where a request's seconds go",
        note="Mean per request: waiting for a host, waiting for weights, running.",
        columns=(
            Column(name="day", kind="day"),
            Column(name="queue", kind="seconds"),
            Column(name="load", kind="seconds"),
            Column(name="run", kind="seconds"),
        ),
        rows=rows,
        chart=Chart(kind="stack"),
    )


def _versions(figures: Figures, found: Sequence[Row]) -> Panel:
    """A version by its number where the catalogue knows it. Whole weeks: the period's first days would look like a rise."""
    weeks = max(1, figures.period.days // 7)
    by_week: dict[int, dict[str, int]] = defaultdict(dict)
    for row in found:
        if row["weeks_ago"] < weeks:
            by_week[row["weeks_ago"]][row["version"]] = row["requests"]
    numbers = {row["version"]: row["number"] for row in found}
    versions = sorted(numbers, key=lambda version: (numbers[version] or 0, version))
    names = [f"v{numbers[one]}" if numbers[one] else _short(one) for one in versions]
    rows = [
        (
            figures.period.until - dt.timedelta(days=7 * ago),
            *(by_week[ago].get(version, 0) for version in versions),
        )
        for ago in sorted(by_week, reverse=True)
    ]
    return Panel(
        id="versions",
        title="Requests by version",
        columns=(Column(name="week to", kind="day"), *(Column(name=name) for name in names)),
        rows=rows,
        chart=Chart(kind="stack"),
    )


def _short(digest: str) -> str:
    """A digest as far as people compare them; a name stays."""
    return digest.removeprefix("sha256:")[:12] if digest.startswith("sha256:") else digest


def _ranking(panel_id: str, title: str, name: str, found: Sequence[Row]) -> Panel:
    columns = (Column(name=name, kind="text"), Column(name="requests"))
    rows = [(_short(row["adapter"]), row["requests"]) for row in found]
    return Panel(id=panel_id, title=title, columns=columns, rows=rows, empty="It was called without LoRAs.")


def _callers(found: Sequence[Row]) -> Panel:
    columns = (
        Column(name="customer", kind="text"),
        Column(name="requests"),
        Column(name="spend, USD", kind="money"),
    )
    return Panel(
        id="callers", title="Customers", columns=columns, rows=[tuple(row.values()) for row in found]
    )


PHASES = ("preview_from", "exclusive_from", "public_from", "sunset_from", "retired_from")


def windows_panel(releases: Sequence[Row], *, with_model: bool) -> Panel:
    """Launch windows as a table of times; the newest release first."""
    first = (Column(name="model", kind="model"),) if with_model else ()
    rows = [
        (
            *((row["variant"],) if with_model else ()),
            ", ".join(f"v{share['version']} {share['percent']} %" for share in row["shares"]),
            *(_time(row["window"].get(phase)) for phase in PHASES),
            _time(row["window"].get("prewarm_from")),
            row["window"].get("prewarm_replicas"),
            "withdrawn" if row["withdrawn_at"] else "",
        )
        for row in releases
    ]
    phases = tuple(Column(name=phase.removesuffix("_from"), kind="time") for phase in PHASES)
    return Panel(
        id="windows",
        title="Launch windows",
        note="Times in UTC; the newest release first.",
        columns=(
            *first,
            Column(name="versions", kind="text"),
            *phases,
            Column(name="prewarm", kind="time"),
            Column(name="replicas"),
            Column(name="note", kind="text"),
        ),
        rows=rows,
        wide=True,
        empty="No launch is planned.",
    )


def _time(text: str | None) -> dt.datetime | None:
    """In UTC, whatever zone its lab wrote."""
    return dt.datetime.fromisoformat(text).astimezone(dt.UTC) if text else None
