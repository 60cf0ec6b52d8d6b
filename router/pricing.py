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
from router.waiting import Entry, Waiting


class Knobs(msgspec.Struct, frozen=True, kw_only=True):
    """Weights of the price's terms; the simulator tunes them."""

    regret: float = 1.0  # of a second of expected reloading
    order: float = 0.2  # seconds that a second of virtual time (fair order) is worth
    steal_margin_seconds: float = 0.5  # that a host must gain before it takes what is planned elsewhere
    spread_seconds: float = 0.5  # price of a second copy in the same failure domain
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

    @property
    def total(self) -> float:
        return self.wait + self.load + self.adapters + self.run + self.regret + self.spread


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

    wait: Floats
    load: Floats
    adapters: Floats
    run: Floats
    total: Floats
    needs: Floats  # bytes that are missing
    finish_at: Floats


def price(state: State, entry: Entry, tag: float, now: float, *, first_on: int | None = None) -> Priced:
    """One request on all hosts; on `first_on` it would go before all that is planned there."""
    fleet, residency = state.fleet, state.fleet.residency
    version, *adapters = entry.bundles
    load = residency.seconds(version)
    needs = residency.missing_bytes(version)
    lora = np.zeros_like(load)
    for adapter in adapters:
        lora = lora + residency.seconds(adapter)
        needs = needs + residency.missing_bytes(adapter)
    ahead = state.waiting.planned_ahead(tag, len(load))
    if first_on is not None:
        ahead[first_on] = 0.0
    free_at = np.maximum(fleet.device_free_at, now) + ahead
    fetch = load + lora
    fits_beside = fleet.pinned_bytes + needs <= fleet.budget_bytes
    beside = (fleet.overlaps > 0) & fits_beside
    fetch_from = np.where(beside, np.maximum(fleet.mover_free_at, now), free_at)
    start_at = np.maximum(free_at, np.where(fetch > 0, fetch_from + fetch, now))
    run = entry.run_seconds / fleet.speed
    stall = start_at - free_at
    share = np.divide(lora, fetch, out=np.zeros_like(lora), where=fetch > 0)
    total_bytes = sum(residency.size_bytes(bundle) for bundle in entry.bundles)
    finish_at = start_at + run
    total = np.where(fleet.budget_bytes >= total_bytes, finish_at - now, NEVER)
    for name in entry.work.excluded_hosts:
        if (index := fleet.names.get(name)) is not None:
            total[index] = NEVER
    return Priced(
        wait=free_at - now,
        load=stall * (1 - share),
        adapters=stall * share,
        run=run,
        total=total,
        needs=needs,
        finish_at=finish_at,
    )


def shortlist(
    state: State, entry: Entry, priced: Priced, now: float
) -> list[tuple[Candidate, tuple[int, ...]]]:
    """The cheapest hosts with their eviction regret worked out, cheapest first."""
    count = min(state.knobs.shortlist, len(priced.total))
    near = np.argpartition(priced.total, count - 1)[:count] if count else np.zeros(0, dtype=np.int64)
    finite = [index for index in near.tolist() if priced.total[index] < NEVER / 2]
    found = [_candidate(state, entry, priced, index, now) for index in finite]
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
        victims, lost = state.valuation.evictions(fleet, index, needs, entry.bundles, now)
        regret = state.knobs.regret * lost
        if state.valuation.shares_zone(fleet, entry.bundles[0], index):
            spread = state.knobs.spread_seconds
    candidate = Candidate(
        host_id=fleet.names.keys[index],
        wait=float(priced.wait[index]),
        load=float(priced.load[index]),
        adapters=float(priced.adapters[index]),
        run=float(priced.run[index]),
        regret=regret,
        spread=spread,
    )
    return candidate, victims
