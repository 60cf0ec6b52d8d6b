"""First paint and weight of every dashboard page with a year of data, in headless Chromium over real HTTP.

    python -m benchmarks pages

A gateway of its own with the whole catalogue of `catalog.yaml`'s size and `marquee demo-data`'s year. Each page is
opened afresh (cold cache) and again (warm); beside it the floor: a static page of the same server, painted in the
same run. Bar: first contentful paint below one second.
"""

import asyncio
import datetime as dt
import os
import statistics
import tempfile
from pathlib import Path

import psycopg
from playwright.sync_api import sync_playwright

from benchmarks._serving import free_port, gateway
from registry import demo, keys, postgres
from registry.database import Database, migrate
from tests.acceptance import chromium

RUNS = 3
LIMIT_MS = 1000.0
REQUESTS = int(os.environ.get("PAGES_REQUESTS", "100000"))
VARIANTS = 1_400
PATHS = {
    "sign-in (floor)": "/sign-in",
    "overview": "/dashboard?days=365",
    "models": "/dashboard/models?days=365",
    "model": "/dashboard/models/BUSIEST?days=365",
    "customers": "/dashboard/customers?days=365",
    "launches": "/dashboard/launches?days=365",
    "fleet": "/dashboard/fleet",
}
MEASURE = """() => {
    const paint = performance.getEntriesByName("first-contentful-paint")[0];
    const page = performance.getEntriesByType("navigation")[0];
    const rest = performance.getEntriesByType("resource");
    const sum = (entries, name) => entries.reduce((total, one) => total + one[name], 0);
    return [paint ? paint.startTime : NaN, page.responseEnd, page.transferSize, page.decodedBodySize, sum(rest, "transferSize")];
}"""


async def furnish(dsn: str) -> tuple[str, str]:
    """An operator's key and the busiest model."""
    async with Database.open(dsn, connections=4) as db:
        async with db.transaction() as connection:
            await connection.execute("INSERT INTO organizations (name) VALUES ('lab')")
            await connection.execute("INSERT INTO models (name, owner) VALUES ('lab/m', 'lab')")
            await connection.execute(
                "INSERT INTO variants (slug, model, owner, task, input_schema) SELECT 'lab/model-' || n, 'lab/m', 'lab',"
                " CASE n %% 4 WHEN 0 THEN 'text-to-video' ELSE 'text-to-image' END, '{}' FROM generate_series(1, %s) AS n",
                [VARIANTS],
            )
        yesterday = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)
        written = await demo.fill(db, requests=REQUESTS, last_day=yesterday, seed=1)
        print(f"   {written:,} requests of {VARIANTS:,} models over a year", flush=True)
        async with db.pool.connection() as connection:
            await connection.execute("ANALYZE")
        key = await keys.create(db, "operator", ["operate"])
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT slug FROM usage_records GROUP BY 1 ORDER BY count(*) DESC LIMIT 1")
        return key.token, row.fetchone()[0]


def look(address: str, key: str, busiest: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium.EXECUTABLE, args=chromium.FLAGS)
        for name, path in PATHS.items():
            cold, warm = [], []
            for _ in range(RUNS):
                context = browser.new_context(viewport={"width": 1280, "height": 900}, bypass_csp=True)
                page = context.new_page()
                if name != "sign-in (floor)":
                    page.request.post(
                        f"{address}/sign-in", form={"key": key}, headers={"origin": address}, max_redirects=0
                    )
                for kept in (cold, warm):
                    page.goto(address + path.replace("BUSIEST", busiest))
                    page.wait_for_function(
                        "performance.getEntriesByName('first-contentful-paint').length > 0"
                    )
                    kept.append(page.evaluate(MEASURE))
                context.close()
            tell(name, cold, warm)
        browser.close()


def tell(name: str, cold: list[list[float]], warm: list[list[float]]) -> None:
    def median(runs: list[list[float]], column: int) -> float:
        return statistics.median(run[column] for run in runs)

    paints = (median(cold, 0), median(warm, 0))
    verdict = "" if max(paints) < LIMIT_MS else "   OVER"
    print(
        f"   {name:16} first paint {paints[0]:5.0f} ms cold, {paints[1]:5.0f} ms warm; answered after {median(warm, 1):5.0f} ms;"
        f" page {median(cold, 2) / 1000:5.0f} KB of {median(cold, 3) / 1000:5.0f} KB, scripts, styles and fonts"
        f" {median(cold, 4) / 1000:4.0f} KB once{verdict}",
        flush=True,
    )


def main() -> None:
    if chromium.EXECUTABLE is None:
        print("   no Chromium on this machine")
        return
    with tempfile.TemporaryDirectory(prefix="marquee-benchmark-") as folder:
        home = Path(folder)
        dsn = postgres.ensure(home)
        try:
            migrate(dsn)
            key, busiest = asyncio.run(furnish(dsn))
            port = free_port()
            with gateway(home, dsn, port):
                look(f"http://127.0.0.1:{port}", key, busiest)
        finally:
            postgres.stop(home)


if __name__ == "__main__":
    main()
