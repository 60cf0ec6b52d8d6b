"""What it costs to let weights go: the expected seconds of loading them again.

Pure. A part is worth (probability that it is wanted before it would have left anyway) x (seconds to load it),
discounted when the fleet holds more copies than demand asks for. Rates are read from `demand` every few seconds.
"""

import numpy as np

from router.demand import FAST, SLOW, TARGET_LOAD, Demand
from router.fleet import Fleet
from router.grid import Ints
from router.hosts import Host
from router.residency import ABSENT, DEVICE, Residency

HORIZON_SECONDS = 600.0  # for which an unused part would have stayed on the device
SPARE_SHARE = 0.5  # of its worth that a copy keeps which demand does not ask for
REFRESH_SECONDS = 5.0
DEARER = 100  # times, to let go what is wanted on this host or by a launch
BELOW = (1 << DEVICE) - 1  # the bits of the tiers that a part falls back to


class Valuation:
    """Worth of each part, by index in the fleet's residency."""

    def __init__(self) -> None:
        self._at = -np.inf
        self._known = 0
        self._bundles: Ints = np.zeros(0, dtype=np.int64)
        # Lists, because placement reads a few entries at a time.
        self._wanted: list[float] = []  # probability that a part is wanted within the horizon
        self._copies: list[float] = []  # that demand asks for
        self._fixed: list[float] = []  # seconds that loading it costs whatever its size
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
        self._wanted = (-np.expm1(-part_rates * HORIZON_SECONDS)).tolist()
        self._copies = np.maximum(1.0, np.ceil(part_busy / TARGET_LOAD)).tolist()
        fixed = np.zeros(self._known)
        fixed[parts] = residency.fixed_seconds()[owners]
        self._fixed = fixed.tolist()

    def _rows(self, residency: Residency, demand: Demand) -> Ints:
        """Demand's index -> bundle; both only ever grow."""
        fresh = demand.names.keys[len(self._bundles) :]
        if fresh:
            known = [residency.bundles.get(digest) or 0 for digest in fresh]
            self._bundles = np.append(self._bundles, np.array(known, dtype=np.int64))
        return self._bundles

    def wanted(self, part: int) -> float:
        """Probability that it is wanted within the horizon; a part that just became known counts as wanted."""
        return self._wanted[part] if part < self._known else 1.0

    def worth(self, fleet: Fleet, host: Host, part: int) -> float:
        """Expected seconds that losing this copy costs."""
        below = host.held.get(part, 0) & BELOW
        seconds = fleet.residency.fetch_seconds(part, host.index, below.bit_length() - 1 if below else ABSENT)
        if part >= self._known:
            return seconds
        seconds += self._fixed[part]
        if part in self.kept:
            return seconds
        spare = fleet.residency.copies[part] > self._copies[part]
        return (SPARE_SHARE if spare else 1.0) * self._wanted[part] * seconds

    def evictions(
        self, fleet: Fleet, host: int, needs_bytes: float, keep: set[int]
    ) -> tuple[tuple[int, ...], float]:
        """The cheapest parts to let go so that `needs_bytes` more fit, and what that costs in seconds.

        What `keep` names or a launch wants goes last, what attempts on the host use never.
        """
        record = fleet.by_index[host]
        missing = fleet.used_bytes[host] + needs_bytes - fleet.budget_bytes[host]
        if missing <= 0 or record is None:
            return (), 0.0
        part_bytes, priced = fleet.residency.part_bytes, []
        for part in record.on_device - record.pinned:
            density = self.worth(fleet, record, part) / max(1, part_bytes[part])
            if part in keep or part in self.kept:
                density *= DEARER
            priced.append((density, record.used_at.get(part, 0.0), part))
        priced.sort()
        victims, lost = [], 0.0
        for density, _, part in priced:
            victims.append(part)
            lost += density * part_bytes[part]
            missing -= part_bytes[part]
            if missing <= 0:
                break
        return tuple(victims), lost

    def only_zone(self, fleet: Fleet, bundle: int) -> float | None:
        """The one failure domain in which all copies stand, though there are others."""
        if not fleet.has_several_zones:
            return None
        holders = fleet.residency.holders(bundle)
        if not holders:
            return None
        zone = fleet.zone[holders.bit_length() - 1]
        return None if holders & ~fleet.zone_hosts[zone] else zone
