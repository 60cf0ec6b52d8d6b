"""Which moves bring wanted weights near enough to run: `plan(wanted, tiers) -> moves`.

Pure. It reads the tiers' caches and changes nothing; `residency` carries the moves out and folds them back. A
tier that a host does not have (a CPU has no memory apart from its device's) is simply absent.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from loaders.cache import WeightCache
from loaders.protocol import Tier
from registry.catalog import Digest

NEARNESS: tuple[Tier, ...] = ("disk", "memory", "device")  # far to near


class Want(msgspec.Struct, frozen=True, kw_only=True):
    """One component or adapter that has to come. Its size differs by tier: casting and alignment change it."""

    digest: Digest
    disk_bytes: int
    device_bytes: int
    reload_seconds: float = 0.0

    def bytes_in(self, tier: Tier) -> int:
        return self.disk_bytes if tier == "disk" else self.device_bytes


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """`fetch` fills the disk, `load` reads from the disk, `copy` goes from memory to device, `evict` leaves a tier."""

    kind: Literal["fetch", "load", "copy", "evict"]
    digest: Digest
    tier: Tier  # the tier that gains it, or loses it
    size_bytes: int


def plan(
    wanted: Sequence[Want], tiers: Mapping[Tier, WeightCache], *, target: Tier = "device"
) -> tuple[Move, ...]:
    """Evictions of a tier come before its arrivals, far tiers before near ones. Raises `NoRoomError`."""
    keep = frozenset(want.digest for want in wanted)
    moves: list[Move] = []
    chain = [tier for tier in NEARNESS[: NEARNESS.index(target) + 1] if tier in tiers]
    for position, tier in enumerate(chain):
        arriving = [want for want in wanted if _has_to_enter(want, tiers, chain[position:])]
        moves += _evictions(tiers[tier], tier, sum(want.bytes_in(tier) for want in arriving), keep)
        kind = _arrival_kind(tier, chain)
        moves += [
            Move(kind=kind, digest=want.digest, tier=tier, size_bytes=want.bytes_in(tier))
            for want in arriving
        ]
    return tuple(moves)


def _has_to_enter(want: Want, tiers: Mapping[Tier, WeightCache], rest: Sequence[Tier]) -> bool:
    """True where neither this tier nor a nearer one holds it."""
    return not any(want.digest in tiers[tier] for tier in rest)


def _arrival_kind(tier: Tier, chain: Sequence[Tier]) -> Literal["fetch", "load", "copy"]:
    if tier == "disk":
        return "fetch"
    return "copy" if tier == "device" and "memory" in chain else "load"


def _evictions(cache: WeightCache, tier: Tier, arriving_bytes: int, keep: frozenset[Digest]) -> list[Move]:
    return [
        Move(kind="evict", digest=digest, tier=tier, size_bytes=cache.size_of(digest))
        for digest in cache.victims(arriving_bytes, keep=keep)
    ]
