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

from router import arrivals
from router.demand import Demand, RunTimes
from router.fairness import Fairness
from router.fleet import Fleet
from router.grid import Floats, cells
from router.knobs import Knobs
from router.numbers import NEVER
from router.valuation import Valuation
from router.waiting import Entry, Waiting

FEW = 8  # hosts, up to which each is priced by itself: quicker than numpy's calls
READY_LOOKED_AT = 16  # hosts that could begin now, some of them late with what they run


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
    free_at: float  # the device, with what is planned before it
    start_at: float  # the run
    fetch: float  # seconds of loading


class Priced(NamedTuple):
    """An offer with its regret."""

    total: float
    host: int
    candidate: Candidate
    victims: tuple[int, ...]  # parts that would be evicted


class Prices:
    """One request's prices; on `first_on` it would go before all that is planned there."""

    def __init__(
        self, state: State, entry: Entry, tag: float, now: float, *, first_on: int | None = None
    ) -> None:
        self.state, self.entry, self.now, self._tag = state, entry, now, tag
        scarcity, knobs = state.scarcity, state.knobs
        self._total_bytes = sum(map(state.fleet.residency.size_bytes, entry.bundles))
        self._mover = knobs.mover * scarcity
        self._regret = knobs.regret * max(scarcity, knobs.least_scarcity)
        self._ahead: Floats | None = None
        self._priced: dict[int, Priced] = {}
        self.offers = (self._ready() if first_on is None else None) or self._nearest(first_on)

    def _ready(self) -> list[Offer] | None:
        """Where it could begin now, if that is enough: with equally fast hosts nothing is cheaper before regret.

        None to have them all compared, as one of these has plans or memory that has to be looked at.
        """
        fleet, now = self.state.fleet, self.now
        if not fleet.same_slowness or self._total_bytes > fleet.least_budget_bytes:
            return None
        hosts = fleet.free_by(now)
        for bundle in self.entry.bundles:
            hosts &= fleet.residency.holders(bundle)
        if not hosts:
            return None
        for host in self.state.waiting.planned_on:
            if hosts >> host & 1:
                return None
        for name in self.entry.work.excluded_hosts:
            if (index := fleet.names.get(name)) is not None:
                hosts &= ~(1 << index)
        return self._first_ready(hosts, now + self.entry.run_seconds * fleet.same_slowness)

    def _first_ready(self, hosts: int, done_at: float) -> list[Offer] | None:
        """The first of these hosts (a bit for each) whose run would not be late; None if they are not enough."""
        now, count, free_at_on = self.now, self.state.knobs.shortlist, self.state.fleet.free_at_on
        found: list[Offer] = []
        for _ in range(READY_LOOKED_AT):
            if not hosts:
                break
            rest = hosts & (hosts - 1)
            host = (hosts ^ rest).bit_length() - 1
            hosts = rest
            if free_at_on(host, now) == now and self._arrives_at(host) <= now:
                found.append(Offer(done_at, host, now, now, 0.0))
                if len(found) == count:
                    return found
        return None

    def _fetches(self) -> Floats:
        """Per host, the seconds of loading all that is missing. May be a view: do not write."""
        residency = self.state.fleet.residency
        version, *adapters = self.entry.bundles
        fetch = residency.seconds(version)
        for adapter in adapters:
            fetch = fetch + residency.seconds(adapter)
        return fetch

    def _bounds(self, fetch: Floats) -> Floats:
        """When it would be done, or earlier; exact where the weights fit beside what runs, or nothing runs."""
        fleet = self.state.fleet
        free_at = fleet.free_at(self.now)
        if self._ahead is not None:
            free_at += self._ahead
        bounds: Floats = np.minimum(fleet.arrays.loads_from, free_at)
        np.maximum(bounds, self.now, out=bounds)
        bounds += fetch
        np.maximum(bounds, free_at, out=bounds)  # just this where nothing is missing
        if self._mover:
            bounds += fetch * self._mover
        bounds += fleet.run_seconds(self.entry.run_seconds)
        if self._total_bytes > fleet.least_budget_bytes:
            bounds[fleet.arrays.budget_bytes < self._total_bytes] = NEVER
        for name in self.entry.work.excluded_hosts:
            if (index := fleet.names.get(name)) is not None:
                bounds[index] = NEVER
        return bounds

    def _nearest(self, include: int | None) -> list[Offer]:
        """The hosts that are cheapest before regret, cheapest first; `include` in any case, if it can run it."""
        fleet = self.state.fleet
        self._ahead = self.state.waiting.planned_ahead(self._tag, len(fleet.by_index))
        if self._ahead is not None and include is not None:
            self._ahead[include] = 0.0
        if len(fleet.hosts) <= FEW:
            return self._all(include)
        count, fetch = self.state.knobs.shortlist, self._fetches()
        bounds = self._bounds(fetch)
        bound_of, fetch_of = cells(bounds), fetch.item
        extra = None
        if include is not None and bound_of[include] < NEVER / 2:
            extra = self._offer(include, fetch_of(include))
        found: list[Offer] = []
        for _ in range(len(bounds)):
            index = int(bounds.argmin())
            bound = bound_of[index]
            if bound >= NEVER / 2 or (len(found) >= count and (bound, index) >= found[count - 1]):
                break
            bound_of[index] = NEVER
            insort(found, self._offer(index, fetch_of(index)))
        del found[count:]
        if extra is not None and extra not in found:
            found.append(extra)
        return found

    def _all(self, include: int | None) -> list[Offer]:
        """The same without bounds."""
        fleet, work, bundles = self.state.fleet, self.entry.work, self.entry.bundles
        seconds = fleet.residency.seconds_at
        found: list[Offer] = []
        for name, host in fleet.hosts.items():
            if self._total_bytes <= fleet.budget_bytes[host.index] and name not in work.excluded_hosts:
                fetch = sum([seconds(bundle, host.index) for bundle in bundles])
                insort(found, self._offer(host.index, fetch))
        count = self.state.knobs.shortlist
        return [
            offer
            for place, offer in enumerate(found)
            if offer.done_at < NEVER / 2 and (place < count or offer.host == include)
        ]

    def _offer(self, host: int, fetch: float) -> Offer:
        """The exact price on one host."""
        fleet, now = self.state.fleet, self.now
        free_at = start_at = fleet.free_at_on(host, now)
        run = self.entry.run_seconds * fleet.slowness[host]
        if self._ahead is not None:
            free_at = start_at = free_at + self._ahead.item(host)
        arrives_at = self._arrives_at(host)
        if not fetch:
            start_at = max(start_at, arrives_at)
            return Offer(start_at + run, host, free_at, start_at, 0.0)
        fits = fleet.pinned_bytes[host] + self._needs(host) <= fleet.budget_bytes[host]
        fetch_from = max(fleet.mover_free_at[host], now) if fits and fleet.overlaps[host] else free_at
        start_at = max(free_at, fetch_from + fetch, arrives_at)
        return Offer(start_at + self._mover * fetch + run, host, free_at, start_at, fetch)

    def _arrives_at(self, host: int) -> float:
        return arrivals.expected_at(self.state.fleet, host, self.entry.bundles, self.now)

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
                if best is None or priced < best:
                    best = priced
        return best

    def candidates(self) -> tuple[Candidate, ...]:
        """All offers with their regret, cheapest first."""
        return tuple([priced.candidate for priced in sorted(map(self._price, self.offers))])

    @cached_property
    def _parts(self) -> set[int]:
        residency = self.state.fleet.residency
        return {part for bundle in self.entry.bundles for part in residency.bundle_parts[bundle]}

    @cached_property
    def _only_zone(self) -> float | None:
        return self.state.valuation.only_zone(self.state.fleet, self.entry.bundles[0])

    def _price(self, offer: Offer) -> Priced:
        host = offer.host
        if (known := self._priced.get(host)) is not None:
            return known
        now, fleet = self.now, self.state.fleet
        wait, run = offer.free_at - now, self.entry.run_seconds * fleet.slowness[host]
        if offer.fetch:
            priced = self._price_with_load(offer, wait, run)
        else:
            name = fleet.names.keys[host]
            left = offer.start_at - offer.free_at  # of a load that is under way
            candidate = Candidate(host_id=name, wait=wait, load=left, adapters=0.0, run=run, regret=0.0)
            priced = Priced(offer.done_at - now, host, candidate, ())
        self._priced[host] = priced
        return priced

    def _price_with_load(self, offer: Offer, wait: float, run: float) -> Priced:
        state, fleet, host, fetch = self.state, self.state.fleet, offer.host, offer.fetch
        keep = self._parts | state.waiting.planned_parts(host, fleet.residency.bundle_parts)
        victims, lost = state.valuation.evictions(fleet, host, self._needs(host), keep)
        regret = self._regret * lost
        spread = state.knobs.spread_seconds * (fleet.zone[host] == self._only_zone)
        load = fleet.residency.seconds_at(self.entry.bundles[0], host)
        own, stall = load / fetch, offer.start_at - offer.free_at  # the version's share of what it waits for
        candidate = Candidate(
            host_id=fleet.names.keys[host],
            wait=wait,
            load=stall * own,
            adapters=stall * (1 - own),
            run=run,
            regret=regret,
            spread=spread,
            mover=self._mover * fetch,
        )
        return Priced(offer.done_at - self.now + regret + spread, host, candidate, victims)
