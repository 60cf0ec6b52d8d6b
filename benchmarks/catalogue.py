"""The registry at 100,000 variants: a one-line change, listing, search, resolving a slug, and the snapshot's memory.

    python -m benchmarks catalogue

Peers and limits in the same run: a change against rewriting everything; a search against Python's own `in` over the
same texts; resolving against one dictionary look-up.
"""

import asyncio
import random
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from registry import apply, listing, postgres, store, windows
from registry.catalog import (
    Catalog,
    Model,
    Organization,
    OrganizationName,
    Release,
    Share,
    Slug,
    Variant,
    Window,
)
from registry.database import Database, migrate
from registry.listing import Query, Shelf, Texts, needles_of

VARIANTS = 100_000
TASKS = ("text-to-image", "image-to-image", "text-to-video", "image-to-video", "text-to-speech")
SCHEMA = {"type": "object", "properties": {"prompt": {"type": "string"}}}
WORDS = ("swift", "amber", "noble", "quiet", "vivid", "polar", "civic", "lunar")
RUNS = 200


def catalogue() -> Catalog:
    """A thousand owners with a hundred variants each."""
    rng = random.Random(1)
    owners = [f"owner{number:04}" for number in range(VARIANTS // 100)]
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


async def through_the_database(dsn: str, whole: Catalog) -> None:
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
            f"apply of one changed line: {one:.2f} s (limit 5 s), {everything / one:.1f} times faster than all {VARIANTS:,}"
        )
        tracemalloc.start()
        rows = await store.load_catalog(db)
        print(
            f"snapshot memory: {tracemalloc.get_traced_memory()[0] / 1e6:.0f} MB for {len(rows.variants):,} variants"
        )
        tracemalloc.stop()


def in_memory(whole: Catalog) -> None:
    texts = Texts(whole.variants)
    now = datetime.now(UTC)
    shelf = Shelf(texts=texts, releases={}, visible=lambda _: True, now=now, address="https://m.example")
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
    """At 10,000 variants, each tenth with a launch ahead: slug, caller and time to a release."""
    now = datetime.now(UTC)
    slugs = [Slug(f"owner/model{number}") for number in range(10_000)]
    shares = (Share(version=1, percent=100),)
    open_now, ahead = Window(public_from=now), Window(public_from=now.replace(year=now.year + 1))
    releases = {
        slug: tuple(
            Release(id=i, variant=slug, shares=shares, window=w) for i, w in enumerate((open_now, ahead))
        )
        for slug in slugs
    }
    rng, who = random.Random(1), OrganizationName("acme")
    asked = [rng.choice(slugs) for _ in range(2000)]
    median, _ = timed(lambda: [windows.resolve(releases[slug], who, now) for slug in asked], 20)
    look, _ = timed(lambda: [releases[slug] for slug in asked], 20)
    each = median / len(asked) * 1000
    print(
        f"resolve slug, caller and time: median {each:.1f} µs (limit 20 µs), {median / look:.0f} dictionary look-ups"
    )


def main() -> None:
    whole = catalogue()
    resolving()
    in_memory(whole)
    with tempfile.TemporaryDirectory(prefix="marquee-benchmark-") as folder:
        home = Path(folder)
        dsn = postgres.ensure(home)
        try:
            migrate(dsn)
            asyncio.run(through_the_database(dsn, whole))
        finally:
            postgres.stop(home)


if __name__ == "__main__":
    main()
