"""What one request would cost on each host, term by term, in expected seconds.

Pure. wait + load + adapters + run are priced on all hosts at once; eviction regret and spread only for the few that
are cheapest without them. It chooses nothing; `placement` does.
"""

from dataclasses import dataclass, field

import msgspec
import numpy as np

from router.demand import Demand, RunTimes
from router.fairness import Fairness
from router.fleet import NEVER, Fleet
from router.grid import Floats
from router.valuation import Valuation
from router.waiting import ADAPTER, PLAN_HOST, RUN_SECONDS, SCANNED_ADAPTERS, VERSION, Entry, Waiting


class Knobs(msgspec.Struct, frozen=True, kw_only=True):
    """Weights of the price's terms; the simulator tunes them."""

    regret: float = 2.0  # of a second of expected reloading
    order: float = 0.1  # seconds that a second of virtual time (fair order) is worth
    steal_margin_seconds: float = 0.5  # that a host must gain before it takes what is planned elsewhere
    spread_seconds: float = 0.5  # price of a second copy in the same failure domain
    mover: float = 0.6  # of a second of loading, hidden or not: the mover is wanted by others too
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


Shortlist = list[tuple[Candidate, tuple[int, ...]]]  # with the parts that would be evicted


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
    def fairness(self) -> Fairness:
        return self.waiting.fairness


@dataclass(slots=True)
class Priced:
    """One request's price on every host, before regret."""

    free_at: Floats  # the device, with what is planned before it
    start_at: Floats
    run: Floats
    total: Floats  # `NEVER` where it cannot run
    needs: Floats  # bytes that are missing
    fetch: Floats  # seconds of loading, hidden or not
    lora: Floats | None  # the adapters' part of them


def price(state: State, entry: Entry, tag: float, now: float, *, first_on: int | None = None) -> Priced:
    """One request on all hosts; on `first_on` it would go before all that is planned there."""
    fleet, residency = state.fleet, state.fleet.residency
    version, *adapters = entry.bundles
    fetch, needs = residency.seconds(version), residency.missing_bytes(version)
    total_bytes, lora = residency.size_bytes(version), None
    if adapters:
        lora = sum((residency.seconds(adapter) for adapter in adapters[1:]), residency.seconds(adapters[0]))
        fetch = fetch + lora
        needs = sum((residency.missing_bytes(adapter) for adapter in adapters), needs)
        total_bytes += sum(residency.size_bytes(adapter) for adapter in adapters)
    free_at = np.maximum(fleet.device_free_at, now)
    if state.waiting.planned:
        ahead = state.waiting.planned_ahead(tag, len(fetch))
        if first_on is not None:
            ahead[first_on] = 0.0
        free_at = free_at + ahead
    beside = (fleet.pinned_bytes + needs <= fleet.budget_bytes) & (fleet.overlaps > 0)
    fetch_from = np.where(beside, np.maximum(fleet.mover_free_at, now), free_at)
    start_at = np.maximum(free_at, (fetch_from + fetch) * (fetch > 0))
    run = entry.run_seconds / fleet.speed
    total = start_at + run - now + state.knobs.mover * fetch
    total[fleet.budget_bytes < total_bytes] = NEVER
    for name in entry.work.excluded_hosts:
        if (index := fleet.names.get(name)) is not None:
            total[index] = NEVER
    return Priced(free_at, start_at, run, total, needs, fetch, lora)


def finish_on(state: State, host: int, free_at: float, now: float) -> Floats:
    """When each waiting request would be done if this host took it next, by row of the pool."""
    waiting, fleet, residency = state.waiting, state.fleet, state.fleet.residency
    fetch = residency.seconds_on(waiting.bundles(VERSION), host)
    for adapter in range(SCANNED_ADAPTERS):
        fetch = fetch + residency.seconds_on(waiting.bundles(ADAPTER + adapter), host)
    mover_free_at = max(now, float(fleet.mover_free_at[host])) if fleet.overlaps[host] else free_at
    start_at = np.maximum(free_at, np.where(fetch > 0, mover_free_at + fetch, now))
    finish_at: Floats = start_at + waiting.column(RUN_SECONDS) / fleet.speed[host]
    return finish_at


def planned_parts(state: State, host: int) -> set[int]:
    """Parts that requests planned on this host will need there."""
    waiting = state.waiting
    if not waiting.planned:
        return set()
    rows = np.flatnonzero(waiting.column(PLAN_HOST) == host).tolist()
    bundles = {bundle for row in rows for bundle in waiting.entry(row).bundles}
    return {int(part) for bundle in bundles for part in state.fleet.residency.bundle_parts[bundle]}


def nearest(total: Floats, count: int) -> list[int]:
    """The cheapest few that can run it; a handful of `argmin` is cheaper than one partition."""
    left, found = total.copy(), []
    for _ in range(min(count, len(left))):
        index = int(left.argmin())
        if left[index] >= NEVER / 2:
            break
        found.append(index)
        left[index] = NEVER
    return found


def shortlist(
    state: State, entry: Entry, priced: Priced, now: float, *, include: int | None = None
) -> Shortlist:
    """The cheapest hosts with their eviction regret worked out, cheapest first."""
    near = nearest(priced.total, state.knobs.shortlist)
    if include is not None and include not in near and priced.total[include] < NEVER / 2:
        near.append(include)
    found = [_candidate(state, entry, priced, index, now) for index in near]
    # The sort is stable and the name breaks ties, so that equal prices give equal answers on every run.
    return sorted(found, key=lambda pair: (pair[0].total, pair[0].host_id))


def _candidate(
    state: State, entry: Entry, priced: Priced, index: int, now: float
) -> tuple[Candidate, tuple[int, ...]]:
    fleet = state.fleet
    needs = float(priced.needs[index])
    victims: tuple[int, ...] = ()
    regret = spread = 0.0
    if needs > 0:
        keep = planned_parts(state, index)
        for bundle in entry.bundles:
            keep.update(fleet.residency.bundle_parts[bundle].tolist())
        victims, lost = state.valuation.evictions(fleet, index, needs, keep)
        regret = state.knobs.regret * lost
        if state.valuation.shares_zone(fleet, entry.bundles[0], index):
            spread = state.knobs.spread_seconds
    stall = float(priced.start_at[index] - priced.free_at[index])
    share = 0.0 if priced.lora is None or not stall else float(priced.lora[index] / priced.fetch[index])
    candidate = Candidate(
        host_id=fleet.names.keys[index],
        wait=float(priced.free_at[index]) - now,
        load=stall * (1 - share),
        adapters=stall * share,
        run=float(priced.run[index]),
        regret=regret,
        spread=spread,
        mover=state.knobs.mover * float(priced.fetch[index]),
    )
    return candidate, victims
