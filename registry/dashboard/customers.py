"""Customers: what each uses and spends, how concentrated, and whether they come back. Reads through `figures`."""

from collections.abc import Sequence

from registry import cohorts
from registry.dashboard.figures import Figures, Row
from registry.dashboard.panels import Column, Page, Panel, Tile

SHOWN = 100
MONTHS = 13


async def page(figures: Figures) -> Page:
    found = await figures.rows("customers")
    largest = await _favourites(figures, found[:SHOWN])
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


async def _favourites(figures: Figures, largest: Sequence[Row]) -> list[Row]:
    """The customers shown, with what they use most: only theirs is read, for it takes a row of each model."""
    names = [row["organization"] for row in largest]
    used = {row["organization"]: row for row in await figures.rows("favourites", organizations=names)}
    return [{**row, **used[row["organization"]]} for row in largest]


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
