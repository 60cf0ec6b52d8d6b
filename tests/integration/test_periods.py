"""Whatever a period's ends, what months and single days add up to is what the ledger says."""

import datetime as dt
from typing import Any

import pytest

from registry import rollups, usage
from registry.dashboard.figures import Figures, Period
from registry.dashboard.views import View
from registry.database import Database
from tests.market import TODAY, ledger

OPERATOR = View(role="operator", organization="operator")
CUSTOMER = View(role="customer", organization="blue")


@pytest.fixture
async def market(db: Database) -> Database:
    async with db.transaction() as connection:
        await usage.record(connection, ledger())
    await rollups.fold(db)
    return db


async def ledger_says(db: Database, view: View, period: Period, key: str) -> dict[str, tuple[int, Any]]:
    query = (
        f"SELECT {key} AS key, count(*) AS requests, sum(amount) AS amount FROM usage_records"
        " WHERE (finished_at AT TIME ZONE 'UTC')::date BETWEEN %s AND %s AND (%s OR organization = %s) GROUP BY 1"
    )
    bounds = [period.since, period.until, view is OPERATOR, view.organization]
    async with db.pool.connection() as connection:
        rows = await (await connection.execute(query.encode(), bounds)).fetchall()
    return {row["key"]: (row["requests"], row["amount"]) for row in rows}


@pytest.mark.parametrize("view", [OPERATOR, CUSTOMER], ids=["operator", "customer"])
async def test_every_period_adds_up(market: Database, view: View) -> None:
    seen: set[tuple[bool, bool, bool]] = set()
    for back in range(0, 40, 3):
        for days in (1, 10, 25, 47, 90):
            period = Period(until=TODAY.date() - dt.timedelta(days=back), days=days)
            seen.add((bool(period.months), bool(period.beyond), len(period.edges) > len(period.beyond)))
            figures = Figures(market, view, period)
            for name, key in (("variant_sums", "slug"), ("customers", "organization")):
                told = {row[key]: (row["requests"], row["amount"]) for row in await figures.rows(name)}
                assert told == await ledger_says(market, view, period, key), (name, period)
            names = list(await ledger_says(market, view, period, "organization"))
            models = await ledger_says(market, view, period, "organization || '|' || slug")
            used = {
                row["organization"]: row["models"]
                for row in await figures.rows("favourites", organizations=names)
            }
            assert used == {name: sum(key.startswith(f"{name}|") for key in models) for name in names}
    assert {(True, True, True), (True, True, False), (False, False, True)} <= seen
