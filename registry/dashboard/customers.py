"""Customers: what each uses and spends, how concentrated, and whether they come back. Reads through `figures`."""

import datetime as dt
from collections.abc import Mapping, Sequence

from registry import cohorts
from registry.dashboard.figures import Figures, Period, Row
from registry.dashboard.panels import Column, Page, Panel, Tile

SHOWN = 100
MONTHS = 13


async def page(figures: Figures) -> Page:
    whole = whole_months(figures.period)
    found = await figures.rows("customers", figures.period, **whole)
    largest = await _favourites(figures, whole, found[:SHOWN])
    active = await figures.rows("active_months")
    requests = sum(row["requests"] for row in found)
    shares = [row["requests"] / requests for row in found] if requests else []
    tiles = (
        Tile(name="Customers", value=len(found)),
        Tile(name="Share of the ten largest", value=sum(shares[:10]) if shares else None, kind="share"),
        Tile(name="Models used by the hundred largest, mean", value=_mean_models(largest), kind="number"),
        Tile(name="Spend, USD", value=sum(row["amount"] for row in found), kind="money"),
    )
    return Page(
        title="Customers",
        tiles=tiles if len(found) > 1 else tiles[-1:],
        panels=(_table(largest, len(found)), _retention(active)),
    )


async def _favourites(figures: Figures, whole: Mapping[str, dt.date], largest: Sequence[Row]) -> list[Row]:
    """The customers shown, with what they use most: only theirs is read, for it takes a row of each model."""
    names = [row["organization"] for row in largest]
    more = {"organizations": names, "months": _months(whole["first_month"], whole["after_months"])}
    rows = await figures.rows("favourites", figures.period, **whole, **more)
    used = {row["organization"]: row for row in rows}
    return [{**row, **used[row["organization"]]} for row in largest]


def _months(first: dt.date, after: dt.date) -> list[dt.date]:
    """The first day of each month from one to before another."""
    count = (after.year - first.year) * 12 + after.month - first.month
    numbers = range(first.month - 1, first.month - 1 + count)
    return [dt.date(first.year + number // 12, number % 12 + 1, 1) for number in numbers]


def whole_months(period: Period) -> dict[str, dt.date]:
    """The months that lie in the period whole: from the first of `first_month` to before `after_months`.

    Where there is none both are the day after the period.
    """
    end = period.until + dt.timedelta(days=1)
    after = end.replace(day=1)
    first = period.since
    while first.day != 1:
        first += dt.timedelta(days=1)
    if first >= after:
        first = after = end
    return {"first_month": first, "after_months": after}


def _mean_models(found: Sequence[Row]) -> float | None:
    return sum(row["models"] for row in found) / len(found) if found else None


def _table(largest: Sequence[Row], customers: int) -> Panel:
    columns = (
        Column(name="customer", kind="text"),
        Column(name="requests"),
        Column(name="spend, USD", kind="money"),
        Column(name="models used"),
        Column(name="share of its favourite", kind="share"),
        Column(name="favourite", kind="model"),
    )
    rows = [
        (
            row["organization"],
            row["requests"],
            row["amount"],
            row["models"],
            row["top_requests"] / row["requests"],
            row["top_model"],
        )
        for row in largest
    ]
    note = f"The {SHOWN} largest of {customers}." if customers > SHOWN else ""
    return Panel(id="customers", title="Usage by customer", columns=columns, rows=rows, note=note, wide=True)


def _retention(active: Sequence[Row]) -> Panel:
    months = {row["organization"]: list(row["months"]) for row in active}
    kept = cohorts.retention(months)
    sizes = {first: sum(min(found) == first for found in months.values()) for first in kept}
    longest = min(MONTHS, max((len(shares) for shares in kept.values()), default=0))
    rows = [
        (f"{first // 12}-{first % 12 + 1:02} ({sizes[first]})", *[*shares, *[None] * longest][1:longest])
        for first, shares in kept.items()
    ]
    return Panel(
        id="retention",
        title="Who came back",
        note="By month of the first call (and how many made it): the share that called again so many months later.",
        columns=(
            Column(name="first call", kind="text"),
            *(Column(name=f"+{n}", kind="percent") for n in range(1, longest)),
        ),
        rows=rows,
        heat=True,
        wide=True,
    )
