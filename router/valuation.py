"""What it costs to let weights go: the expected seconds of loading them again.

Pure. A part is worth (probability that it is wanted before it would have left anyway) x (seconds to load it),
discounted when the fleet holds more copies than demand asks for. Rates are read from `demand` every few seconds.
"""

import numpy as np

from router.demand import FAST, SLOW, TARGET_LOAD, Demand
from router.fleet import Fleet
from router.grid import Floats, Ints
from router.hosts import Host
from router.residency import DEVICE, Residency

HORIZON_SECONDS = 600.0  # for which an unused part would have stayed on the device
SPARE_SHARE = 0.5  # of its worth that a copy keeps which demand does not ask for
REFRESH_SECONDS = 5.0


class Valuation:
    """Worth of each part, by index in the fleet's residency."""

    def __init__(self) -> None:
        self._at = -np.inf
        self._known = 0
        self._bundles: Ints = np.zeros(0, dtype=np.int64)
        self._wanted: Floats = np.zeros(0)  # probability that a part is wanted within the horizon
        self._copies: Floats = np.zeros(0)  # that demand asks for
        self.kept: frozenset[int] = frozenset()  # parts that a launch wants warm, asked for or not

    def refresh(self, fleet: Fleet, demand: Demand, now: float) -> None:
        residency = fleet.residency
        if now - self._at < REFRESH_SECONDS and self._known == len(residency.parts):
            return
        self._at, self._known = now, len(residency.parts)
        by_digest = self._rows(residency, demand)
        rates = np.zeros(len(residency.bundles))
        busy = np.zeros(len(residency.bundles))
        if len(by_digest):
            fast, slow = demand.request_rates(now, FAST), demand.request_rates(now, SLOW)
            np.add.at(rates, by_digest, (fast + slow) / 2)
            np.add.at(busy, by_digest, np.maximum(demand.busy_rates(now, FAST), demand.busy_rates(now, SLOW)))
        parts, owners = residency.pairs()
        part_rates = np.bincount(parts, weights=rates[owners], minlength=self._known)
        part_busy = np.bincount(parts, weights=busy[owners], minlength=self._known)
        self._wanted = -np.expm1(-part_rates * HORIZON_SECONDS)
        self._copies = np.maximum(1.0, np.ceil(part_busy / TARGET_LOAD))

    def _rows(self, residency: Residency, demand: Demand) -> Ints:
        """Demand's index -> bundle; both only ever grow."""
        fresh = demand.names.keys[len(self._bundles) :]
        if fresh:
            known = [residency.bundles.get(digest) or 0 for digest in fresh]
            self._bundles = np.append(self._bundles, np.array(known, dtype=np.int64))
        return self._bundles

    def wanted(self, part: int) -> float:
        """Probability that it is wanted within the horizon; a part that just became known counts as wanted."""
        return float(self._wanted[part]) if part < self._known else 1.0

    def worth(self, fleet: Fleet, part: int, host: int) -> float:
        """Expected seconds that losing this copy costs."""
        if part >= self._known or part in self.kept:
            return fleet.residency.reload_seconds(part, host)
        spare = fleet.residency.copies[part] > self._copies[part]
        share = SPARE_SHARE if spare else 1.0
        return share * float(self._wanted[part]) * fleet.residency.reload_seconds(part, host)

    def evictions(
        self, fleet: Fleet, host: int, needs_bytes: float, keep: set[int]
    ) -> tuple[tuple[int, ...], float]:
        """The cheapest parts to let go so that `needs_bytes` more fit, and what that costs in seconds.

        What `keep` names or a launch wants goes last, what attempts on the host use never.
        """
        residency, record = fleet.residency, fleet.by_index[host]
        missing = float(fleet.used_bytes[host]) + needs_bytes - float(fleet.budget_bytes[host])
        if missing <= 0 or record is None:
            return (), 0.0
        used = frozenset().union(*(attempt.parts for attempt in record.attempts.values()))
        priced = sorted(
            (
                self.worth(fleet, part, host)
                / max(1, residency.part_bytes[part])
                * (1 + 99 * (part in keep or part in self.kept)),
                record.used_at.get(part, 0.0),
                part,
            )
            for part in on_device(fleet, record)
            if part not in used
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
