"""The way on which a simulated host's weights come from elsewhere onto its disk, apart from its mover. Pure.

One part after the other, as fast as the network is: what real hosts fetch at the same time shares it. What two want
comes once, and what somebody waits for is pinned on the disk until it has been loaded.
"""

from collections.abc import Callable, Mapping, Sequence

from loaders.cache import WeightCache
from loaders.errors import NoRoomError
from loaders.protocol import FromHost, Held, Residency, Tier
from loaders.tiers import Want, plan
from registry.catalog import Digest
from router.residency import Part
from router.simulator.hardware import Attempt


class Network:
    """`later(when, callback)` is the engine's clock; `arrived` is told after each part."""

    def __init__(
        self,
        caches: Mapping[Tier, WeightCache],
        bytes_per_second: float,
        *,
        later: Callable[[float, Callable[[float], None]], None],
        say: Callable[[FromHost], None],
        arrived: Callable[[float], None],
    ) -> None:
        self.free_at = 0.0
        self._coming: dict[Digest, float] = {}  # until when
        self._caches, self._disk = caches, caches["disk"]
        self._bytes_per_second = bytes_per_second
        self._later, self._say, self._arrived = later, say, arrived

    def absent(self, attempt: Attempt) -> list[Part]:
        """What no tier holds, or what is on its way."""
        caches = self._caches.values()
        return [
            part
            for digest, part in attempt.parts.items()
            if digest in self._coming or not any(digest in cache for cache in caches)
        ]

    def fetch(self, attempt: Attempt, now: float) -> None:
        """What is absent of it. Where the disk has no room for that, the mover brings it when it is its turn."""
        absent = self.absent(attempt)
        attempt.fetched = self._bring(absent, now) if absent else ()

    def is_awaited(self, attempt: Attempt) -> bool:
        return bool(self._coming and attempt.fetched and not self._coming.keys().isdisjoint(attempt.fetched))

    def _bring(self, parts: Sequence[Part], now: float) -> tuple[Digest, ...]:
        """Those that begin to come, pinned on the disk from now on."""
        fresh = [part for part in parts if part.digest not in self._coming]
        wants = [Want(digest=p.digest, disk_bytes=p.size_bytes, device_bytes=p.size_bytes) for p in fresh]
        try:
            moves = plan(wants, {"disk": self._disk}, target="disk")
        except NoRoomError:
            return ()
        gone = [
            Held(digest=m.digest, tier="disk", size_bytes=m.size_bytes) for m in moves if m.kind == "evict"
        ]
        for held in gone:
            self._disk.discard(held.digest)
        if gone:
            self._say(Residency(removed=tuple(gone)))
        for part in fresh:
            self._begin(part, now)
        for part in parts:
            self._disk.pin(part.digest)
        return tuple(part.digest for part in parts)

    def _begin(self, part: Part, now: float) -> None:
        self._disk.add(part.digest, part.size_bytes)
        self.free_at = max(now, self.free_at) + part.size_bytes / self._bytes_per_second
        self._coming[part.digest] = self.free_at
        self._later(self.free_at, lambda at: self._end(part, at))

    def _end(self, part: Part, now: float) -> None:
        if self._coming.get(part.digest) == now:  # else the host died meanwhile
            del self._coming[part.digest]
            held = Held(digest=part.digest, tier="disk", size_bytes=part.size_bytes)
            self._say(Residency(added=(held,)))
            self._arrived(now)

    def let_go(self, attempt: Attempt) -> None:
        """It has been loaded, or nobody wants it any more."""
        for digest in attempt.fetched or ():
            self._disk.release(digest)
        attempt.fetched = ()

    def break_off(self) -> None:
        """The host dies; nobody waits any more."""
        for digest in self._coming:
            self._disk.discard(digest)
        self._coming.clear()
        self.free_at = 0.0
