"""Sums never lose or double a request: late rows, open transactions, concurrent folds, a rebuild to the row."""

import asyncio
import random
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest

from registry import partitions, rollups, usage
from registry.catalog import Digest, OrganizationName, Slug
from registry.database import Database
from registry.usage import Charge, Quantities, UsageRecord

NOW = datetime(2026, 11, 23, 10, 30, tzinfo=UTC)


def ledger(seed: int, count: int, *, days: int = 3) -> list[UsageRecord]:
    rng = random.Random(seed)
    records = []
    for number in range(count):
        at = NOW - timedelta(seconds=rng.uniform(0, days * 86400))
        adapters = tuple(
            Digest(name) for name in rng.sample(["sha256:a", "sha256:b"], rng.choice([0, 0, 1, 2]))
        )
        records.append(
            UsageRecord(
                request_id=str(partitions.uuid7(int(at.timestamp() * 1000), seed << 40 | number)),
                organization=OrganizationName(rng.choice(["acme", "blue"])),
                key_id="k",
                slug=Slug(rng.choice(["lab/a", "lab/b", "other/c"])),
                version=Digest("sha256:v"),
                adapters=adapters,
                pool="local",
                door="fal",
                state=rng.choice(["succeeded"] * 8 + ["failed", "cancelled"]),
                attempt=1,
                created_at=at,
                finished_at=at,
                wait_seconds=rng.expovariate(1),
                load_seconds=rng.choice([0, rng.expovariate(0.2)]),
                run_seconds=rng.lognormvariate(1, 1),
                quantities=Quantities(images=1, megapixels=0.262144),
                charge=Charge(unit="image", units=Decimal(1), amount=Decimal("0.013"), currency="USD"),
            )
        )
    return records


async def write(db: Database, records: list[UsageRecord]) -> None:
    async with db.transaction() as connection:
        await usage.record(connection, records)


async def value(db: Database, query: str) -> object:
    async with db.pool.connection() as connection:
        row = await (await connection.execute(query)).fetchone()
    return next(iter(row.values()))


async def test_piece_by_piece_is_the_same_as_all_at_once(db: Database) -> None:
    for seed in range(4):  # each piece spreads over the same days: its rows are late for the sums made before
        await write(db, ledger(seed, 60))
        assert await rollups.fold(db) == 60
    assert await rollups.fold(db) == 0
    assert await value(db, "SELECT sum(requests) FROM usage_hours") == 240
    assert await value(db, "SELECT sum(requests) FROM scope_days WHERE scope = ''") == 240
    assert await rollups.differences(db) == dict.fromkeys(rollups.TABLES, 0)


async def test_sums_equal_the_ledger(db: Database) -> None:
    await write(db, ledger(7, 200))
    await rollups.fold(db)
    for kind in ("wait", "load", "run"):
        in_ledger = await value(db, f"SELECT sum(round({kind}_seconds * 1000))::bigint FROM usage_records")
        assert await value(db, f"SELECT sum({kind}_ms)::bigint FROM usage_days") == in_ledger
    amount = await value(db, "SELECT sum(amount) FROM usage_records WHERE organization = 'acme'")
    assert await value(db, "SELECT sum(amount) FROM scope_days WHERE scope = 'o:acme'") == amount


async def test_a_transaction_still_open_is_neither_counted_nor_forgotten(db: Database) -> None:
    async with db.transaction() as slow:
        await usage.record(slow, ledger(1, 10))
        await write(db, ledger(2, 10))  # began later, ends earlier
        assert await rollups.fold(db) == 0
    assert await rollups.fold(db) == 20


async def test_what_the_former_release_folded_past_the_newest_table_comes_in(db: Database) -> None:
    await write(db, ledger(9, 40))
    await rollups.fold(db)
    async with db.transaction() as connection:
        await connection.execute("UPDATE version_days SET requests = requests - 1")
        await connection.execute("DELETE FROM adapter_months")
        await connection.execute(
            "UPDATE rollup_state SET recent_below = recent_below + 1"
        )  # its note of a fold
    assert await rollups.fold_recent(db) == 0  # leaves the mending to the whole fold
    assert await value(db, "SELECT count(*) FROM adapter_months") == 0
    await rollups.fold(db)
    assert await rollups.differences(db) == dict.fromkeys(rollups.TABLES, 0)


async def test_a_model_s_sums_equal_the_ledger(db: Database) -> None:
    """By month and LoRA, by day and version, by month: what a model's page reads."""
    await write(db, ledger(11, 120, days=40))
    await rollups.fold(db)
    for table, expected in {
        "adapter_months": "SELECT slug, date_trunc('month', finished_at, 'UTC')::date, unnest(adapters), count(*)"
        " FROM usage_records GROUP BY 1, 2, 3",
        "version_days": "SELECT slug, finished_at::date, version, count(*) FROM usage_records GROUP BY 1, 2, 3",
        "variant_months": "SELECT date_trunc('month', finished_at, 'UTC')::date, slug, count(*), sum(amount)"
        " FROM usage_records GROUP BY 1, 2",
    }.items():
        wrong = f"(TABLE {table} EXCEPT ({expected})) UNION ALL (({expected}) EXCEPT TABLE {table})"
        assert await value(db, f"SELECT count(*) FROM ({wrong}) AS w") == 0, table
        assert await value(db, f"SELECT count(*) > 0 FROM {table}")


async def test_folding_twice_at_once_counts_once(db: Database) -> None:
    await write(db, ledger(3, 50))
    assert sorted(await asyncio.gather(rollups.fold(db), rollups.fold(db))) == [0, 50]


async def test_rows_from_before_the_rollups_are_taken_up(db: Database) -> None:
    await write(db, ledger(4, 10))
    async with db.transaction() as connection:
        await connection.execute("UPDATE usage_records SET txid = NULL")
    assert await rollups.fold(db) == 10
    assert await rollups.fold(db) == 0


def shifted(records: list[UsageRecord], days: float) -> list[UsageRecord]:
    """The same rows as if their requests had come `days` ago."""
    at = datetime.now(UTC) - timedelta(days=days)
    ids = (str(partitions.uuid7(int(at.timestamp() * 1000), number)) for number in range(len(records)))
    return [
        msgspec.structs.replace(record, request_id=new, created_at=at, finished_at=at)
        for record, new in zip(records, ids, strict=True)
    ]


async def test_the_quick_fold_takes_recent_rows_and_leaves_older_ones_to_the_whole_one(db: Database) -> None:
    assert await rollups.fold_recent(db) == 0  # the first of all is a whole one
    await write(db, shifted(ledger(6, 10), days=0.5))
    await write(db, shifted(ledger(7, 20), days=5))
    assert [await rollups.fold_recent(db), await rollups.fold_recent(db)] == [10, 0]
    await write(db, shifted(ledger(8, 5), days=0.2))
    assert [await rollups.fold(db), await rollups.fold(db), await rollups.fold_recent(db)] == [25, 0, 0]
    assert await rollups.differences(db) == dict.fromkeys(rollups.TABLES, 0)


async def test_the_quick_fold_is_planned_over_few_partitions(db: Database) -> None:
    today = datetime.now(UTC).date()
    async with db.pool.connection() as connection:
        await partitions.prepare(connection, ["usage_records"], today - timedelta(days=40), 41)
    await rollups.fold(db)
    async with db.transaction() as connection:
        bounds = await rollups._bounds(connection)
        query = rollups.QUERIES["fold"].replace("{source}", "usage_records").replace("{rows}", rollups.RECENT)
        plan = await connection.execute(f"EXPLAIN {query}".encode(), bounds, prepare=False)
        text = "\n".join(row["QUERY PLAN"] for row in await plan.fetchall())
    assert len(set(re.findall(r"usage_records_\w*\d{8}", text))) <= 5


async def test_a_restored_copy_starts_over(db: Database) -> None:
    await write(db, ledger(5, 10))
    await rollups.fold(db)
    async with db.transaction() as connection:
        await connection.execute(
            "UPDATE rollup_state SET folded_below = folded_below + 1000000, recent_below = recent_below + 1000000"
        )
    assert await rollups.fold(db) == 10
    assert await value(db, "SELECT sum(requests)::int FROM scope_days WHERE scope = ''") == 10


@pytest.mark.parametrize("share", [0.5, 0.95])
async def test_quantiles_are_right_to_within_a_tenth(db: Database, share: float) -> None:
    await write(db, ledger(6, 400))
    await rollups.fold(db)
    async with db.pool.connection() as connection:
        rows = await (
            await connection.execute(
                "SELECT bucket, sum(requests)::int AS n FROM latency_days WHERE scope = '' AND kind = 'run' GROUP BY 1"
            )
        ).fetchall()
    exact = await value(
        db,
        f"SELECT percentile_cont({share}) WITHIN GROUP (ORDER BY run_seconds) FROM usage_records"
        " WHERE state = 'succeeded'",
    )
    assert rollups.quantile([(row["bucket"], row["n"]) for row in rows], share) == pytest.approx(
        exact, rel=0.1
    )


def test_nothing_has_no_quantile() -> None:
    assert rollups.quantile([], 0.5) is None
