"""What one request would cost on each host, term by term, in expected seconds.

Pure. Every host gets a lower bound at once, in a few passes over arrays; the exact price of a host is worked out
only while its bound says that it may be among the cheapest. So the answer is the same as if all had been priced,
at a fraction of the work. It chooses nothing; `placement` does.
"""

from bisect import insort
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import msgspec
import numpy as np

from router.demand import Demand, RunTimes
from router.fairness import Fairness
from router.fleet import Fleet
from router.grid import Floats
from router.numbers import NEVER
from router.valuation import Valuation
from router.waiting import Entry, Waiting


class Knobs(msgspec.Struct, frozen=True, kw_only=True):
    """Weights of the price's terms; the simulator tunes them."""

    regret: float = 2.0  # of a second of expected reloading, where others wait
    order: float = 0.1  # seconds that a second of virtual time (fair order) is worth
    steal_margin_seconds: float = 0.5  # that a host must gain before it takes what is planned elsewhere
    spread_seconds: float = 0.5  # price of a second copy in the same failure domain
    mover: float = 0.6  # of a second of loading, hidden or not, where others wait for movers and devices
    scarce: float = 1.0  # planned requests per host, from which on these two have their whole price
    least_scarcity: float = 0.1  # of it that regret has on an idle fleet
    stall: float = 1.0
    prefetch_regret_seconds: float = 2.0  # that fetching ahead for a plan may cost
    shortlist: int = 4  # hosts whose eviction regret is worked out


class Candidate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One host's price for one request, by term, in seconds."""

    host_id: str
    wait: float
    load: float  # beyond what the wait hides
    adapters: float
    run: float
    regret: float
    spread: float = 0.0
    mover: float = 0.0  # what occupying the host's mover costs others

    @property
    def total(self) -> float:
        return self.wait + self.load + self.adapters + self.run + self.regret + self.spread + self.mover


@dataclass
class State:
    """All that placement reads. `waiting` and `fleet.opened` also remember what it has already looked at."""

    fleet: Fleet
    waiting: Waiting
    demand: Demand
    run_times: RunTimes
    knobs: Knobs = field(default_factory=Knobs)
    valuation: Valuation = field(default_factory=Valuation)

    @property
    def scarcity(self) -> float:
        """How many others a second of loading delays: nobody on an idle fleet, where it is only one's own wait."""
        hosts = len(self.fleet.hosts)
        return min(1.0, self.waiting.planned / (hosts * self.knobs.scarce)) if hosts else 1.0

    @property
    def fairness(self) -> Fairness:
        return self.waiting.fairness


class Offer(NamedTuple):
    """One host's exact price before regret. They order by it; equal prices go to who joined first."""

    done_at: float  # with the mover's price
    host: int


@dataclass(slots=True)
class Priced:
    """An offer with its regret."""

    index: int
    candidate: Candidate
    victims: tuple[int, ...]  # parts that would be evicted
    total: float


class Prices:
    """One request's prices; on `first_on` it would go before all that is planned there."""

    def __init__(
        self, state: State, entry: Entry, tag: float, now: float, *, first_on: int | None = None
    ) -> None:
        self.state, self.entry, self.now = state, entry, now
        fleet, residency = state.fleet, state.fleet.residency
        self._ahead = state.waiting.planned_ahead(tag, len(fleet.device_free_at))
        if self._ahead is not None and first_on is not None:
            self._ahead[first_on] = 0.0
        self._load, *adapters = [residency.seconds(bundle) for bundle in entry.bundles]
        self._fetch = self._load if not adapters else sum(adapters, self._load)
        scarcity, knobs = state.scarcity, state.knobs
        self._mover = knobs.mover * scarcity
        self._regret = knobs.regret * max(scarcity, knobs.least_scarcity)
        self._priced: dict[int, Priced] = {}
        self.offers = self._nearest(first_on)

    def _bounds(self) -> Floats:
        """When it would be done, or earlier; exact where the mover is idle and the weights fit beside what runs."""
        fleet, fetch = self.state.fleet, self._fetch
        free_at = fleet.free_at(self.now)
        if self._ahead is not None:
            free_at += self._ahead
        bounds: Floats = fetch + self.now
        np.maximum(bounds, free_at, out=bounds)
        bounds += fetch * self._mover
        bounds += fleet.slowness * self.entry.run_seconds
        total_bytes = sum([fleet.residency.size_bytes(bundle) for bundle in self.entry.bundles])
        if total_bytes > fleet.least_budget_bytes:
            bounds[fleet.budget_bytes < total_bytes] = NEVER
        for name in self.entry.work.excluded_hosts:
            if (index := fleet.names.get(name)) is not None:
                bounds[index] = NEVER
        return bounds

    def _nearest(self, include: int | None) -> list[Offer]:
        """The hosts that are cheapest before regret, cheapest first; `include` in any case, if it can run it."""
        bounds, count = self._bounds(), self.state.knobs.shortlist
        extra = None
        if include is not None and bounds.item(include) < NEVER / 2:
            extra = Offer(self._done_at(include), include)
        found: list[Offer] = []
        for _ in range(len(bounds)):
            index = int(bounds.argmin())
            bound = bounds.item(index)
            if bound >= NEVER / 2 or (len(found) >= count and (bound, index) >= found[count - 1]):
                break
            bounds[index] = NEVER
            done_at = self._done_at(index) if self._fetch.item(index) > 0 else bound
            insort(found, Offer(done_at, index))
        del found[count:]
        if extra is not None and extra not in found:
            found.append(extra)
        return found

    def _times(self, index: int) -> tuple[float, float]:
        """When the device is free, with what is planned before it, and when the run begins there."""
        fleet, now = self.state.fleet, self.now
        free_at = fleet.free_at_on(index, now)
        if self._ahead is not None:
            free_at += self._ahead.item(index)
        fetch = self._fetch.item(index)
        if fetch == 0:
            return free_at, free_at
        fits = fleet.pinned_bytes.item(index) + self._needs(index) <= fleet.budget_bytes.item(index)
        beside = fits and fleet.overlaps.item(index)
        fetch_from = max(fleet.mover_free_at.item(index), now) if beside else free_at
        return free_at, max(free_at, fetch_from + fetch)

    def _done_at(self, index: int) -> float:
        _, start_at = self._times(index)
        mover = self._mover * self._fetch.item(index)
        run: float = self.entry.run_seconds * self.state.fleet.slowness.item(index)
        return start_at + mover + run

    def _needs(self, index: int) -> float:
        """Bytes that are missing there."""
        missing = self.state.fleet.residency.missing_bytes_at
        return sum([missing(bundle, index) for bundle in self.entry.bundles])

    def on(self, index: int) -> Priced | None:
        """With regret, on one host that was offered."""
        return next((self._price(offer) for offer in self.offers if offer.host == index), None)

    def cheapest(self) -> Priced | None:
        """Of all offers, regret included. Those that are dearer without it than another with it are not priced."""
        best: Priced | None = None
        for offer in self.offers:
            if best is None or offer.done_at - self.now <= best.total:
                priced = self._price(offer)
                if best is None or (priced.total, priced.index) < (best.total, best.index):
                    best = priced
        return best

    def candidates(self) -> tuple[Candidate, ...]:
        """All offers with their regret, cheapest first."""
        priced = [self._price(offer) for offer in self.offers]
        priced.sort(key=_total)
        return tuple([each.candidate for each in priced])

    @cached_property
    def _parts(self) -> set[int]:
        residency = self.state.fleet.residency
        return {part for bundle in self.entry.bundles for part in residency.bundle_parts[bundle]}

    @cached_property
    def _only_zone(self) -> float | None:
        return self.state.valuation.only_zone(self.state.fleet, self.entry.bundles[0])

    def _price(self, offer: Offer) -> Priced:
        index = offer.host
        if (known := self._priced.get(index)) is not None:
            return known
        state, fleet, knobs = self.state, self.state.fleet, self.state.knobs
        free_at, start_at = self._times(index)
        fetch = self._fetch.item(index)
        victims: tuple[int, ...] = ()
        regret = spread = 0.0
        if fetch > 0:
            keep = self._parts | planned_parts(state, index)
            victims, lost = state.valuation.evictions(fleet, index, self._needs(index), keep)
            regret = self._regret * lost
            spread = knobs.spread_seconds * (fleet.zone.item(index) == self._only_zone)
        own = self._load.item(index) / fetch if fetch > 0 else 1.0  # the version's share of what it waits for
        candidate = Candidate(
            host_id=fleet.names.keys[index],
            wait=free_at - self.now,
            load=(start_at - free_at) * own,
            adapters=(start_at - free_at) * (1 - own),
            run=self.entry.run_seconds * fleet.slowness.item(index),
            regret=regret,
            spread=spread,
            mover=self._mover * fetch,
        )
        total = offer.done_at - self.now + regret + spread
        priced = self._priced[index] = Priced(index, candidate, victims, total)
        return priced


def _total(priced: Priced) -> tuple[float, int]:
    return (priced.total, priced.index)


def finish_on(state: State, host: int, free_at: float, now: float) -> Floats:
    """When each waiting request would be done if this host took it next, by row of the pool."""
    waiting, fleet = state.waiting, state.fleet
    fetch = fleet.residency.seconds_on(waiting.bundles[0], host)
    if waiting.adapted:
        for adapter in waiting.bundles[1:]:
            fetch = fetch + fleet.residency.seconds_on(adapter, host)
    mover_free_at = max(now, fleet.mover_free_at.item(host)) if fleet.overlaps.item(host) else free_at
    start_at = fetch + mover_free_at
    if mover_free_at > free_at:
        start_at[fetch == 0] = free_at  # what is there does not wait for the mover
    finish_at: Floats = np.maximum(start_at, free_at, out=start_at)
    finish_at += waiting.run_seconds * fleet.slowness.item(host)
    return finish_at


def planned_parts(state: State, host: int) -> set[int]:
    """Parts that requests planned on this host will need there."""
    rows, bundle_parts = state.waiting.planned_on.get(host), state.fleet.residency.bundle_parts
    if not rows:
        return set()
    return {
        part for row in rows for bundle in state.waiting.entry(row).bundles for part in bundle_parts[bundle]
    }
