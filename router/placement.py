"""Which waiting request goes to which host now: whatever costs the fewest expected seconds.

Pure. A request is priced on every host as wait + load + adapters + run + eviction regret (+ spread). If the cheapest
host can take it, it goes there; if not, it is only *planned* there and waits, unbound. Whenever a host can take
work, it takes the best of what is planned on it or, if nothing is, what it can finish sooner than its plan says.
So waiting for a warm host, loading a second copy and overtaking are choices of one kind. Every decision leaves the
prices of its candidates, so that it can be asked why.
"""

import msgspec
import numpy as np

from registry.catalog import Digest
from router import arrivals
from router.grid import Floats
from router.hosts import Assigned, FleetEvent, Joined, Left, Staging
from router.pricing import Candidate, Priced, Prices, State
from router.requests import RequestId
from router.waiting import FEW, LOW_TAG, NOWHERE, Work

TRIES = 8  # candidates looked at closely for one host
NEVER_TAG = 1e300

__all__ = ["State"]  # `pricing`'s, which others name as ours


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Send this request to this host now. `evicts` are the parts that should go first there."""

    request_id: RequestId
    host_id: str
    work: Work
    run_seconds: float
    booked_seconds: float  # of its account, as on a host of speed 1
    tag: float
    reason: str
    chosen: Candidate
    candidates: tuple[Candidate, ...]  # the best few, cheapest first, the chosen among them
    evicts: tuple[Digest, ...] = ()


def submit(state: State, work: Work, now: float) -> None:
    """A request starts to wait. Its version and adapters must have been described to the fleet."""
    bundles = [state.fleet.residency.bundles[digest] for digest in (work.version, *work.adapters)]
    seconds = state.run_times.estimate(work.version, work.units)
    state.demand.note(work.version, seconds, now)
    for adapter in work.adapters:
        state.demand.note(adapter, seconds, now)
    state.waiting.add(work, bundles, seconds)


def cancel(state: State, request_id: RequestId) -> None:
    """A request no longer waits. Behind the pool nothing was booked for it yet."""
    row = state.waiting.row_of.get(request_id)
    tag = 0.0 if row is None else state.waiting.tag[row]
    entry = state.waiting.remove(request_id)
    if entry is not None and row is not None:
        state.waiting.correct(entry.work, entry.run_seconds, 0.0, tag=tag)


def fold(state: State, event: FleetEvent, now: float) -> None:
    """Something happened to a host. What was planned on one that left is planned again."""
    state.fleet.fold(event, now)
    if isinstance(event, Joined):
        state.waiting.look_again()
    if isinstance(event, Left) and (index := state.fleet.names.get(event.host_id)) is not None:
        state.waiting.replan_host(index)


def finished(state: State, work: Work, host_id: str, booked_seconds: float, run_seconds: float) -> None:
    """An attempt ended well after `run_seconds` on the device: learn from it, put the books right."""
    if state.run_times.learn(work.version, work.units, run_seconds, _speed(state, host_id)):
        state.waiting.reestimate(
            work.version, lambda other: state.run_times.estimate(other.version, other.units)
        )
    settle(state, work, host_id, booked_seconds, run_seconds)


def settle(state: State, work: Work, host_id: str, booked_seconds: float, used_seconds: float) -> None:
    """`used_seconds` of this host's device came of what was booked: a second of a slow one is worth less."""
    state.waiting.correct(work, booked_seconds, used_seconds * _speed(state, host_id))


def _speed(state: State, host_id: str) -> float:
    index = state.fleet.names.get(host_id)
    return 1.0 if index is None else state.fleet.speed[index]


def commit(state: State, decision: Decision, assigned: Assigned, now: float) -> None:
    """The decision is carried out: the request no longer waits, the host is booked."""
    state.waiting.remove(decision.request_id)
    state.fairness.start(decision.tag % LOW_TAG)
    state.fleet.fold(assigned, now)


def choose(state: State, now: float) -> Decision | None:
    """The next assignment to make, or None until something changes. `commit` each before asking again."""
    state.valuation.refresh(state.fleet, state.demand, now)
    waiting = state.waiting
    while waiting.unplanned:
        row = waiting.unplanned.popleft()
        if waiting.rows[row] is not None and waiting.plan_host[row] < 0:
            decision = _place(state, row, now)
            if decision:
                return decision
    opened = state.fleet.opened
    while opened or _open_relieved(state, now):
        host = next(iter(opened))
        if waiting.row_of and state.fleet.free_slots[host] > 0:
            decision = _fill(state, host, now)
            if decision:
                return decision  # the host stays in `opened` until it is full or finds nothing
        del opened[host]
    return None


def _open_relieved(state: State, now: float) -> bool:
    """What waits behind a plan that is gone would else stay on a free host until something happens there."""
    waiting, fleet = state.waiting, state.fleet
    for host in waiting.relieved:
        rows = waiting.planned_on.get(host, ())
        last = LOW_TAG if fleet.device_free_at[host] > now else NEVER_TAG
        if fleet.free_slots[host] > 0 and any(waiting.tag[row] < last for row in rows):
            fleet.opened[host] = None
    waiting.relieved.clear()
    return bool(fleet.opened)


def _place(state: State, row: int, now: float) -> Decision | None:
    """Plan one request on its cheapest host; a decision if that host can take it."""
    prices = Prices(state, state.waiting.entry(row), state.waiting.tag[row], now)
    return _bind_or_plan(state, row, prices)


def _bind_or_plan(state: State, row: int, prices: Prices) -> Decision | None:
    """A decision if the cheapest host can take it now; else a plan to run it there."""
    best = prices.cheapest()
    if best is None:
        return None  # no host can run it: it is looked at again whenever one can take work
    waiting, fleet, index = state.waiting, state.fleet, best.host
    tag, low = waiting.tag[row], prices.entry.work.priority == "low"
    free = fleet.free_slots[index] > 0 and not waiting.is_planned_ahead(tag, index)
    if free and not (low and fleet.device_free_at[index] > prices.now):
        return _decide(state, prices, tag, best, "the cheapest host, and it can take it")
    price = best.candidate
    waiting.plan(row, index, price.load + price.adapters + price.run, prices.now + best.total)
    return None


def _fill(state: State, host: int, now: float) -> Decision | None:
    """The best waiting request for a host that can take one."""
    waiting, knobs = state.waiting, state.knobs
    if not _may_gain(state, host, now):
        return None
    free_at = state.fleet.free_at_on(host, now)
    finish_at = _finish_on(state, host, free_at, now)
    pool = waiting.arrays
    # A plan made when its host was expected to be free earlier is worth what is known now.
    planned_at = state.fleet.free_at(now).take(pool.plan_host) + pool.plan_seconds
    gains = np.maximum(pool.plan_finish, planned_at) > finish_at + knobs.steal_margin_seconds
    mine = waiting.planned_on.get(host, {})
    for row in mine:
        gains[row] = True
    # Low priority never takes a staging slot.
    gains &= pool.tag < (LOW_TAG if free_at > now else NEVER_TAG)
    rows = gains.nonzero()[0]
    if not len(rows):
        return None
    finish_at = finish_at[rows]
    # Short work first, but every second of virtual time that others came later counts against them.
    tags = pool.tag[rows]
    stall = finish_at - free_at - pool.run_seconds[rows] * state.fleet.slowness[host]
    turn = finish_at + stall * knobs.stall * min(10, len(mine)) + knobs.order * (tags - tags.min())
    in_turn = rows[np.argsort(turn, kind="stable")].tolist()
    first = next(
        (row for row in in_turn if row in mine), None
    )  # is tried in any case: nobody else may take it
    tries = in_turn[:TRIES]
    for row in tries if first is None or first in tries else [*tries, first]:
        decision = _try(state, row, host, now)
        if decision:
            return decision
    return None


def _finish_on(state: State, host: int, free_at: float, now: float) -> Floats:
    """When each waiting request would be done if this host took it next, by row of the pool."""
    waiting, fleet = state.waiting, state.fleet
    fetch = fleet.residency.seconds_on(waiting.arrays.bundles[0], host)
    if waiting.adapted:
        for adapter in waiting.arrays.bundles[1:]:
            fetch = fetch + fleet.residency.seconds_on(adapter, host)
    mover_free_at = max(now, fleet.mover_free_at[host]) if fleet.overlaps[host] else free_at
    start_at = fetch + mover_free_at
    if mover_free_at > free_at:
        start_at[fetch == 0] = free_at  # what is there does not wait for the mover
    if (record := fleet.by_index[host]) is not None and record.arrives_by > now:
        for row in (fetch == 0).nonzero()[0].tolist():
            if (entry := waiting.rows[row]) is not None:
                start_at[row] = max(start_at[row], arrivals.expected_at(fleet, host, entry.bundles, now))
    finish_at: Floats = np.maximum(start_at, free_at, out=start_at)
    finish_at += waiting.arrays.run_seconds * fleet.slowness[host]
    return finish_at


def _may_gain(state: State, host: int, now: float) -> bool:
    """False where few requests wait, all with plans elsewhere that this host cannot better whatever its mover does."""
    waiting, fleet = state.waiting, state.fleet
    if len(waiting.row_of) > FEW or host in waiting.planned_on:
        return True
    free_at, slowness, margin = (
        fleet.free_at_on(host, now),
        fleet.slowness[host],
        state.knobs.steal_margin_seconds,
    )
    for row in waiting.row_of.values():
        planned_on = waiting.plan_host[row]
        if planned_on < 0:
            return True
        planned_at = fleet.free_at_on(planned_on, now) + waiting.plan_seconds[row]
        gain_before = max(waiting.plan_finish[row], planned_at) - waiting.run_seconds[row] * slowness - margin
        if gain_before > free_at:
            load = fleet.residency.seconds_at(waiting.entry(row).bundles[0], host)
            if gain_before > now + load:
                return True
    return False


def _try(state: State, row: int, host: int, now: float) -> Decision | None:
    """Price one request on all hosts; take it here if it was planned here or if here is cheapest."""
    waiting = state.waiting
    mine = waiting.plan_host[row] == host
    waiting.plan(row, NOWHERE, 0.0, np.inf)  # its own plan is not ahead of it
    tag = waiting.tag[row]
    prices = Prices(state, waiting.entry(row), tag, now, first_on=host)
    here = prices.on(host)
    if here is not None and mine:
        return _decide(state, prices, tag, here, "planned here")
    best = prices.cheapest()
    if here is not None and best is not None and here.total <= best.total:
        return _decide(state, prices, tag, here, "this host is free sooner than the planned one")
    return _bind_or_plan(state, row, prices)


def prefetch(state: State, now: float) -> Staging | None:
    """Weights to fetch now for a request that is planned on a host but not bound to it, while the mover idles.

    Ask when `choose` has nothing more; fold each answer before asking again.
    """
    waiting, fleet = state.waiting, state.fleet
    if not waiting.planned:
        return None
    numbers = fleet.arrays
    idle = (numbers.overlaps > 0) & (numbers.mover_free_at <= now)
    pool = waiting.arrays
    rows = (pool.plan_host >= 0).nonzero()[0]
    rows = rows[idle[pool.plan_host[rows]]]
    if not len(rows):
        return None
    at = pool.plan_host[rows]
    needs = np.sum([fleet.residency.missing_bytes_on(column[rows], at) for column in pool.bundles], axis=0)
    fits = numbers.pinned_bytes[at] + needs <= numbers.budget_bytes[at]
    rows, needs = rows[(needs > 0) & fits], needs[(needs > 0) & fits]
    order = np.argsort(pool.tag[rows], kind="stable")[:TRIES]
    for row, bytes_ in zip(rows[order].tolist(), needs[order].tolist(), strict=True):
        host, entry = waiting.plan_host[row], waiting.entry(row)
        keep = waiting.planned_parts(host, fleet.residency.bundle_parts)
        victims, lost = state.valuation.evictions(fleet, host, bytes_, keep)
        if state.knobs.regret * lost <= state.knobs.prefetch_regret_seconds:
            names = fleet.residency.parts.keys
            return Staging(
                host_id=fleet.names.keys[host],
                bundles=(entry.work.version, *entry.work.adapters),
                evicts=tuple([names[part] for part in victims]),
            )
    return None


def _decide(state: State, prices: Prices, tag: float, chosen: Priced, reason: str) -> Decision:
    names, work = state.fleet.residency.parts.keys, prices.entry.work
    return Decision(
        request_id=work.id,
        host_id=chosen.candidate.host_id,
        work=work,
        run_seconds=chosen.candidate.run,
        booked_seconds=prices.entry.run_seconds,
        tag=tag,
        reason=reason,
        chosen=chosen.candidate,
        candidates=prices.candidates(),
        evicts=tuple([names[part] for part in chosen.victims]),
    )
