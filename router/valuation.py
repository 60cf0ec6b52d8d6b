"""What it costs to let weights go: the expected seconds of loading them again.

Pure. A part is worth (probability that it is wanted before it would have left anyway) x (seconds to load it),
discounted when the fleet holds more copies than demand asks for. Rates are read from `demand` at most once a second.
"""

import numpy as np

from router.demand import FAST, SLOW, TARGET_LOAD, Demand
from router.fleet import Fleet
from router.grid import Floats
from router.hosts import Host
from router.residency import DEVICE

HORIZON_SECONDS = 600.0  # for which an unused part would have stayed on the device
SPARE_SHARE = 0.15  # of its worth that a copy keeps which demand does not ask for
REFRESH_SECONDS = 1.0


class Valuation:
    """Worth of each part, by index in the fleet's residency."""

    def __init__(self) -> None:
        self._at = -np.inf
        self._known = 0
        self._wanted: Floats = np.zeros(0)  # probability that a part is wanted within the horizon
        self._copies: Floats = np.zeros(0)  # that demand asks for

    def refresh(self, fleet: Fleet, demand: Demand, now: float) -> None:
        residency = fleet.residency
        if now - self._at < REFRESH_SECONDS and self._known == len(residency.parts):
            return
        self._at, self._known = now, len(residency.parts)
        by_digest = np.array([residency.bundles.get(d) or 0 for d in demand.names], dtype=np.int64)
        rates = np.zeros(len(residency.bundles))
        busy = np.zeros(len(residency.bundles))
        if len(by_digest):
            fast, slow = demand.request_rates(now, FAST), demand.request_rates(now, SLOW)
            np.add.at(rates, by_digest, (fast + slow) / 2)
            np.add.at(busy, by_digest, np.maximum(demand.busy_rates(now, FAST), demand.busy_rates(now, SLOW)))
        part_rates = np.zeros(self._known)
        part_busy = np.zeros(self._known)
        for bundle, parts in enumerate(residency.bundle_parts):
            part_rates[parts] += rates[bundle]
            part_busy[parts] += busy[bundle]
        self._wanted = -np.expm1(-part_rates * HORIZON_SECONDS)
        self._copies = np.maximum(1.0, np.ceil(part_busy / TARGET_LOAD))

    def worth(self, fleet: Fleet, part: int, host: int) -> float:
        """Expected seconds that losing this copy costs."""
        if part >= self._known:
            return fleet.residency.reload_seconds(part, host)
        spare = fleet.residency.copies[part] > self._copies[part]
        share = SPARE_SHARE if spare else 1.0
        return share * float(self._wanted[part]) * fleet.residency.reload_seconds(part, host)

    def evictions(
        self, fleet: Fleet, host: int, needs_bytes: float, bundles: tuple[int, ...], now: float
    ) -> tuple[tuple[int, ...], float]:
        """The cheapest parts to let go so that `needs_bytes` more fit, and what that costs in seconds."""
        residency, record = fleet.residency, fleet.by_index[host]
        missing = float(fleet.used_bytes[host]) + needs_bytes - float(fleet.budget_bytes[host])
        if missing <= 0 or record is None:
            return (), 0.0
        keep = {int(p) for b in bundles for p in residency.bundle_parts[b]}
        for attempt in record.attempts.values():
            keep |= attempt.parts
        priced = sorted(
            (
                self.worth(fleet, part, host) / max(1, residency.part_bytes[part]),
                record.used_at.get(part, 0.0),
                part,
            )
            for part in on_device(fleet, record)
            if part not in keep
        )
        victims, lost = [], 0.0
        for density, _, part in priced:
            victims.append(part)
            lost += density * residency.part_bytes[part]
            missing -= residency.part_bytes[part]
            if missing <= 0:
                break
        return tuple(victims), lost

    def shares_zone(self, fleet: Fleet, bundle: int, host: int) -> bool:
        """Another copy stands in this failure domain and none outside it, though there are others."""
        zones = fleet.zone
        if len(zones) < 2 or zones.max() == 0:
            return False
        holders = (fleet.residency.missing_bytes(bundle) == 0) & (fleet.budget_bytes > 0)
        return bool(holders.any() and (zones[holders] == zones[host]).all())


def on_device(fleet: Fleet, host: Host) -> list[int]:
    held = {part for part, bits in host.held.items() if bits >> DEVICE and part not in host.leaving}
    return sorted(held | host.arriving.keys())
