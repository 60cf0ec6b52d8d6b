"""The first page: how much was asked for, how long it took, what it earned, who moves. Reads through `figures`."""

from typing import Any

from registry.dashboard.figures import Figures, Latencies, Row
from registry.dashboard.panels import Chart, Column, Page, Panel, Tile

MOVERS = 15


async def page(figures: Figures) -> Page:
    days = await figures.rows("days")
    before = await figures.rows("days", figures.period.before)
    latencies = await figures.latencies()
    middle = figures.period.before.until
    both = figures.period.before.since
    movers = await figures.rows("movers", None, since=both, middle=middle)
    return Page(
        title="Overview",
        tiles=_tiles(days, before, latencies, await figures.latencies(figures.period.before)),
        panels=(
            _requests(figures, days),
            _money(figures, days),
            _latency(figures, latencies, "wait", "Waiting"),
            _latency(figures, latencies, "run", "Running"),
            _movers(movers),
        ),
    )


def _sum(rows: list[Row], name: str) -> Any:
    return sum(row[name] for row in rows)


def _tiles(days: list[Row], before: list[Row], now: Latencies, then: Latencies) -> tuple[Tile, ...]:
    requests, earlier = _sum(days, "requests"), _sum(before, "requests")
    errors = _sum(days, "failed") / requests if requests else None
    errors_before = _sum(before, "failed") / earlier if earlier else None
    seconds = [
        Tile(
            name=f"{label} {word}",
            value=now.quantile(kind, share),
            before=then.quantile(kind, share),
            kind="seconds",
            good="down",
        )
        for kind, word in (("wait", "wait"), ("run", "run"))
        for share, label in ((0.5, "p50"), (0.95, "p95"))
    ]
    return (
        Tile(name="Requests", value=requests, before=earlier, good="up"),
        Tile(name="Failed", value=errors, before=errors_before, kind="share", good="down"),
        *seconds,
        Tile(
            name="Spend, USD",
            value=_sum(days, "amount"),
            before=_sum(before, "amount"),
            kind="money",
            good="up",
        ),
    )


def _requests(figures: Figures, days: list[Row]) -> Panel:
    found = {row["day"]: row for row in days}
    rows = [
        (day, found[day]["succeeded"], found[day]["failed"]) if day in found else (day, 0, 0)
        for day in figures.period.dates
    ]
    return Panel(
        id="requests",
        title="Requests per day",
        columns=(Column(name="day", kind="day"), Column(name="succeeded"), Column(name="failed")),
        rows=rows,
        chart=Chart(kind="stack"),
    )


def _money(figures: Figures, days: list[Row]) -> Panel:
    found = {row["day"]: row for row in days}
    rows = [
        (day, found[day]["amount"], found[day]["run_ms"] / 3_600_000) if day in found else (day, 0, 0)
        for day in figures.period.dates
    ]
    columns = (
        Column(name="day", kind="day"),
        Column(name="spend, USD", kind="money"),
        Column(name="GPU hours", kind="number"),
    )
    return Panel(
        id="spend", title="Spend and GPU hours per day", columns=columns, rows=rows, chart=Chart(kind="lines")
    )


def _latency(figures: Figures, latencies: Latencies, kind: str, title: str) -> Panel:
    rows = [
        (day, latencies.quantile(kind, 0.5, day), latencies.quantile(kind, 0.95, day))
        for day in figures.period.dates
    ]
    columns = (
        Column(name="day", kind="day"),
        Column(name="p50", kind="seconds"),
        Column(name="p95", kind="seconds"),
    )
    return Panel(
        id=kind,
        title=f"{title}, seconds",
        note="Of requests that succeeded; read from buckets, right to within a tenth.",
        columns=columns,
        rows=rows,
        chart=Chart(kind="lines"),
    )


def _movers(movers: list[Row]) -> Panel:
    changes = [(row["slug"], row["requests"] or 0, row["before"] or 0, row["amount"]) for row in movers]
    top = sorted(changes, key=lambda row: -abs(row[1] - row[2]))[:MOVERS]
    columns = (
        Column(name="model", kind="model"),
        Column(name="requests"),
        Column(name="before"),
        Column(name="change"),
        Column(name="spend, USD", kind="money"),
    )
    rows = [(slug, now, before, now - before, amount) for slug, now, before, amount in top]
    return Panel(
        id="movers",
        title="Top movers",
        note="Against the period before.",
        columns=columns,
        rows=rows,
        wide=True,
    )
