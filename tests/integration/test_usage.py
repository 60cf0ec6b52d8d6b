"""One usage record per request, in its day's partition; a price is a multiple of what was made."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from registry import partitions, rollups, usage
from registry.catalog import Digest, OrganizationName, Price, Slug
from registry.database import Database
from registry.usage import Charge, Quantities, UsageRecord
from tests import admin

NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)


def _record(at: datetime, seed: int = 1, **facts: object) -> UsageRecord:
    fields = {
        "request_id": str(partitions.uuid7(int(at.timestamp() * 1000), seed)),
        "organization": OrganizationName("acme"),
        "key_id": "k",
        "slug": Slug("marquee/shapes"),
        "version": Digest("sha256:0"),
        "pool": "local",
        "door": "fal",
        "state": "succeeded",
        "attempt": 1,
        "created_at": at,
        "finished_at": at,
    }
    return UsageRecord(**(fields | facts))


async def _count(db: Database, table: str) -> int:
    async with db.pool.connection() as connection:
        row = await (await connection.execute(f"SELECT count(*) AS n FROM {table}")).fetchone()
    return row["n"]


async def test_gateways_that_start_at_once_make_each_partition_once(db: Database) -> None:
    async def prepare() -> int:
        async with db.pool.connection() as connection:
            return await partitions.prepare(connection, [usage.TABLE], NOW.date(), days=3)

    assert sum(await asyncio.gather(*(prepare() for _ in range(4)))) == 4


async def test_a_request_is_billed_once_in_its_days_partition(db: Database) -> None:
    async with db.transaction() as connection:
        assert await partitions.prepare(connection, [usage.TABLE], NOW.date(), days=1) == 2
        assert await partitions.prepare(connection, [usage.TABLE], NOW.date(), days=1) == 0
    for _ in range(2):
        async with db.transaction() as connection:
            await usage.record(connection, [_record(NOW), _record(NOW + timedelta(days=30))])
    assert await _count(db, "usage_records") == 2
    assert await _count(db, "usage_records_20261123") == 1
    assert await _count(db, "usage_records_default") == 1, "a day without a partition loses nothing"


async def test_old_partitions_are_dropped_by_day(db: Database) -> None:
    async with db.transaction() as connection:
        await partitions.prepare(connection, [usage.TABLE], date(2026, 1, 1), days=2)
        dropped = await partitions.drop_before(connection, usage.TABLE, date(2026, 1, 3))
    assert dropped == ("usage_records_20260101", "usage_records_20260102")


async def test_a_lab_reads_how_often_its_own_variants_were_called(db: Database, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    calls = [
        ("lab/a", "succeeded", 0),
        ("lab/a", "succeeded", 1),
        ("lab/a", "failed", 0),
        ("labour/b", "succeeded", 0),
    ]
    calls += [("lab/a", "succeeded", 40)]
    records = [
        _record(now - timedelta(days=days), seed, slug=Slug(slug), state=state)
        for seed, (slug, state, days) in enumerate(calls)
    ]
    async with db.transaction() as connection:
        await usage.record(connection, records)
    await rollups.fold(db)
    async with admin.opened(db, tmp_path) as office:
        lab = await office.lab("lab", "usage:read")
        assert await lab.get("/usage?days=30") == {
            "days": 30,
            "variants": [
                {"slug": "lab/a", "state": "failed", "calls": 1},
                {"slug": "lab/a", "state": "succeeded", "calls": 2},
            ],
        }


@pytest.mark.parametrize(
    ("unit", "made", "units"),
    [
        ("image", Quantities(images=3), "3"),
        ("megapixel", Quantities(megapixels=1.5), "1.5"),
        ("second", Quantities(video_seconds=4.0), "4.0"),
        ("video", Quantities(video_seconds=4.0), "1"),
        ("gpu_second", Quantities(gpu_seconds=0.1), "0.1"),
        ("request", Quantities(images=2, requests=1), "1"),
        ("request", Quantities(), "0"),
    ],
)
def test_charges_are_exact_multiples(unit: str, made: Quantities, units: str) -> None:
    price = Price(unit=unit, amount="0.03")
    expected = Charge(
        unit=unit, units=Decimal(units), amount=Decimal(units) * Decimal("0.03"), currency="USD"
    )
    assert usage.charge(price, made) == expected


def test_what_has_no_price_costs_nothing() -> None:
    assert usage.charge(None, Quantities(images=3)) == Charge()
