"""What is on its way to a host's device, and when it will be there. Pure; `fleet` keeps the books.

Hosts fetch from elsewhere apart from their mover: a download holds up nobody whose weights are on the disk, and whoever
waits for one lets others by. Downloads share the network, so one is counted behind the other.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from router.hosts import Host, Running
from router.residency import ABSENT, DISK, Residency

if TYPE_CHECKING:
    from router.fleet import Fleet


def afar_seconds(residency: Residency, bundle: int, host: int) -> float:
    """Of loading it there, what passes until the parts that no tier of the host has are on its disk."""
    missing = [part for part in residency.bundle_parts[bundle] if residency.tier(part, host) == ABSENT]
    fetch = residency.fetch_seconds
    return sum([fetch(part, host, ABSENT) - fetch(part, host, DISK) for part in missing])


def book(fleet: "Fleet", host: Host, bundle: int, now: float) -> float:
    """A load begins: it takes the network's time and the mover's, each apart. Returns when it will be on the device."""
    index, residency = host.index, fleet.residency
    afar, here_at = afar_seconds(residency, bundle, index), now
    if afar:
        here_at = host.network_free_at = max(now, host.network_free_at) + afar
    near, free_at = residency.seconds_at(bundle, index) - afar, max(now, fleet.mover_free_at[index])
    fleet.mover_free_at[index] = free_at + near
    there_at = max(free_at, here_at) + near
    host.arrives_by = max(host.arrives_by, there_at)
    return there_at


def expected_at(fleet: "Fleet", host: int, bundles: Iterable[int], now: float) -> float:
    """When the last of what is on its way there for others will have come; 0 where nothing of them is."""
    record = fleet.by_index[host]
    if record is None or record.arrives_by <= now or not record.arriving:
        return 0.0
    arriving, bundle_parts = record.arriving, fleet.residency.bundle_parts
    return max([arriving.get(part, 0.0) for bundle in bundles for part in bundle_parts[bundle]], default=0.0)


def is_awaited(host: Host, attempt: Running) -> bool:
    """Something of it is not even on the disk yet."""
    arriving, held = host.arriving, host.held
    return attempt.is_afar and any(part in arriving and not held.get(part) for part in attempt.parts)
