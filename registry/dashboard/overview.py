"""The first page: how much was asked for, how long it took, what it earned, who moves. Reads through `figures`."""

from typing import Any

from registry.dashboard.figures import Figures, Latencies, Row
from registry.dashboard.panels import Chart, Column, Page, Panel, Tile

MOVERS = 15
MS_PER_HOUR = 3_600_000
EMPTY = {
    "spend": "Nothing was charged in these days.",
    "gpu": "No device worked in these days.",
}
FIRST = (
    "Nothing was called in this period or the one before. Run a model from its page; the command"
    " “marquee demo-data” fills in a made-up year to look at."
)


async def page(figures: Figures) -> Page:
    days = await figures.rows("days")
    before = await figures.rows("days", figures.period.before)
    latencies = await figures.latencies()
    movers = await figures.rows("variant_sums")
    moved = await figures.rows("variant_sums", figures.period.before)
    return Page(
        title="Overview",
        lead="" if days or before or figures.view.role != "operator" else FIRST,
        tiles=_tiles(days, before, latencies, await figures.latency_sums(figures.period.before)),
        panels=(
            _requests(figures, days),
            _failed(figures, days),
            _per_day(figures, days, "spend", "Spend per day, USD", Column(name="spend, USD", kind="money")),
            _per_day(figures, days, "gpu", "GPU hours per day", Column(name="GPU hours", kind="number")),
            _latency(figures, latencies, "wait", "Waiting"),
            _latency(figures, latencies, "run", "Running"),
            _movers(movers, moved),
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


def _failed(figures: Figures, days: list[Row]) -> Panel:
    found = {row["day"]: row["failed"] / row["requests"] for row in days if row["requests"]}
    return Panel(
        id="failed",
        title="Share of requests that failed, per day",
        columns=(Column(name="day", kind="day"), Column(name="failed", kind="share")),
        rows=[(day, found.get(day)) for day in figures.period.dates],
        chart=Chart(kind="lines"),
    )


def _per_day(figures: Figures, days: list[Row], panel_id: str, title: str, column: Column) -> Panel:
    found = {
        row["day"]: row["amount"] if panel_id == "spend" else row["run_ms"] / MS_PER_HOUR for row in days
    }
    return Panel(
        id=panel_id,
        title=title,
        columns=(Column(name="day", kind="day"), column),
        rows=[(day, found.get(day, 0)) for day in figures.period.dates],
        chart=Chart(kind="lines"),
        empty=EMPTY[panel_id],
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


def _movers(now: list[Row], before: list[Row]) -> Panel:
    sums = {row["slug"]: (row["requests"], row["amount"]) for row in now}
    earlier = {row["slug"]: row["requests"] for row in before}
    changes = [(slug, *sums.get(slug, (0, None)), earlier.get(slug, 0)) for slug in {**sums, **earlier}]
    top = sorted(changes, key=lambda row: (-abs(row[1] - row[3]), row[0]))[:MOVERS]
    columns = (
        Column(name="model", kind="model"),
        Column(name="requests"),
        Column(name="before"),
        Column(name="change"),
        Column(name="spend, USD", kind="money"),
    )
    rows = [(slug, calls, was, calls - was, amount) for slug, calls, amount, was in top]
    return Panel(
        id="movers",
        title="Top movers",
        note="Against the period before.",
        columns=columns,
        rows=rows,
        wide=True,
    )
