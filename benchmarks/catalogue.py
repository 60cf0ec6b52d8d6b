"""The registry at 100,000 variants: a one-line change, listing, search, resolving a slug, and the snapshot's memory.

    python -m benchmarks catalogue

Peers and limits in the same run: a change against rewriting everything; a search against Python's own `in` over the
same texts; resolving against one dictionary look-up.
"""

import asyncio
import gc
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psutil

from registry import apply, listing, postgres, store
from registry.catalog import (
    Caller,
    Catalog,
    Manifest,
    Model,
    Organization,
    OrganizationName,
    Release,
    Share,
    Slug,
    Source,
    Variant,
    Version,
    Window,
)
from registry.database import Database, migrate
from registry.listing import Query, Shelf, Texts, needles_of
from router import snapshot
from router.catalogue import Catalogue

VARIANTS = 100_000
TASKS = ("text-to-image", "image-to-image", "text-to-video", "image-to-video", "text-to-speech")
SCHEMA = {"type": "object", "properties": {"prompt": {"type": "string"}}}
WORDS = ("swift", "amber", "noble", "quiet", "vivid", "polar", "civic", "lunar")
RUNS = 200
CHANGES = 20


def catalogue(count: int) -> Catalog:
    """Owners with a hundred variants each."""
    rng = random.Random(1)
    owners = [f"owner{number:04}" for number in range(count // 100)]
    variants = tuple(
        Variant(
            slug=Slug(f"{owner}/model/{number:03}"),
            model=f"{owner}/model",
            task=rng.choice(TASKS),
            input_schema=SCHEMA,
            name=f"{rng.choice(WORDS)} {rng.choice(WORDS)} {number}",
        )
        for owner in owners
        for number in range(100)
    )
    return Catalog(
        organizations=tuple([Organization(name=OrganizationName(owner)) for owner in owners]),
        models=tuple([Model(name=f"{owner}/model") for owner in owners]),
        variants=variants,
    )


def timed(work: Callable[[], object], runs: int = RUNS) -> tuple[float, float]:
    """Median and 99th percentile, in milliseconds."""
    took = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took), sorted(took)[int(runs * 0.99) - 1]


async def applying(dsn: str, whole: Catalog) -> None:
    first, *others = whole.variants
    changed = msgspec.structs.replace(whole, variants=(msgspec.structs.replace(first, name="New"), *others))
    async with Database.open(dsn, connections=2) as db:
        began = time.perf_counter()
        await apply.apply(db, whole)
        everything = time.perf_counter() - began
        took = []
        for desired in (changed, whole, changed):
            began = time.perf_counter()
            await apply.apply(db, desired)
            took.append(time.perf_counter() - began)
    one = statistics.median(took)
    print(
        f"apply of one changed line at {len(whole.variants):,} variants: {one:.2f} s (limit 5 s),"
        f" {everything / one:.1f} times faster than applying all of them"
    )


async def snapshot_memory(dsn: str) -> None:
    """Of what a gateway keeps, in a process of its own that loads nothing else."""
    async with Database.open(dsn, connections=2) as db:
        began = resident_bytes()
        rows = await store.load_catalog(db)
        built = snapshot.build(rows, {})
        texts = Texts(built.variants.values())
        count = len(built.variants)
        assert len(texts.slugs) == count
        del rows
        print(f"snapshot memory: {(resident_bytes() - began) / 1e6:.0f} MB for {count:,} variants")


def resident_bytes() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


async def becoming_visible(dsn: str) -> None:
    """From the commit of a change to another gateway process's snapshot, by the database's clock."""
    command = (sys.executable, "-m", "benchmarks.catalogue", "watch", dsn)
    watcher = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert watcher.stdout is not None
    count = int(await watcher.stdout.readline())
    waits = []
    async with Database.open(dsn, connections=1) as db:
        for number in range(CHANGES):
            async with db.transaction() as connection:
                await connection.execute("UPDATE models SET title = %s", [f"title {number}"])
                await connection.execute(
                    "INSERT INTO changes (actor, kind, subject) VALUES ('benchmark', 'model', 'all')"
                )
            committed = time.time()
            waits.append(float(await watcher.stdout.readline()) - committed)
            await asyncio.sleep(0.2)
    watcher.terminate()
    await watcher.wait()
    print(
        f"a change on another gateway process at {count:,} variants: median {statistics.median(waits):.2f} s,"
        f" slowest {max(waits):.2f} s of {CHANGES} (limit 1 s)"
    )


async def watch(dsn: str) -> None:
    """The other gateway: says when each change is in its snapshot."""
    async with Database.open(dsn, connections=2) as db, Catalogue.open(db) as catalogue:
        await asyncio.wait_for(catalogue.changed.wait(), 60)  # the resync that follows the first connection
        print(len(catalogue.now.variants), flush=True)
        while True:
            await catalogue.changed.wait()
            print(time.time(), flush=True)


def in_memory(whole: Catalog) -> None:
    texts = Texts(whole.variants)
    now = datetime.now(UTC)
    shelf = Shelf(
        texts=texts,
        releases={},
        visible=lambda _: True,
        callable=lambda _: True,
        now=now,
        address="https://m.example",
    )
    nobody = OrganizationName("")
    plain = [f"{v.slug} {v.name} {v.task}" for v in texts.variants]
    queries = {
        "listing, a page in the middle": Query(after=Slug("owner0500/model/050")),
        "search, a common word": Query(needles=needles_of("amber")),
        "search, two words": Query(needles=needles_of("amber lunar", category="text-to-video")),
        "search, one hit": Query(needles=needles_of("owner0777/model/042")),
        "search, no hit": Query(needles=needles_of("nowhere")),
    }
    scan, _ = timed(lambda: [text for text in plain if "nowhere" in text], 20)
    for name, query in queries.items():
        median, p99 = timed(lambda query=query: listing.search(shelf, query, nobody))
        print(
            f"{name}: median {median:.2f} ms, p99 {p99:.2f} ms (limit 50 ms), {scan / median:.0f} times a plain scan's speed"
        )


def resolving() -> None:
    """A call's whole way through the snapshot at 10,000 variants, each tenth with a launch ahead."""
    now = datetime.now(UTC)
    open_now, ahead = Window(public_from=now), Window(public_from=now.replace(year=now.year + 1))
    source = Source(kind="path", location="/nowhere")
    manifest = Manifest(pipeline_class="X", source=source, components=(), assets=())
    variants, releases = [], []
    for number in range(10_000):
        slug = Slug(f"owner/model{number}")
        variants.append(Variant(slug=slug, model="owner/model", task="t", input_schema=SCHEMA))
        for window in (open_now, ahead) if number % 10 == 0 else (open_now,):
            shares = (Share(version=1, percent=100),)
            releases.append(Release(id=len(releases), variant=slug, shares=shares, window=window))
    rows = store.CatalogRows(
        serial=0, organizations=(), models=(), variants=tuple(variants), releases=tuple(releases),
        versions=tuple(Version(variant=v.slug, number=1, manifest=manifest) for v in variants),
        adapters=(), adapter_releases=(), listed_adapters=(),
    )  # fmt: skip
    built = snapshot.build(rows, {})
    rng = random.Random(1)
    caller = Caller(organization=OrganizationName("acme"), key_id="k")
    asked = [variant.slug for variant in rng.sample(variants, 5000)]

    def resolved(slug: Slug) -> float:
        began = time.perf_counter_ns()
        built.resolve(slug, caller, now, 0.5)
        return (time.perf_counter_ns() - began) / 1000

    first = statistics.median(map(resolved, asked))
    took = list(map(resolved, asked))
    look, _ = timed(lambda: [built.variants[slug] for slug in asked], 20)
    median = statistics.median(took)
    print(
        f"resolve slug, caller and time at 10,000 variants: median {median:.1f} µs,"
        f" p99 {sorted(took)[int(len(took) * 0.99)]:.1f} µs (limit 20 µs),"
        f" {median / (look / len(asked) * 1000):.0f} dictionary look-ups; the first of a slug, which compiles its"
        f" schema, {first:.1f} µs"
    )


def main() -> None:
    match sys.argv[1:]:
        case ["watch", dsn]:
            asyncio.run(watch(dsn))
            return
        case ["memory", dsn]:
            asyncio.run(snapshot_memory(dsn))
            return
    resolving()
    in_memory(catalogue(VARIANTS))
    for count, works in (
        (10_000, (becoming_visible,)),
        (VARIANTS, (in_a_process_of_its_own, becoming_visible)),
    ):
        with tempfile.TemporaryDirectory(prefix="marquee-benchmark-") as folder:
            dsn = postgres.ensure(Path(folder))
            try:
                migrate(dsn)
                asyncio.run(applying(dsn, catalogue(count)))
                for work in works:
                    asyncio.run(work(dsn))
            finally:
                postgres.stop(Path(folder))


async def in_a_process_of_its_own(dsn: str) -> None:
    command = (sys.executable, "-m", "benchmarks.catalogue", "memory", dsn)
    assert await (await asyncio.create_subprocess_exec(*command)).wait() == 0


if __name__ == "__main__":
    main()
