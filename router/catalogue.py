"""The current snapshot of catalogue and keys, kept current: replaced whole when the registry says so. IO."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from datetime import UTC, datetime, timedelta

import structlog

from registry import brought, feed, keys, store
from registry.catalog import Adapter, AdapterManifest, Caller, Digest, Slug, Variant
from registry.database import Database
from router.snapshot import Snapshot, build

log = structlog.get_logger("marquee.catalogue")

RELOAD_PAUSE_SECONDS = 1.0  # after a reload that failed
CLOCK_LOOKS = 3
CAUGHT_UP_SECONDS = 10.0  # a hundred thousand variants take half of it


class Catalogue:
    """The current snapshot, kept current."""

    def __init__(self, db: Database, configured: frozenset[str] = frozenset()) -> None:
        self._db = db
        self._configured = configured  # providers
        self._ahead = timedelta()  # how far the database's clock is ahead of ours
        self.now = Snapshot()
        self.brought: dict[Digest, AdapterManifest] = {}  # LoRAs that customers brought, by digest
        self._serial = 0  # the newest change that `now` has
        self.changed = asyncio.Event()  # set at the next reload, and another then

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, db: Database, configured: frozenset[str] = frozenset()) -> AsyncIterator["Catalogue"]:
        """Loaded when it is yielded; follows changes until the end."""
        catalogue = cls(db, configured)
        catalogue.brought |= await brought.manifests(db)
        await catalogue.reload()
        follower = asyncio.create_task(catalogue._follow())
        try:
            yield catalogue
        finally:
            follower.cancel()
            await asyncio.wait([follower])

    def clock(self) -> datetime:
        """The database's time, by which launch windows open."""
        return datetime.now(UTC) + self._ahead

    def variants(self, caller: Caller | None) -> tuple[Variant, ...]:
        """What a gallery may show: first what runs here, then what partners serve, then by slug."""
        snapshot, now = self.now, self.clock()
        visible = [v for v in snapshot.variants.values() if snapshot.visible(v.slug, caller, now)]
        return tuple(sorted(visible, key=self._rank))

    def _rank(self, variant: Variant) -> tuple[bool, bool, str]:
        return (not self.runs_here(variant), not self.is_served(variant), variant.slug.lower())

    def runs_here(self, variant: Variant) -> bool:
        """Whether its weights are pinned and released, so that a host of ours can run it."""
        return bool(self.now.releases.get(variant.slug))

    def is_served(self, variant: Variant) -> bool:
        """Whether its partner answers for it."""
        return self.now.is_served(variant)

    def variant(self, caller: Caller | None, slug: Slug) -> Variant | None:
        visible = self.now.visible(slug, caller, self.clock())
        return self.now.variants[slug] if visible else None

    def adapters(self, caller: Caller | None, variant: Variant) -> tuple[Adapter, ...]:
        """The LoRAs that fit what the variant's slug answers with now, as far as the caller may know them."""
        snapshot, now = self.now, self.clock()
        bases = {v.manifest.architecture for v in snapshot.versions.values() if v.variant == variant.slug}
        found = (snapshot.adapter(slug, caller, now) for slug in snapshot.adapter_releases)
        return tuple(a for a in found if isinstance(a, Adapter) and a.manifest.architecture in bases)

    async def learn(self, digests: Collection[Digest]) -> None:
        """Of LoRAs that another process fetched for a customer."""
        known = self.now.described_adapters
        if missing := {digest for digest in digests if digest not in known}:
            self.brought |= await brought.manifests(self._db, missing)

    async def reload(self) -> None:
        rows = await store.load_catalog(self._db)
        await self._compare_clocks()
        callers = await keys.active(self._db)
        # In a thread: of 100,000 variants it takes a good part of a second, in which callers shall be answered.
        self.now = await asyncio.to_thread(build, rows, callers, self.now, self._configured, self.brought)
        self._serial = rows.serial
        before, self.changed = self.changed, asyncio.Event()
        before.set()

    async def _compare_clocks(self) -> None:
        """By the shortest of a few questions: what took long says little of when it was answered."""
        looks: list[tuple[timedelta, timedelta]] = []
        for _ in range(CLOCK_LOOKS):
            began = datetime.now(UTC)
            at = await store.now(self._db)
            took = datetime.now(UTC) - began
            looks.append((took, at - (began + took / 2)))
        self._ahead = min(looks)[1]

    async def caught_up(self) -> None:
        """Until what was committed before this call is known here: who changes something can count on it at once.

        Gives up after some seconds without an error, for the change itself is made.
        """
        newest = await store.newest_change(self._db)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CAUGHT_UP_SECONDS):
                while self._serial < newest:
                    await self.changed.wait()

    async def _follow(self) -> None:
        async for _ in feed.listen(self._db.dsn):
            while True:
                try:
                    await self.reload()
                    break
                except Exception as error:  # noqa: BLE001  an old catalogue is better than none; say so and go on
                    log.warning("the catalogue could not be read", error=repr(error))
                    await asyncio.sleep(RELOAD_PAUSE_SECONDS)
