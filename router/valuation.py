"""What it costs to let weights go: the expected seconds of loading them again.

Pure. A copy of a part is worth (probability that it is wanted, while all other copies are busy, before it would have
left anyway) x (seconds to load it). Rates are read from `demand` every few seconds.
"""

import math

import numpy as np

from router.demand import FAST, SLOW, Demand
from router.fleet import Fleet
from router.grid import Ints
from router.hosts import Host
from router.residency import ABSENT, DEVICE, Residency

HORIZON_SECONDS = 600.0  # for which an unused part would have stayed on the device
LEAST_BUSY, MOST_BUSY = 0.2, 0.95  # chance that a host with a copy is busy when the copy is wanted
REFRESH_SECONDS = 5.0
DEARER = 100  # times, to let go what is wanted on this host or by a launch
BELOW = (1 << DEVICE) - 1  # the bits of the tiers that a part falls back to


class Valuation:
    """Worth of each part, by index in the fleet's residency."""

    def __init__(self) -> None:
        self._at = -np.inf
        self._known = 0
        self._bundles: Ints = np.zeros(0, dtype=np.int64)
        self._is_version: list[bool] = []  # by demand's index
        # Lists, because placement reads a few entries at a time.
        self._wanted: list[float] = []  # probability that a part is wanted within the horizon
        self._rates: list[float] = []  # requests a second
        self._busy = LEAST_BUSY
        self._fixed: list[float] = []  # seconds that loading it costs whatever its size
        self.kept: frozenset[int] = frozenset()  # parts that a launch wants warm, asked for or not

    def refresh(self, fleet: Fleet, demand: Demand, now: float) -> None:
        residency = fleet.residency
        if now - self._at < REFRESH_SECONDS and self._known == len(residency.parts):
            return
        self._at, self._known = now, len(residency.parts)
        by_digest = self._rows(residency, demand)
        rates = np.zeros(len(residency.bundles))
        if len(by_digest):
            fast, slow = demand.request_rates(now, FAST), demand.request_rates(now, SLOW)
            np.add.at(rates, by_digest, (fast + slow) / 2)
            wanted = demand.busy_rates(now, FAST)[
                self._is_version
            ].sum()  # a run is counted for its adapters too
            speeds = sum(host.hello.speed for host in fleet.hosts.values())
            self._busy = min(MOST_BUSY, max(LEAST_BUSY, float(wanted) / max(speeds, 1e-9)))
        parts, owners = residency.pairs()
        part_rates = np.bincount(parts, weights=rates[owners], minlength=self._known)
        self._rates = part_rates.tolist()
        self._wanted = (-np.expm1(-part_rates * HORIZON_SECONDS)).tolist()
        fixed = np.zeros(self._known)
        fixed[parts] = residency.fixed_seconds()[owners]
        self._fixed = fixed.tolist()

    def _rows(self, residency: Residency, demand: Demand) -> Ints:
        """Demand's index -> bundle; both only ever grow."""
        fresh = demand.names.keys[len(self._bundles) :]
        if fresh:
            known = [residency.bundles.get(digest) or 0 for digest in fresh]
            self._bundles = np.append(self._bundles, np.array(known, dtype=np.int64))
            self._is_version += [residency.described[bundle].kind == "version" for bundle in known]
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
        rate = self._rates[part] * self._busy ** max(0, fleet.residency.copies[part] - 1)
        return -math.expm1(-rate * HORIZON_SECONDS) * seconds

    def of_another(self, fleet: Fleet, bundle: int) -> float:
        """Probability that one more copy of all of it is wanted within the horizon, because all others are busy."""
        parts = [part for part in fleet.residency.bundle_parts[bundle] if part < self._known]
        if not parts:
            return 0.0
        rate = min(self._rates[part] for part in parts)  # what is shared is wanted by others too
        copies = min(fleet.residency.copies[part] for part in parts)
        return -math.expm1(-rate * self._busy**copies * HORIZON_SECONDS)

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
