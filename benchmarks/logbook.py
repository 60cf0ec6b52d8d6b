"""`GET /v1/requests` among a million requests of thirty days: each kind of page, against reading one request by its id.

   python -m benchmarks logbook

A quarter of the requests is one customer's, a tenth of a percent failed, and two customers have a hundred each. The
database is made in a temporary folder and removed.
"""

import asyncio
import datetime as dt
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from registry import partitions, postgres
from registry.catalog import Caller, OrganizationName
from registry.database import Database, migrate
from router import logbook
from router.logbook import Logbook
from router.queue import Queue

REQUESTS = 1_000_000
DAYS = 30
RUNS = 9
LIMIT_MS = 50.0
NOW = dt.datetime.now(dt.UTC)
FILL = """
INSERT INTO requests (id, organization, key_id, slug, version, adapters, input, pool, priority, door, origin, state,
    created_at, started_at, finished_at, outcome)
SELECT uuidv7(at - clock_timestamp()),
    CASE WHEN n %% 4 = 0 THEN 'big' WHEN n %% 10000 = 1 THEN 'small' WHEN n %% 10000 = 3 THEN 'other' ELSE 'c' || n %% 997 END,
    'k', 'lab/m' || (n * 7919) %% 400, 'sha256:v', '[]', json_build_object('prompt', repeat('a red circle ', 20)), 'local',
    'normal', 'fal', 'o', CASE WHEN n %% 1000 = 0 THEN 'failed' ELSE 'succeeded' END, at, at, at,
    json_build_object('state', 'succeeded', 'files', json_build_array(json_build_object('id', repeat('x', 32),
        'content_type', 'image/png', 'size_bytes', 500000, 'sha256', repeat('0', 64))))
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n,
    LATERAL (SELECT %(now)s::timestamptz - n * (interval '1 day' * %(days)s / %(count)s) AS at) AS moment
"""
LEDGER = """
INSERT INTO usage_records (request_id, organization, key_id, slug, version, pool, door, state, attempt, created_at,
    finished_at, wait_seconds, load_seconds, run_seconds, unit, units, amount, currency)
SELECT id, organization, key_id, slug, version, pool, door, state, 1, created_at, finished_at, 1, 0, 3, 'image', 1, 0.03, 'USD'
FROM requests
"""


async def fill(db: Database) -> None:
    first_day = NOW.date() - dt.timedelta(days=DAYS)
    async with db.pool.connection() as connection:
        await partitions.prepare(connection, ["requests", "usage_records"], first_day, DAYS + 1)
        for first in range(1, REQUESTS, 100_000):
            numbers = {"first": first, "last": first + 99_999, "now": NOW, "days": DAYS, "count": REQUESTS}
            await connection.execute(FILL, numbers)
        await connection.execute(LEDGER)
        await connection.execute("VACUUM ANALYZE requests, usage_records")


def caller(organization: str, scope: str = "run") -> Caller:
    return Caller(organization=OrganizationName(organization), key_id="k", scopes=frozenset({scope}))  # type: ignore[arg-type]


OPERATOR = caller("operator", "operate")
PAGES = (
    ("newest 50 of the big customer", caller("big"), {}),
    ("the same, 500", caller("big"), {"limit": "500"}),
    ("newest 50 of a small customer", caller("small"), {}),
    ("failed ones of the big customer", caller("big"), {"status": "failed"}),
    ("waiting ones, of which there are none", caller("big"), {"status": "queued,running"}),
    ("one variant of the big customer", caller("big"), {"slug": "lab/m80"}),
    ("two hours of two weeks ago", caller("big"), {
        "since": f"{NOW - dt.timedelta(days=14):%Y-%m-%dT%H}", "until": f"{NOW - dt.timedelta(days=14, hours=-2):%Y-%m-%dT%H}",
    }),
    ("everybody's newest 50", OPERATOR, {}),
    ("everybody's failed ones", OPERATOR, {"status": "failed"}),
    ("of a stranger", caller("nobody"), {}),
)  # fmt: skip


async def measure(dsn: str) -> None:
    async with Database.open(dsn, connections=2) as db:
        await fill(db)
        book, queue = Logbook(db=db, catalogue=None), Queue(db, "bench")
        newest = (await book.page(logbook.wishes(OPERATOR, {"limit": "1"}))).requests[0]
        one = await median(lambda: queue.status(newest.id))
        print(f"   one request by its id {one:6.1f} ms")
        for title, who, given in PAGES:
            wishes = logbook.wishes(who, given)
            page = await book.page(wishes)
            took = await median(lambda wishes=wishes: book.page(wishes))
            verdict = "" if took < LIMIT_MS else "   OVER"
            more = "and on" if page.next_cursor else "the end"
            print(
                f"   {title:38} {len(page.requests):4} {more:8} {took:6.1f} ms {took / one:6.1f} x{verdict}"
            )


async def median(make) -> float:
    runs = []
    for _ in range(RUNS):
        began = time.perf_counter()
        await make()
        runs.append((time.perf_counter() - began) * 1000)
    return statistics.median(runs)


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="marquee-logbook-"))
    try:
        dsn = postgres.ensure(folder, durable=False)
        migrate(dsn)
        print(f"   {REQUESTS:,} requests of {DAYS} days, median of {RUNS}, limit {LIMIT_MS:.0f} ms")
        asyncio.run(measure(dsn))
    finally:
        postgres.stop(folder)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
