"""The accounts of one device's tiers: what is held, booked, pinned and kept where, and what the router was told of it.

Thread-safe. Room is booked before anything comes, so budgets are never passed; what is wanted at once is booked at
once, so nobody waits with half of it. It changes accounts and lets go of payloads; it brings nothing: that is
`residency`, on top of this.
"""

import threading
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from loaders import flights, tiers
from loaders.announced import Announced, DropFiles, OnChange
from loaders.cache import Order, WeightCache
from loaders.errors import NoRoomError, NotHereError
from loaders.interest import Interest
from loaders.protocol import Held, Tier
from loaders.ways import Room
from registry.catalog import Digest

T = TypeVar("T")
Booked = list[tuple[Tier, Digest]]
DISK_SECONDS = 600.0  # for room that others' downloads have pinned: one that hangs never lets go of it


class Books:
    """`on_change` is told of every arrival and departure, `drop_files` of what left the disk."""

    def __init__(
        self, budgets: Mapping[Tier, int], *, on_change: OnChange, drop_files: DropFiles, order: Order = "lru"
    ) -> None:
        self.tiers: dict[Tier, WeightCache] = {
            tier: WeightCache(budget, tier=tier, order=order) for tier, budget in budgets.items()
        }
        self._payloads: dict[Tier, dict[Digest, Any]] = {tier: {} for tier in self.tiers if tier != "disk"}
        self._announced = Announced(on_change, drop_files)
        self._changed = threading.Condition()
        self._moves = 0

    def book(
        self,
        digest: Digest,
        size_bytes: int,
        *,
        own: Collection[Digest],
        interest: Interest,
        tier: Tier = "device",
    ) -> None:
        """Room for what is made there (merged weights), pinned until `release`. Raises `NoRoomError`.

        Waits while pins other than `own` leave no room.
        """
        cache = self.tiers[tier]
        with self._changed:
            victims = self._patiently(
                lambda: () if digest in cache else cache.victims(size_bytes), frozenset(own), interest
            )
            for victim in victims:
                self._leave(victim, tier)
            cache.add(digest, size_bytes)
            cache.pin(digest)

    def room(self, digest: Digest, size_bytes: int) -> Room:
        """What `book` would find now. Only the thread that books may rely on it."""
        cache = self.tiers["device"]
        with self._changed:
            if digest in cache:
                return Room(is_held=digest in self._payloads["device"], evicted_bytes=0)
            try:
                victims = cache.victims(size_bytes)
            except NoRoomError:
                return Room(is_held=False, evicted_bytes=None)
            return Room(is_held=False, evicted_bytes=sum(cache.size_of(victim) for victim in victims))

    def reserve(self, whose: Hashable, size_bytes: int) -> None:
        """Room on the device for what a run takes beside weights, out of what is idle; 0 gives it back."""
        cache = self.tiers["device"]
        with self._changed:
            cache.reserve(whose, size_bytes)
            for victim in cache.victims(0):
                self._leave(victim, "device")
            self._changed.notify_all()

    def release(self, digests: Sequence[Digest], tier: Tier = "device") -> None:
        self._let_go([(tier, digest) for digest in digests])

    def forget(self, digest: Digest) -> None:
        """Lets go of a payload that nobody pins."""
        with self._changed:
            if digest in self.tiers["device"] and not self.tiers["device"].is_pinned(digest):
                self._leave(digest, "device")

    def evict_idle(self, tier: Tier = "device") -> int:
        """Empties a tier of all that is not pinned, after an out-of-memory; bytes given back."""
        with self._changed:
            cache = self.tiers[tier]
            idle = [digest for digest in cache if not cache.is_pinned(digest)]
            freed = sum(cache.size_of(digest) for digest in idle)
            for digest in idle:
                self._leave(digest, tier)
            return freed

    def evict_one(self, tier: Tier) -> bool:
        """Whoever would go first and takes room; False when there is nobody."""
        with self._changed:
            try:
                victims = self.tiers[tier].victims(self.tiers[tier].free_bytes + 1)
            except NoRoomError:
                return False
            for victim in victims:
                self._leave(victim, tier)
            return True

    def demote(self, digests: Collection[Digest]) -> None:
        """As the router calls them."""
        with self._changed:
            for tier, digest in self._announced.known_as(digests):
                self.tiers[tier].demote(digest)

    def keep(self, digests: Collection[Digest], seconds: float) -> None:
        """Our own digests, wherever they are now: for so long they leave only where nothing else makes room."""
        with self._changed:
            for cache in self.tiers.values():
                for digest in digests:
                    cache.keep(digest, time.monotonic() + seconds)

    def held(self) -> tuple[Held, ...]:
        with self._changed:
            return tuple(
                Held(digest=reported, tier=tier, size_bytes=self.tiers[tier].size_of(digest))
                for (tier, digest), reported in self._announced
            )

    def remember_on_disk(self, digest: Digest, size_bytes: int) -> bool:
        """What an earlier process left on this disk, the last wanted first. False where it does not fit beside those."""
        disk = self.tiers["disk"]
        with self._changed:
            if size_bytes > disk.free_bytes:
                return False
            disk.add(digest, size_bytes)
            disk.demote(digest)  # it was wanted before all that are here
            self._announced.remember("disk", digest)
            return True

    def check_integrity(self) -> None:
        with self._changed:
            self._announced.check_integrity()
            for tier, cache in self.tiers.items():
                cache.check_integrity()
                came = {digest for digest in cache if self._has_come(tier, digest)}
                assert all(cache.is_pinned(digest) for digest in cache if digest not in came)
                assert self._announced.of(tier) <= came
                assert tier == "disk" or set(self._payloads[tier]) == came

    def _book(
        self, wanted: Sequence[tiers.Want], target: Tier, booked: Booked, interest: Interest
    ) -> list[tiers.Move]:
        """Evicts, books each arrival, and pins what is wanted in every tier, but for files on the disk alone.

        Waits for room that others pin. Who fetches needs the mover to go on: what it pinned nearer would be in the way of
        the order that the mover is at, and that would wait for it for ever.
        """
        with self._changed:
            own = frozenset(want.digest for want in wanted)
            if target != "disk" and not all(map(self._is_here, own)):
                raise NotHereError("some weights are not on this disk")
            moves = self._patiently(lambda: tiers.plan(wanted, self.tiers, target=target), own, interest)
            for move in moves:
                if move.kind == "evict":
                    self._leave(move.digest, move.tier)
                else:
                    self.tiers[move.tier].add(move.digest, move.size_bytes)
            for tier in [target] if target == "disk" else self.tiers:
                cache = self.tiers[tier]
                for want in wanted:
                    if want.digest in cache:
                        cache.touch(want.digest)
                        cache.pin(want.digest)
                        booked.append((tier, want.digest))
        return [move for move in moves if move.kind != "evict"]

    def _patiently(self, decide: Callable[[], T], own: frozenset[Digest], interest: Interest) -> T:
        """Under the lock: decides again whenever something was released, until there is room.

        Raises `NoRoomError` when only `own` pins are in the way: nobody will release them. `AbandonedError` when
        nobody waits for it any more. For a run it waits as long as that takes: clips take an hour, and the watchdog sees
        to it that each ends.
        """
        deadline = time.monotonic() + DISK_SECONDS
        while True:
            for cache in self.tiers.values():
                cache.lapse(time.monotonic())
            try:
                return decide()
            except NoRoomError as error:
                cache = next(cache for cache in self.tiers.values() if cache.tier == error.tier)
                if cache.pinned <= own and cache.reserved_bytes:
                    cache.give_up_reserves()  # nobody else can make room: the weights come first
                elif cache.pinned <= own or (error.tier == "disk" and time.monotonic() > deadline):
                    raise
                else:
                    flights.wait(self._changed, interest)

    def _let_go(self, booked: Booked) -> None:
        """Of what was booked; what never came, and nobody else waits for, takes no room any more."""
        with self._changed:
            for tier, digest in booked:
                cache = self.tiers[tier]
                cache.release(digest)
                if not cache.is_pinned(digest) and not self._has_come(tier, digest):
                    cache.discard(digest)
            booked.clear()
            self._changed.notify_all()

    def _is_here(self, digest: Digest) -> bool:
        return any(self._has_come(tier, digest) for tier in self.tiers)

    def _has_come(self, tier: Tier, digest: Digest) -> bool:
        return (tier, digest) in self._announced if tier == "disk" else digest in self._payloads[tier]

    def _leave(self, digest: Digest, tier: Tier) -> None:
        """The accounts come first: they have to be right when a file cannot be deleted."""
        size_bytes = self.tiers[tier].size_of(digest)
        self.tiers[tier].evict(digest)
        if tier != "disk":
            self._moves += 1
            del self._payloads[tier][digest]
        self._announced.remove(tier, digest, size_bytes)
