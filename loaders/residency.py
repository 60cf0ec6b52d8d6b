"""What one device holds: carries out `tiers.plan` with the store and the reader, and tells what came and went.

IO, thread-safe. `acquire` brings weights near and pins them, `release` unpins. Room is made and booked before
anything is read, so budgets are never passed; reading happens outside the lock, so a run can end meanwhile. It
refuses to know pipelines: how an item becomes a payload is the item's own business.
"""

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from loaders import tiers
from loaders.cache import Order, WeightCache
from loaders.errors import NoRoomError
from loaders.protocol import Held, Residency, Tier
from loaders.ways import Room
from registry.catalog import Digest

T = TypeVar("T")
WAIT_SECONDS = 600.0  # for room that other runs have pinned


class Item(Protocol):
    """Something that takes room: a component or an adapter."""

    @property
    def digest(self) -> Digest: ...
    @property
    def reported(self) -> Digest:
        """The digest the router knows it by: a cast copy is the same component to it."""
        ...

    @property
    def disk_bytes(self) -> int:
        """Of our own disk: nothing for files that are read where somebody else keeps them."""
        ...

    def fetch(self) -> None:
        """Brings the files to the disk; idempotent."""

    def measure(self) -> int:
        """Bytes in memory, once the files are here."""
        ...

    def load(self) -> Any:
        """Reads the files into host memory."""

    def copy(self, payload: Any) -> Any:
        """From host memory to the device."""


class Shelf:
    """The tiers of one device with their payloads. `on_change` is told of every arrival and departure."""

    def __init__(
        self,
        budgets: Mapping[Tier, int],
        *,
        on_change: Callable[[Residency], None],
        drop_files: Callable[[Digest, frozenset[Digest]], None],  # what leaves the disk, and what stays there
        order: Order = "lru",
    ) -> None:
        self.tiers: dict[Tier, WeightCache] = {
            tier: WeightCache(budget, tier=tier, order=order) for tier, budget in budgets.items()
        }
        self._moves = self._moving = 0
        self._payloads: dict[Tier, dict[Digest, Any]] = {tier: {} for tier in self.tiers if tier != "disk"}
        self._reported: dict[tuple[Tier, Digest], Digest] = {}  # what the router was told of
        self._on_change = on_change
        self._drop_files = drop_files
        self._one_at_a_time = threading.Lock()  # two acquires never wait for each other's half of the room
        self._changed = threading.Condition()

    def acquire(self, items: Sequence[Item]) -> list[Any]:
        """Device payloads in the same order, pinned until `release`. Raises `NoRoomError` and what items raise."""
        by_digest = {item.digest: item for item in items}
        booked: list[tuple[Tier, Digest]] = []
        with self._one_at_a_time:
            try:
                self._reach("disk", by_digest, dict.fromkeys(by_digest, 0), booked)
                sizes = {digest: item.measure() for digest, item in by_digest.items()}
                self._reach("device", by_digest, sizes, booked)
                with self._changed:
                    for item in items:
                        self.tiers["device"].pin(item.digest)
                    return [self._payloads["device"][item.digest] for item in items]
            finally:
                with self._changed:
                    for tier, digest in booked:
                        self.tiers[tier].release(digest)

    def book(self, digest: Digest, size_bytes: int, *, own: Sequence[Digest]) -> None:
        """Room on the device for a payload made there (merged weights), pinned until `release`. Raises `NoRoomError`.

        Waits while pins other than `own` leave no room.
        """
        cache = self.tiers["device"]
        with self._changed:
            victims = self._patiently(
                lambda: () if digest in cache else cache.victims(size_bytes), frozenset(own)
            )
            for victim in victims:
                self._leave(victim, "device")
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

    def fill(self, digest: Digest, make: Callable[[], Any]) -> Any:
        """The booked payload, made when it is not there from an earlier run."""
        payloads = self._payloads["device"]
        if digest not in payloads:
            with self._counted("device", digest):
                made = make()
            with self._changed:
                payloads[digest] = made
        return payloads[digest]

    def reserve(self, whose: Hashable, size_bytes: int) -> None:
        """Room on the device for what a run takes beside weights, out of what is idle; 0 gives it back."""
        cache = self.tiers["device"]
        with self._changed:
            cache.reserve(whose, size_bytes)
            for victim in cache.victims(0):
                self._leave(victim, "device")
            self._changed.notify_all()

    def moves(self) -> int | None:
        """How many there have been; None while one is under way."""
        with self._changed:
            return None if self._moving else self._moves

    def release(self, digests: Sequence[Digest]) -> None:
        cache = self.tiers["device"]
        with self._changed:
            for digest in digests:
                cache.release(digest)
                if not cache.is_pinned(digest) and digest not in self._payloads["device"]:
                    cache.discard(digest)  # booked, never made
            self._changed.notify_all()

    def forget(self, digest: Digest) -> None:
        """Lets go of a payload that nobody pins."""
        with self._changed:
            if digest in self.tiers["device"] and not self.tiers["device"].is_pinned(digest):
                self._leave(digest, "device")

    def evict_idle(self) -> int:
        """Empties the device of all that is not pinned, after an out-of-memory; bytes given back."""
        with self._changed:
            cache = self.tiers["device"]
            idle = [digest for digest in cache if not cache.is_pinned(digest)]
            freed = sum(cache.size_of(digest) for digest in idle)
            for digest in idle:
                self._leave(digest, "device")
            return freed

    def demote(self, digests: Sequence[Digest]) -> None:
        with self._changed:
            for cache in self.tiers.values():
                for digest in digests:
                    cache.demote(digest)

    def held(self) -> tuple[Held, ...]:
        with self._changed:
            return tuple(
                Held(digest=reported, tier=tier, size_bytes=self.tiers[tier].size_of(digest))
                for (tier, digest), reported in self._reported.items()
            )

    def remember_on_disk(self, digest: Digest, size_bytes: int) -> None:
        """What an earlier process left on this disk."""
        disk = self.tiers["disk"]
        with self._changed:
            for victim in disk.victims(size_bytes):
                self._leave(victim, "disk")
            disk.add(digest, size_bytes)
            self._reported["disk", digest] = digest

    def check_integrity(self) -> None:
        with self._changed:
            for tier, cache in self.tiers.items():
                cache.check_integrity()
                if tier != "disk":
                    assert set(self._payloads[tier]) <= set(cache)
                    assert all(cache.is_pinned(d) for d in cache if d not in self._payloads[tier])

    def _reach(
        self,
        target: Tier,
        items: Mapping[Digest, Item],
        sizes: Mapping[Digest, int],
        booked: list[tuple[Tier, Digest]],
    ) -> None:
        """Books room, then makes the moves. What did not arrive is unbooked."""
        wanted = [
            tiers.Want(digest=digest, disk_bytes=item.disk_bytes, device_bytes=sizes[digest])
            for digest, item in items.items()
        ]
        moves = self._book(wanted, target, booked)
        for position, move in enumerate(moves):
            try:
                self._carry_out(items[move.digest], move)
            except BaseException:
                self._unbook(moves[position:], booked)
                raise

    def _book(
        self, wanted: Sequence[tiers.Want], target: Tier, booked: list[tuple[Tier, Digest]]
    ) -> list[tiers.Move]:
        """Evicts, books each arrival, and pins what is wanted in every tier. Waits for room that others pin."""
        with self._changed:
            own = frozenset(want.digest for want in wanted)
            moves = self._patiently(lambda: tiers.plan(wanted, self.tiers, target=target), own)
            for move in moves:
                if move.kind == "evict":
                    self._leave(move.digest, move.tier)
                else:
                    self.tiers[move.tier].add(move.digest, move.size_bytes)
            for tier, cache in self.tiers.items():
                for want in wanted:
                    if want.digest in cache and (tier, want.digest) not in booked:
                        cache.touch(want.digest)
                        cache.pin(want.digest)
                        booked.append((tier, want.digest))
        return [move for move in moves if move.kind != "evict"]

    def _patiently(self, decide: Callable[[], T], own: frozenset[Digest]) -> T:
        """Under the lock: decides again whenever something was released, until there is room.

        Raises `NoRoomError` when only `own` pins are in the way: nobody will release them.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                return decide()
            except NoRoomError as error:
                cache = next(cache for cache in self.tiers.values() if cache.tier == error.tier)
                if cache.pinned <= own and cache.reserved_bytes:
                    cache.give_up_reserves()  # nobody else can make room: the weights come first
                elif cache.pinned <= own or not self._changed.wait(deadline - time.monotonic()):
                    raise

    def _unbook(self, moves: Sequence[tiers.Move], booked: list[tuple[Tier, Digest]]) -> None:
        with self._changed:
            for move in moves:
                booked.remove((move.tier, move.digest))
                self.tiers[move.tier].release(move.digest)
                self.tiers[move.tier].discard(move.digest)

    def _carry_out(self, item: Item, move: tiers.Move) -> None:
        with self._counted(move.tier, item.digest):
            if move.kind == "fetch":
                item.fetch()
            elif move.kind == "load":
                self._payloads[move.tier][item.digest] = item.load()
            else:
                self._payloads[move.tier][item.digest] = item.copy(self._payloads["memory"][item.digest])
        with self._changed:
            self._reported[move.tier, item.digest] = item.reported
        held = Held(digest=item.reported, tier=move.tier, size_bytes=move.size_bytes)
        self._on_change(Residency(added=(held,)))

    @contextmanager
    def _counted(self, tier: Tier, digest: Digest) -> Iterator[None]:
        """A move. The seconds it takes to bring something are what it would cost to bring it again."""
        began = time.monotonic()
        with self._changed:
            self._moves += 1
            self._moving += 1
        try:
            yield
        finally:
            with self._changed:
                self._moving -= 1
                self.tiers[tier].price(digest, time.monotonic() - began)

    def _leave(self, digest: Digest, tier: Tier) -> None:
        """The accounts come first: they have to be right when a file cannot be deleted."""
        size_bytes = self.tiers[tier].size_of(digest)
        self.tiers[tier].evict(digest)
        if tier != "disk":
            del self._payloads[tier][digest]
        reported = self._reported.pop((tier, digest), None)
        staying = frozenset(one for (where, _), one in self._reported.items() if where == tier)
        if reported is None or reported in staying:
            return  # never came, or is here in another dtype too
        self._on_change(Residency(removed=(Held(digest=reported, tier=tier, size_bytes=size_bytes),)))
        if tier == "disk":
            self._drop_files(reported, staying)
