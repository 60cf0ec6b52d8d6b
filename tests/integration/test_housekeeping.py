"""What the product drops by itself: days past the retention, unless somebody still waits for one of their requests."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from registry import partitions
from registry.catalog import Digest, OrganizationName, Slug
from registry.database import Database
from router import housekeeping, ids
from router.files import FileStore
from router.housekeeping import EXPIRING, Housekeeping
from router.queue import Queue
from router.requests import Outcome, Request, RequestId, State
from router.rows import Ending, Entry

TODAY = datetime(2026, 11, 26, tzinfo=UTC)
RETENTION_DAYS = 3
OLD, NEW = TODAY - timedelta(days=5), TODAY - timedelta(days=1)


class NoLoras:
    """Nobody brought any."""

    async def keep_house(self, older_than: timedelta) -> None: ...


def keeper(db: Database, folder: Path) -> Housekeeping:
    loras: Any = NoLoras()
    return Housekeeping(db, Queue(db, "keeper"), FileStore(folder), loras, folder, RETENTION_DAYS, TODAY.date)


async def submitted(queue: Queue, at: datetime, *, ended: bool, seed: int = 0) -> RequestId:
    """One request of that day, with a webhook that is still owed."""
    request = Request(
        id=ids.request_id(at.timestamp() + seed),
        organization=OrganizationName("acme"),
        key_id="k",
        slug=Slug("acme/toys"),
        version=Digest("v"),
        input={},
        created_at=at,
        webhook_url="https://a.example",
    )
    await queue.submit(request, taken=True)
    if ended:
        entry = Entry(request=request, origin=queue.origin)
        await queue.finish(
            Ending(entry=entry, number=None, outcome=Outcome(state=State.CANCELLED, attempt=0))
        )
    return request.id


async def kept(db: Database) -> tuple[set[str], set[str], set[str]]:
    """Requests, webhooks, and the days that have a partition of requests."""
    async with db.pool.connection() as connection:
        requests = await (await connection.execute("SELECT id::text FROM requests")).fetchall()
        webhooks = await (await connection.execute("SELECT request_id::text AS id FROM webhooks")).fetchall()
        days = await (
            await connection.execute("SELECT relname FROM pg_class WHERE relname ~ '^requests_[0-9]{8}$'")
        ).fetchall()
    return {r["id"] for r in requests}, {r["id"] for r in webhooks}, {r["relname"][-8:] for r in days}


async def prepare(db: Database, day: datetime) -> None:
    async with db.pool.connection() as connection:
        await partitions.prepare(connection, EXPIRING, day.date(), days=0)


COMING = {f"{TODAY + timedelta(days=n):%Y%m%d}" for n in range(partitions.DAYS_AHEAD + 1)}


async def test_days_past_the_retention_go_and_coming_days_are_prepared(db: Database, tmp_path: Path) -> None:
    queue = Queue(db, "here")
    await prepare(db, OLD)
    owed = await submitted(queue, OLD, ended=True)
    settled = await submitted(queue, OLD, ended=True, seed=1)
    stray = await submitted(queue, OLD - timedelta(days=1), ended=True)  # of a day without a partition
    new = await submitted(queue, NEW, ended=True)
    async with db.pool.connection() as connection:
        done = "UPDATE webhooks SET next_at = NULL WHERE request_id = ANY(%s::uuid[])"
        await connection.execute(done, [[settled, stray, new]])
    assert (await kept(db))[0] == {owed, settled, stray, new}

    await asyncio.gather(*(keeper(db, tmp_path).once() for _ in range(3)))  # as gateways that start together

    assert await kept(db) == ({new}, {owed, new}, COMING)


async def test_no_day_goes_while_one_of_its_requests_waits(db: Database, tmp_path: Path) -> None:
    queue = Queue(db, "here")
    await prepare(db, OLD)
    waits = await submitted(queue, OLD, ended=False)
    await keeper(db, tmp_path).once()
    assert await kept(db) == ({waits}, set(), COMING | {f"{OLD:%Y%m%d}"})


async def test_somebody_who_reads_a_table_for_hours_holds_up_no_submit(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup, say. Its lock makes ours wait, and everybody else's waits behind ours."""
    monkeypatch.setattr(partitions, "LOCK_SECONDS", 0.3)
    await prepare(db, OLD)
    await submitted(Queue(db, "here"), OLD, ended=True)
    async with db.transaction() as reading:
        await reading.execute("SELECT FROM requests")
        async with asyncio.timeout(8):
            keeping = asyncio.create_task(keeper(db, tmp_path).try_once())
            await asyncio.sleep(0.1)
            late = await submitted(Queue(db, "there"), NEW, ended=False)
            await keeping
    assert late in (await kept(db))[0]
    await keeper(db, tmp_path).once()
    assert (await kept(db))[2] == COMING


async def test_what_is_not_to_be_kept_goes_while_days_cannot(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "LOCK_SECONDS", 0.1)
    monkeypatch.setattr(housekeeping, "EVERY_SECONDS", 0.1)
    monkeypatch.setattr(housekeeping, "FETCHABLE", timedelta(0))
    queue = Queue(db, "here")
    await prepare(db, OLD)
    await submitted(queue, OLD, ended=True)
    passing = await submitted(queue, NEW, ended=True)
    async with db.pool.connection() as connection:
        await connection.execute("INSERT INTO fleeting VALUES (%s)", [passing])
        await connection.execute("UPDATE webhooks SET next_at = NULL")
    async with db.transaction() as reading:
        await reading.execute("SELECT FROM requests")
        keeping = asyncio.create_task(keeper(db, tmp_path).for_ever())
        async with asyncio.timeout(8):
            while not await _is_erased(queue, passing):
                await asyncio.sleep(0.02)
        keeping.cancel()
        await asyncio.wait([keeping])


async def _is_erased(queue: Queue, request_id: RequestId) -> bool:
    status = await queue.status(request_id)
    return status is not None and status.outcome is not None and status.outcome.erased


async def test_a_day_whose_rows_came_before_its_partition_stays_in_the_default_one(
    db: Database, tmp_path: Path
) -> None:
    await submitted(Queue(db, "here"), TODAY, ended=False)
    await keeper(db, tmp_path).once()
    assert (await kept(db))[2] == COMING - {f"{TODAY:%Y%m%d}"}


async def test_answers_to_repeated_writes_are_forgotten_after_their_week(
    db: Database, tmp_path: Path
) -> None:
    async with db.transaction() as connection:
        await connection.execute(
            "INSERT INTO writes (organization, key, fingerprint, created_at)"
            " VALUES ('acme', 'old', 'f', now() - interval '8 days'), ('acme', 'new', 'f', now())"
        )
    await keeper(db, tmp_path).once()
    async with db.pool.connection() as connection:
        left = await (await connection.execute("SELECT key FROM writes")).fetchall()
    assert [row["key"] for row in left] == ["new"]
