"""What placement reads of each host as numbers in arrays, so that one request is priced on all hosts at once.

Pure. `fleet` writes them, host by host, as it folds what happened; nothing else does.
"""

import numpy as np

from router.grid import Floats, Grid
from router.hosts import OVERRUN_SHARE

NEVER = 1e12  # later than any clock; finite, so that sums with it stay numbers


class HostNumbers:
    """One array per question, indexed by host."""

    def __init__(self) -> None:
        self._numbers = Grid(2)
        self._numbers.reserve(13, 1)
        self._view(0)

    def reserve(self, hosts: int) -> None:
        """Make room; earlier views are stale afterwards."""
        self._numbers.reserve(13, hosts)
        self._view(hosts)

    def _view(self, hosts: int) -> None:
        """Bind the rows of the one array by name; needed after it grew."""
        rows = self._numbers.cells[:, :hosts]
        self.free_slots: Floats = rows[0]  # attempts a host takes now; 0 for one that is gone or draining
        # When all that is assigned has run, as expected at its last report; `NEVER` for one gone or draining.
        self.device_free_at: Floats = rows[1]
        self.mover_free_at: Floats = rows[2]  # all loads under way are done
        self.speed: Floats = rows[3]
        self.budget_bytes: Floats = rows[4]
        self.used_bytes: Floats = rows[5]  # on the device, with what is arriving, without what is leaving
        self.pinned_bytes: Floats = rows[6]  # of it for attempts, so that no load may push it out
        self.overlaps: Floats = rows[7]  # 1 where a host loads for the next attempt while one runs
        self.zone: Floats = rows[8]  # a number per failure domain
        self.slowness: Floats = rows[9]  # 1 / speed
        self.run_ends_at: Floats = rows[10]  # expected of what runs now; `NEVER` while nothing does
        self.run_began_at: Floats = rows[11]
        self.behind_seconds: Floats = rows[12]  # that assigned attempts run after it

    def free_at(self, now: float) -> Floats:
        """When each device has run all that is assigned. What runs longer than expected needs a share of that still,
        and nobody reports that: so it grows with the clock.
        """
        found: Floats = np.maximum(self.device_free_at, now)
        late = (self.run_ends_at < now).nonzero()[0]
        if len(late):
            found[late] = [self.free_at_on(index, now) for index in late.tolist()]
        return found

    def free_at_on(self, index: int, now: float) -> float:
        """The same on one host."""
        free_at: float = max(self.device_free_at.item(index), now)
        if self.run_ends_at.item(index) >= now:
            return free_at
        overrun = OVERRUN_SHARE * (now - self.run_began_at.item(index)) + self.behind_seconds.item(index)
        return max(free_at, now + overrun)
