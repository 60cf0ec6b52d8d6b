"""What each visitor's gallery is searched in, kept while it holds. In memory; large ones are read in a thread.

A catalogue of a hundred thousand takes most of a second to read, which no call may wait for: it is read again when
the catalogue changed, and for launch windows every few seconds; small ones are read at every look.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

import msgspec
from cachetools import LRUCache

from registry.catalog import Caller, Variant
from router.storefront.browse import Index, Shelf

LARGE = 2_000  # variants
FRESH = timedelta(seconds=10)
ORGANIZATIONS = 32  # whose galleries are kept


class Shown(Protocol):
    """What it asks of the catalogue; `now` is another object after each change."""

    @property
    def now(self) -> object: ...
    def clock(self) -> datetime: ...
    def variants(self, caller: Caller | None) -> Sequence[Variant]: ...


class Kept(msgspec.Struct, frozen=True):
    """An index, what it was made of, and until when it holds."""

    index: Index
    snapshot: object
    until: datetime


class Gallery:
    """One process's galleries. The key is the organization: what may be seen depends on nothing else of a caller."""

    def __init__(self, catalogue: Shown) -> None:
        self._catalogue = catalogue
        self._kept: LRUCache[str | None, Kept] = LRUCache(ORGANIZATIONS)
        self._turn = asyncio.Lock()

    async def shelf(self, caller: Caller | None, query: str, task: str, number: int) -> tuple[Shelf, int]:
        """A page of the search, and how many variants there are in all."""
        index = await self._index(caller)
        if len(index.variants) < LARGE:
            return index.shelf(query, task, number), len(index.variants)
        return await asyncio.to_thread(index.shelf, query, task, number), len(index.variants)

    async def _index(self, caller: Caller | None) -> Index:
        whose = None if caller is None else caller.organization
        async with self._turn:  # who comes while it is read waits for it, and does not read it as well
            kept = self._kept.get(whose)
            if (
                kept is not None
                and kept.snapshot is self._catalogue.now
                and kept.until > self._catalogue.clock()
            ):
                return kept.index
            snapshot, now = self._catalogue.now, self._catalogue.clock()
            if kept is None or len(kept.index.variants) < LARGE:
                variants = self._catalogue.variants(caller)
                index = Index(variants) if len(variants) < LARGE else await asyncio.to_thread(Index, variants)
            else:
                index = await asyncio.to_thread(lambda: Index(self._catalogue.variants(caller)))
            holds = FRESH if len(index.variants) >= LARGE else timedelta()
            self._kept[whose] = Kept(index, snapshot, now + holds)
            return index
