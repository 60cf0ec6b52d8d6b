"""What one device holds: carries out `tiers.plan` with the store and the reader, in the accounts of `books`.

IO, thread-safe. `fetch` brings files to the disk, on as many threads as like; `acquire` brings weights near and pins
them, `release` unpins. Reading happens outside the lock, so a run can end meanwhile. It refuses to know pipelines: how
an item becomes a payload is the item's own business.
"""

import functools
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from loaders import tiers
from loaders.announced import DropFiles, OnChange
from loaders.books import Booked, Books
from loaders.cache import Order
from loaders.errors import DiskFullError
from loaders.flights import Flights
from loaders.interest import Interest
from loaders.movable import Item
from loaders.protocol import Tier
from registry.catalog import Digest, digest_of

COPY_BYTES_PER_SECOND = 10e9  # what a copy to a device would take that went along with its load


class Shelf(Books):
    """The tiers of one device with their payloads."""

    def __init__(
        self, budgets: Mapping[Tier, int], *, on_change: OnChange, drop_files: DropFiles, order: Order = "lru"
    ) -> None:
        super().__init__(budgets, on_change=on_change, drop_files=drop_files, order=order)
        self._moving = 0
        self._flights = Flights(self._changed)
        self._one_at_a_time = threading.Lock()  # two acquires never wait for each other's half of the room

    def fetch(self, items: Sequence[Item], interest: Interest) -> Callable[[], None]:
        """Brings their files to the disk, and holds them there until the answer is called. All or none.

        Several may fetch at once; what two of them want comes once. Raises `NoRoomError`, `AbandonedError` and what
        items raise.
        """
        by_digest = {item.digest: item for item in items}
        booked: Booked = []
        try:
            self._book([_want(item, 0) for item in by_digest.values()], "disk", booked, interest)
            for item in by_digest.values():
                self._fetch(item, interest)
        except BaseException:
            self._let_go(booked)
            raise
        return functools.partial(self._let_go, booked)

    def acquire(self, items: Sequence[Item], interest: Interest) -> list[Any]:
        """Device payloads in the same order, pinned until `release`.

        Raises `NotHereError` where files have to be fetched before, `NoRoomError`, `AbandonedError` and what items raise.
        """
        by_digest = {item.digest: item for item in items}
        booked: Booked = []
        with self._one_at_a_time:
            try:
                wanted = [_want(item, item.measure()) for item in by_digest.values()]
                moves = self._book(wanted, "device", booked, interest)
                onward = {move.digest for move in moves if move.kind == "copy"}
                for move in moves:
                    item = by_digest[move.digest]
                    with self._aside(item, move, by_digest.keys(), interest):
                        self._carry_out(item, move, interest, onward=move.digest in onward)
                with self._changed:
                    for item in items:
                        self.tiers["device"].pin(item.digest)
                    return [self._payloads["device"][item.digest] for item in items]
            finally:
                self._let_go(booked)

    def fill(self, digest: Digest, make: Callable[[], Any]) -> Any:
        """The booked payload, made when it is not there from an earlier run."""
        payloads = self._payloads["device"]
        if digest not in payloads:
            began = time.monotonic()
            with self._counted():
                made = make()
            with self._changed:
                payloads[digest] = made
                self.tiers["device"].price(digest, time.monotonic() - began)
        return payloads[digest]

    def moves(self) -> int | None:
        """How many arrivals and departures there have been in memory and on the device; None while one is under way."""
        with self._changed:
            return None if self._moving else self._moves

    def _fetch(self, item: Item, interest: Interest) -> None:
        """Files that are here already cost a look."""
        with self._flights.alone(item.digest, interest):
            began, is_here = time.monotonic(), self._has_come("disk", item.digest)
            self.into_room(lambda: item.fetch(interest))
            if not is_here:
                self._arrived(item, "disk", time.monotonic() - began)

    def into_room(self, bring: Callable[[], None]) -> None:
        """A disk may have less room than our budget says, because others filled it: then what is idle leaves."""
        while True:
            try:
                bring()
            except DiskFullError:
                if not self.evict_one("disk"):
                    raise
            else:
                return

    @contextmanager
    def _aside(
        self, item: Item, move: tiers.Move, own: Collection[Digest], interest: Interest
    ) -> Iterator[None]:
        """Room for what a load takes while it lasts: files that have to be converted are in memory more than once."""
        size_bytes = item.aside() if move.kind == "load" else 0
        if not size_bytes:
            yield
            return
        name = digest_of({"aside": item.digest})
        self.book(name, size_bytes, own=own, interest=interest, tier=move.tier)
        try:
            yield
        finally:
            self.release([name], move.tier)

    def _carry_out(self, item: Item, move: tiers.Move, interest: Interest, *, onward: bool) -> None:
        """What has to go `onward` after its load may do so during the load; then its copy finds it there."""
        if item.digest in self._payloads[move.tier]:
            return
        began = time.monotonic()
        with self._counted():
            if move.kind == "copy":
                self._payloads["device"][item.digest] = item.copy(
                    self._payloads["memory"][item.digest], interest
                )
            elif onward:
                self._payloads["memory"][item.digest], near = item.load_onward(interest)
                if near is not None:
                    self._payloads["device"][item.digest] = near
            else:
                self._payloads[move.tier][item.digest] = item.load(interest)
        self._arrived(item, move.tier, time.monotonic() - began)
        if onward and move.kind == "load" and item.digest in self._payloads["device"]:
            self._arrived(item, "device", move.size_bytes / COPY_BYTES_PER_SECOND)

    def _arrived(self, item: Item, tier: Tier, seconds: float) -> None:
        """The seconds it took to bring something are what it would cost to bring it again."""
        cache = self.tiers[tier]
        with self._changed:
            cache.price(item.digest, seconds)
            self._announced.add(tier, item.digest, item.reported, cache.size_of(item.digest))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._changed:
            self._moves += 1
            self._moving += 1
        try:
            yield
        finally:
            with self._changed:
                self._moving -= 1


def _want(item: Item, size_bytes: int) -> tiers.Want:
    return tiers.Want(digest=item.digest, disk_bytes=item.disk_bytes, device_bytes=size_bytes)
