"""A byte-budgeted cache of digests with pins: who is held in one tier, and who goes first when room is needed.

Pure: it holds sizes, never bytes, so a host and the simulator run the same code. Built on `cachetools.Cache`,
which does the accounting; the order of eviction and the pins are ours. It refuses to evict what is pinned and
never passes its budget.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Literal

import cachetools
import msgspec

from loaders.errors import NoRoomError
from registry.catalog import Digest

Order = Literal["lru", "cost"]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache knows of one digest. `reload_seconds` is what it costs to bring it back."""

    size_bytes: int
    reload_seconds: float = 0.0


class _Accounts(cachetools.Cache[Digest, Entry]):
    """Sizes and their sum; eviction is decided outside, so its own is never reached."""

    def __init__(self, budget_bytes: int) -> None:
        super().__init__(budget_bytes, getsizeof=lambda entry: entry.size_bytes)


class WeightCache:
    """One tier's contents.

    Room may be reserved beside what is held, for what runs take themselves; they take turns, so the largest counts,
    and pins come first.
    `order="lru"` evicts what was touched longest ago. `order="cost"` is GreedyDual-Size-Frequency: priority =
    clock + uses x reload seconds / size, smallest first, and the clock rises to each victim's priority, so that
    what is big, cheap to reload and out of use goes first. What is kept for a launch goes last in either order.
    """

    def __init__(self, budget_bytes: int, *, tier: str = "memory", order: Order = "lru") -> None:
        self.tier = tier
        self.order: Order = order
        self._reserved: dict[Hashable, int] = {}
        self._accounts = _Accounts(budget_bytes)
        self._recency: OrderedDict[Digest, None] = OrderedDict()
        self._pins: dict[Digest, int] = {}
        self._kept: dict[Digest, float] = {}  # until when
        self._priority: dict[Digest, float] = {}
        self._uses: dict[Digest, int] = {}
        self._clock = 0.0

    @property
    def budget_bytes(self) -> int:
        return int(self._accounts.maxsize)

    @property
    def used_bytes(self) -> int:
        return int(self._accounts.currsize)

    @property
    def free_bytes(self) -> int:
        """Beside what is held and reserved; below zero where what is held is more than may be."""
        return self.budget_bytes - self.used_bytes - self.reserved_bytes

    @property
    def pinned(self) -> frozenset[Digest]:
        return frozenset(self._pins)

    @property
    def pinned_bytes(self) -> int:
        return sum(self._accounts[digest].size_bytes for digest in self._pins)

    @property
    def reserved_bytes(self) -> int:
        return min(max(self._reserved.values(), default=0), self.budget_bytes - self.pinned_bytes)

    def reserve(self, whose: Hashable, size_bytes: int) -> None:
        """From now on; nothing leaves before `victims` are asked for. 0 bytes give it back."""
        self._reserved.pop(whose, None)
        if size_bytes:
            self._reserved[whose] = size_bytes

    def give_up_reserves(self) -> None:
        """Where nothing else could make room for weights."""
        self._reserved.clear()

    def __contains__(self, digest: Any) -> bool:
        return digest in self._accounts

    def __len__(self) -> int:
        return len(self._accounts)

    def __iter__(self) -> Iterator[Digest]:
        """In the order of last use, oldest first."""
        return iter(self._recency)

    def size_of(self, digest: Digest) -> int:
        return self._accounts[digest].size_bytes

    def is_pinned(self, digest: Digest) -> bool:
        return digest in self._pins

    def touch(self, digest: Digest) -> None:
        self._recency.move_to_end(digest)
        self._uses[digest] += 1
        self._reprice(digest)

    def keep(self, digest: Digest, until: float) -> None:
        """Until then it goes only after everything that is not kept. Not a pin: who runs now comes first."""
        if digest in self._accounts:
            self._kept[digest] = max(until, self._kept.get(digest, until))

    def lapse(self, now: float) -> None:
        """What was to be kept until now is like all others; in the same seconds as `keep`."""
        self._kept = {digest: until for digest, until in self._kept.items() if until > now}

    def demote(self, digest: Digest) -> None:
        """Makes it the first to go, pins aside: the router said that nobody waits for it, and it kept it."""
        if digest in self._accounts:
            self._kept.pop(digest, None)
            self._recency.move_to_end(digest, last=False)
            self._priority[digest] = 0.0

    def victims(self, size_bytes: int, *, keep: frozenset[Digest] = frozenset()) -> tuple[Digest, ...]:
        """Who has to go so that `size_bytes` more fit; nothing changes. Raises `NoRoomError`."""
        missing_bytes = size_bytes - self.free_bytes
        chosen: list[Digest] = []
        if missing_bytes <= 0:
            return ()
        for digest in self._eviction_order():
            if digest in self._pins or digest in keep or not self._accounts[digest].size_bytes:
                continue  # what takes no room makes none
            chosen.append(digest)
            missing_bytes -= self._accounts[digest].size_bytes
            if missing_bytes <= 0:
                return tuple(chosen)
        raise NoRoomError(
            tier=self.tier,
            wanted_bytes=size_bytes,
            pinned_bytes=self.pinned_bytes,
            budget_bytes=self.budget_bytes,
        )

    def add(self, digest: Digest, size_bytes: int, *, reload_seconds: float = 0.0) -> tuple[Digest, ...]:
        """Holds it from now on; returns who was evicted for it. Raises `NoRoomError`."""
        if digest in self._accounts:
            self.touch(digest)
            return ()
        evicted = self.victims(size_bytes)
        for victim in evicted:
            self.evict(victim)
        self._accounts[digest] = Entry(size_bytes=size_bytes, reload_seconds=reload_seconds)
        self._recency[digest] = None
        self._uses[digest] = 1
        self._reprice(digest)
        return evicted

    def price(self, digest: Digest, reload_seconds: float) -> None:
        """What it took to bring it: so much it would cost again."""
        if digest in self._accounts:
            self._accounts[digest] = msgspec.structs.replace(
                self._accounts[digest], reload_seconds=reload_seconds
            )
            self._reprice(digest)

    def evict(self, digest: Digest) -> None:
        """Makes a victim leave: whoever stays has aged by what it was worth."""
        self._clock = max(self._clock, self._priority[digest])
        self.discard(digest)

    def discard(self, digest: Digest) -> None:
        """Forgets it. What is pinned must be released first."""
        assert digest not in self._pins, "a pinned entry is in use"
        if digest in self._accounts:
            del self._accounts[digest]
            del self._recency[digest]
            del self._uses[digest]
            del self._priority[digest]
            self._kept.pop(digest, None)

    def pin(self, digest: Digest) -> None:
        assert digest in self._accounts, "only what is held can be pinned"
        self._pins[digest] = self._pins.get(digest, 0) + 1

    def release(self, digest: Digest) -> None:
        """Undoes one `pin`."""
        count = self._pins[digest] - 1
        if count:
            self._pins[digest] = count
        else:
            del self._pins[digest]

    def check_integrity(self) -> None:
        held = set(self._accounts)
        assert held == set(self._recency) == set(self._uses) == set(self._priority)
        assert set(self._pins) | set(self._kept) <= held
        assert all(count > 0 for count in self._pins.values())
        assert self.used_bytes == sum(self._accounts[digest].size_bytes for digest in held)
        assert self.used_bytes <= self.budget_bytes

    def _eviction_order(self) -> Iterator[Digest]:
        if self.order == "lru":
            order: Iterable[Digest] = self._recency
        else:
            order = sorted(self._recency, key=self._priority.__getitem__)
        return iter(sorted(order, key=self._kept.__contains__) if self._kept else order)

    def _reprice(self, digest: Digest) -> None:
        entry = self._accounts[digest]
        worth = self._uses[digest] * entry.reload_seconds / max(entry.size_bytes, 1)
        self._priority[digest] = self._clock + worth
