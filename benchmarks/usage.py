"""The rollups and the dashboard's queries over a generated year: rates of folding, and each page against 200 ms.

   python -m benchmarks usage
   python -m benchmarks.usage --rows 100000000 --home /big/disk
   python -m benchmarks.usage --rows 100000000 --ledger-days 150          # on a smaller disk: older ledger days are dropped
   python -m benchmarks.usage --rows 100000000 --home /big/disk --keep    # and again: measures what lies there

The market is `marquee demo-data`'s, with a thousand customers, 14 models a month for the hundred busiest; Postgres writes the rows
itself, a day a transaction, and each day is folded while the next is written. Limits in the same run: folding against
reading the same rows once. Pages read sums only, so ledger days that are folded may go as retention drops them; then
nothing is rebuilt at the end. Made without fsync. The folder is removed at the end, unless it is kept.
"""

import argparse
import asyncio
import datetime as dt
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from registry import demo, partitions, postgres, rollups
from registry.dashboard import customers, launches, model, models, overview
from registry.dashboard.figures import Figures, Period
from registry.dashboard.live import FleetState
from registry.dashboard.statistics import Statistics
from registry.dashboard.views import View
from registry.database import Database, migrate

ROWS = 1_000_000
DAYS = 365
VARIANTS, LABS, CUSTOMERS = 1_400, 40, 1_000
MODELS_EACH = 14  # of each of the hundred busiest customers in a month: what fal says of its largest
BUSIEST = (100 / CUSTOMERS) ** (1 / 2.5)  # their share of all customers' models, by how WRITE draws
TURNOVER = 2.3  # variants called in a year by those called in a month
LIMIT_MS = 200.0
RUNS = 5
LEDGER_BYTES_PER_ROW, SUMS_BYTES_PER_ROW = (
    420,
    400,
)  # with indexes, as measured at 19 million rows; sums grow slower
YESTERDAY = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)
WRITE = """
INSERT INTO usage_records (request_id, organization, key_id, slug, version, adapters, pool, door, state, attempt,
    host_id, created_at, finished_at, wait_seconds, load_seconds, run_seconds, images, megapixels, video_seconds,
    unit, units, amount, currency)
SELECT uuidv7(at - clock_timestamp()), 'customer-' || customer, 'k', 'lab' || offer %% %(labs)s || '/model/' || offer,
    'sha256:v' || offer, CASE WHEN random() < 0.167 THEN ARRAY['sha256:lora' || (40 * random() ^ 3)::int] ELSE '{}' END,
    'local', 'fal', CASE WHEN random() < 0.015 THEN 'failed' ELSE 'succeeded' END, 1,
    'host-' || (n %% 24), at, at + interval '5 s', wait, load, run, 1, 1.048576, 0, 'image', 1, 0.03, 'USD'
FROM (
    SELECT m.offer, n, -0.4 * ln(1 - random()) AS wait, CASE WHEN random() < 0.05 THEN 14 * random() ELSE 0 END AS load,
        exp(1.2 + 0.5 * random()) AS run, %(day)s::timestamptz + interval '1 s' * (86399 * random() ^ 1.1) AS at,
        floor(%(customers)s * power((hashint8(m.offer * 1000003 + floor(m.circle * random() ^ 2)::int) & 2147483647)
            / 2147483648.0, 2.5))::int AS customer
    FROM mix AS m, generate_series(1, m.requests) AS n
) AS r
"""


def circles(market: demo.Plan) -> np.ndarray:
    """How many customers call each offer: shape (VARIANTS,), float64. The more popular, the more of them."""
    popular = market.counts.sum(0) ** 0.6
    scale = np.geomspace(1e-3, 1e6, 2_000)
    sums = np.clip(popular * scale[:, None], 2, CUSTOMERS / 2).sum(1)
    best = np.abs(sums - 100 * MODELS_EACH * TURNOVER / BUSIEST).argmin()
    return np.clip(popular * scale[best], 2, CUSTOMERS / 2)


def slug(offer: int) -> str:
    return f"lab{offer % LABS}/model/{offer}"


async def furnish(db: Database) -> None:
    async with db.transaction() as connection:
        await connection.execute("CREATE TABLE mix (offer int, requests int, circle float8)")
        await connection.execute(
            "INSERT INTO organizations (name) SELECT 'lab' || n FROM generate_series(0, %s) n", [LABS - 1]
        )
        await connection.execute(
            "INSERT INTO models (name, owner) SELECT 'lab' || n || '/model', 'lab' || n FROM generate_series(0, %s) n",
            [LABS - 1],
        )
        await connection.execute(
            "INSERT INTO variants (slug, model, owner, task, input_schema)"
            " SELECT 'lab' || n %% %(labs)s || '/model/' || n, 'lab' || n %% %(labs)s || '/model', 'lab' || n %% %(labs)s,"
            " 'text-to-image', '{}' FROM generate_series(0, %(last)s) n",
            {"labs": LABS, "last": VARIANTS - 1},
        )
        for offset in range(DAYS):
            await partitions.prepare(
                connection, ["usage_records"], YESTERDAY - dt.timedelta(days=DAYS - 1 - offset), 0
            )


async def write_year(db: Database, rows: int, ledger_days: int) -> tuple[int, float, float]:
    """Each day is folded while the next is written: rows, seconds of writing, seconds of folding."""
    offers = [(slug(n), "text-to-image") for n in range(VARIANTS)]
    market = demo.plan(offers, requests=rows, last_day=YESTERDAY, days=DAYS, seed=1)
    circle = circles(market)
    written, writing, folding = 0, 0.0, 0.0
    for day in range(DAYS):
        (count, wrote), (_, folded) = await asyncio.gather(
            timed(write_day(db, market, circle, day)), timed(rollups.fold(db))
        )
        written, writing, folding = written + count, writing + wrote, folding + folded
        async with db.pool.connection() as connection:
            oldest = market.first_day + dt.timedelta(days=day - ledger_days)
            await partitions.drop_before(connection, "usage_records", oldest)
        if day % 30 == 29:
            print(
                f"   day {day + 1}: {written:,} rows, writing {writing:.0f} s, folding {folding:.0f} s",
                flush=True,
            )
    _, folded = await timed(rollups.fold(db))
    return written, writing, folding + folded


async def timed(work):
    began = time.perf_counter()
    return await work, time.perf_counter() - began


async def write_day(db: Database, market: demo.Plan, circle: np.ndarray, day: int) -> int:
    counts = market.counts[day]
    midnight = dt.datetime.combine(market.first_day + dt.timedelta(days=day), dt.time(), tzinfo=dt.UTC)
    async with db.transaction() as connection:
        await connection.execute("TRUNCATE mix")
        async with connection.cursor().copy("COPY mix FROM STDIN") as copy:
            for offer in np.flatnonzero(counts):
                await copy.write_row((int(offer), int(counts[offer]), float(circle[offer])))
        done = await connection.execute(WRITE, {"labs": LABS, "customers": CUSTOMERS, "day": midnight})
        return done.rowcount


async def checksums(db: Database) -> dict[str, object]:
    """The same for the same rows in any order."""
    found = {}
    async with db.pool.connection() as connection:
        for table in rollups.TABLES:
            query = f"SELECT count(*) AS n, sum(hashtextextended(t::text, 0)::numeric) AS h FROM {table} AS t"
            row = await (await connection.execute(query)).fetchone()
            found[table] = (row["n"], row["h"])
    return found


class Timed(Figures):
    """Remembers what each query took."""

    took: dict[str, float]

    async def rows(self, name, period=None, **more):
        began = time.perf_counter()
        found = await super().rows(name, period, **more)
        self.took[name] = self.took.get(name, 0.0) + (time.perf_counter() - began) * 1000
        return found


NO_STATISTICS = Statistics(standings=(), turnovers=(), cohorts=(), backtest=None)
PAGES = {
    "overview": lambda figures, busiest: overview.page(figures),
    "models": lambda figures, busiest: models.page(figures, NO_STATISTICS),
    "model": lambda figures, busiest: model.page(figures, NO_STATISTICS, busiest),
    "customers": lambda figures, busiest: customers.page(figures),
    "launches": lambda figures, busiest: launches.page(
        figures, FleetState(at=dt.datetime.now(dt.UTC), pool="")
    ),
    "fleet": lambda figures, busiest: figures.rows("loading", oldest=partitions.bounds(YESTERDAY)[0]),
    "statistics": lambda figures, busiest: figures.demand(),
}


async def pages(db: Database) -> None:
    async with db.pool.connection() as connection:
        top = "SELECT slug FROM scope_days, LATERAL (SELECT substr(scope, 3) AS slug) s WHERE left(scope, 2) = 's:' GROUP BY 1 ORDER BY sum(requests) DESC LIMIT 1"
        busiest = (await (await connection.execute(top)).fetchone())["slug"]
        who = "SELECT organization FROM usage_days WHERE slug = %s GROUP BY 1 ORDER BY sum(requests) DESC LIMIT 1"
        caller = (await (await connection.execute(who, [busiest])).fetchone())["organization"]
    lab = busiest.split("/")[0]
    owned = tuple(slug(n) for n in range(VARIANTS) if slug(n).startswith(f"{lab}/"))
    views = {
        "operator": View(role="operator", organization="operator"),
        "lab": View(role="lab", organization=lab, slugs=owned),
        "customer": View(role="customer", organization=caller),
    }
    print(f"   queries behind each page over a year, median of {RUNS}, limit {LIMIT_MS:.0f} ms:")
    for role, view in views.items():
        for name, make in PAGES.items():
            if name != "statistics" and not view.may_open(name):
                continue
            await one_page(db, f"{role} {name}", view, lambda figures, make=make: make(figures, busiest))


async def one_page(db: Database, title: str, view: View, make) -> None:
    runs = []
    for _ in range(RUNS):
        figures = Timed(db, view, Period(until=YESTERDAY, days=DAYS))
        figures.took = {}
        await make(figures)
        runs.append(figures.took)
    each = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    total = statistics.median(sum(run.values()) for run in runs)
    worst = ", ".join(f"{name} {ms:.0f}" for name, ms in sorted(each.items(), key=lambda pair: -pair[1])[:3])
    verdict = "" if total < LIMIT_MS else "   OVER"
    print(f"   {title:20} {total:7.0f} ms   ({worst}){verdict}", flush=True)


async def sizes(db: Database) -> None:
    query = (
        "SELECT pg_total_relation_size(c.oid) AS bytes, c.relname AS name, c.reltuples::bigint AS n FROM pg_class c WHERE relname = ANY(%s)"
        " UNION ALL SELECT sum(pg_total_relation_size(inhrelid)), 'usage_records', sum(c.reltuples)::bigint FROM pg_inherits"
        " JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = 'usage_records'::regclass"
    )
    async with db.pool.connection() as connection:
        await connection.set_autocommit(True)
        await connection.execute("VACUUM ANALYZE")  # as autovacuum would have
        await connection.set_autocommit(False)
        for row in await (await connection.execute(query, [list(rollups.TABLES)])).fetchall():
            print(f"   {row['name']:16} {row['n']:14,} rows {int(row['bytes']) / 1e9:8.2f} GB")


async def each_customers_models(db: Database) -> None:
    query = (
        "SELECT avg(models) FROM (SELECT organization, month, count(*) AS models, sum(requests) AS calls"
        " FROM customer_months GROUP BY 1, 2 ORDER BY calls DESC LIMIT 100) AS m"
    )
    async with db.pool.connection() as connection:
        row = await (await connection.execute(query)).fetchone()
    print(f"   models a month of the hundred busiest: {float(row['avg']):.1f}")


async def make(db: Database, rows: int, ledger_days: int) -> None:
    await furnish(db)
    written, writing, folding = await write_year(db, rows, ledger_days)
    async with db.pool.connection() as connection:
        query = "SELECT count(*) AS n, sum(amount), sum(run_seconds), max(slug) FROM usage_records"
        cursor, reading = await timed(connection.execute(query))
        kept = (await cursor.fetchone())["n"]
    print(
        f"   {written:,} rows: written at {written / writing:,.0f}/s, folded day by day at {written / folding:,.0f}/s,"
        f" {kept:,} kept and read once at {kept / reading:,.0f}/s",
        flush=True,
    )


async def rebuild(db: Database) -> None:
    was = await checksums(db)
    count, seconds = await timed(rollups.rebuild(db))
    print(f"   rebuilt in {seconds:.0f} s, {count / seconds:,.0f} rows/s", flush=True)
    assert await checksums(db) == was, "a rebuild gives other rows than folding piece by piece"
    print("   a rebuild gave the same rows")


async def measure(dsn: str, rows: int, ledger_days: int, *, made: bool, keep: bool) -> None:
    async with Database.open(dsn, connections=4) as db:
        if not made:
            await make(db, rows, ledger_days)
        await sizes(db)
        await each_customers_models(db)
        await pages(db)
        if not keep and ledger_days >= DAYS:
            await rebuild(db)


def main(rows: int = ROWS, home: str | None = None, *, ledger_days: int = DAYS, keep: bool = False) -> None:
    folder = Path(home or tempfile.gettempdir()) / f"marquee-usage-{rows}"
    made = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    needed = rows * (SUMS_BYTES_PER_ROW + LEDGER_BYTES_PER_ROW * min(DAYS, ledger_days) / DAYS)
    if not made and needed > free:
        print(f"   {rows:,} rows need about {needed / 1e9:.0f} GB; {free / 1e9:.0f} GB are free")
        folder.rmdir()
        return
    try:
        dsn = postgres.ensure(folder, durable=made)
        migrate(dsn)
        asyncio.run(measure(dsn, rows, ledger_days, made=made, keep=keep))
    finally:
        postgres.stop(folder)
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--home", default=None, help="where the database is made meanwhile")
    parser.add_argument(
        "--ledger-days", type=int, default=DAYS, help="older days are dropped as soon as they are folded"
    )
    parser.add_argument("--keep", action="store_true", help="leave it there, and measure it the next time")
    given = parser.parse_args()
    main(given.rows, given.home, ledger_days=given.ledger_days, keep=given.keep)
