"""What placement reads of each host as numbers, so that one request is priced on all hosts at once.

Pure. `fleet` writes them, host by host, as it folds what happened; nothing else does. Each question has its numbers
twice over the same memory: `fleet.speed[host]` is one host's, `fleet.arrays.speed` all of them for numpy. One number
out of a numpy array costs three times what it costs out of a memory view, and a decision reads dozens.
"""

import heapq
from typing import NamedTuple

import numpy as np

from router.grid import Floats, Grid, cells
from router.hosts import OVERRUN_SHARE

NEVER = 1e12  # later than any clock; finite, so that sums with it stay numbers


class HostArrays(NamedTuple):
    """By host; the rows of one array. `HostNumbers` says what each holds."""

    free_slots: Floats
    device_free_at: Floats
    mover_free_at: Floats
    loads_from: Floats
    speed: Floats
    slowness: Floats
    budget_bytes: Floats
    used_bytes: Floats
    pinned_bytes: Floats
    overlaps: Floats
    zone: Floats
    run_ends_at: Floats
    run_began_at: Floats
    behind_seconds: Floats


class HostNumbers:
    """One number per question and host."""

    def __init__(self) -> None:
        self._numbers = Grid(2)
        self.same_slowness = 0.0  # of all hosts; 0 where they differ
        self._free = 0  # see `free_by`
        self._looks: list[tuple[float, int]] = []  # a heap of when to look which hosts are free
        self._looked_at: dict[int, float] = {}
        self._none_late_before = NEVER  # no run is expected to end before this; may be too early
        self.reserve(0)

    def reserve(self, hosts: int) -> None:
        """Make room; earlier views are stale afterwards."""
        self._numbers.reserve(len(HostArrays._fields), max(hosts, 1))
        self.arrays = HostArrays(*self._numbers.cells[: len(HostArrays._fields), :hosts])
        (
            self.free_slots,  # attempts a host takes now; 0 for one that is gone or draining
            # When all that is assigned has run, as expected at its last report; `NEVER` for one gone or draining.
            self.device_free_at,
            self.mover_free_at,  # all loads under way are done
            self.loads_from,  # where more can be loaded from then on: what waits for the device is not counted here
            self.speed,
            self.slowness,  # 1 / speed
            self.budget_bytes,
            self.used_bytes,  # on the device, with what is arriving, without what is leaving
            self.pinned_bytes,  # of it for attempts, so that no load may push it out
            self.overlaps,  # 1 where a host loads for the next attempt while one runs
            self.zone,  # a number per failure domain
            self.run_ends_at,  # expected of what runs now; `NEVER` while nothing does
            self.run_began_at,
            self.behind_seconds,  # that assigned attempts run after it
        ) = map(cells, self.arrays)

    def expect_free(self, host: int, free_at: float, now: float) -> None:
        """When all that is assigned there has run, as known now."""
        self.device_free_at[host] = free_at
        if free_at <= now:
            self._free |= 1 << host
        else:
            self._free &= ~(1 << host)
            self._look_at(host, free_at)

    def _look_at(self, host: int, when: float) -> None:
        """One time per host is enough: if it is too early, it is put off then."""
        if when < self._looked_at.get(host, NEVER):
            self._looked_at[host] = when
            heapq.heappush(self._looks, (when, host))

    def free_by(self, now: float) -> int:
        """The hosts, a bit for each, that were expected to be free by now. Some of them may be late."""
        while self._looks and self._looks[0][0] <= now:
            when, host = heapq.heappop(self._looks)
            if self._looked_at.get(host) == when:
                del self._looked_at[host]
                if self.device_free_at[host] <= now:
                    self._free |= 1 << host
                else:
                    self._look_at(host, self.device_free_at[host])
        return self._free

    def expect_end(self, host: int, ends_at: float) -> None:
        """Of what runs there now; `NEVER` when nothing does."""
        self.run_ends_at[host] = ends_at
        self._none_late_before = min(self._none_late_before, ends_at)

    def free_at(self, now: float) -> Floats:
        """When each device has run all that is assigned. What runs longer than expected needs a share of that still,
        and nobody reports that: so it grows with the clock.
        """
        numbers = self.arrays
        found: Floats = np.maximum(numbers.device_free_at, now)
        if self._none_late_before < now:
            ends_at = numbers.run_ends_at
            late = (ends_at < now).nonzero()[0]
            if len(late):
                overrun = OVERRUN_SHARE * (now - numbers.run_began_at[late]) + numbers.behind_seconds[late]
                found[late] = np.maximum(found[late], now + overrun)
            else:
                self._none_late_before = ends_at.min(initial=NEVER)
        return found

    def run_seconds(self, seconds: float) -> Floats | float:
        """What a run of so many seconds takes on each host; one number where all are equally fast."""
        return seconds * self.same_slowness if self.same_slowness else self.arrays.slowness * seconds

    def free_at_on(self, host: int, now: float) -> float:
        """The same on one host."""
        free_at = self.device_free_at[host]
        free_at = now if free_at < now else free_at  # noqa: FURB136  a third of what `max` takes
        if self.run_ends_at[host] >= now:
            return free_at
        overrun = OVERRUN_SHARE * (now - self.run_began_at[host]) + self.behind_seconds[host]
        return max(free_at, now + overrun)
