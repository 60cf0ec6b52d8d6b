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
from router.hosts import Assigned, FleetEvent, Left
from router.pricing import Candidate, Knobs, State, price, shortlist
from router.requests import RequestId
from router.waiting import (
    ADAPTER,
    LOW_TAG,
    PLAN_FINISH,
    PLAN_HOST,
    RUN_SECONDS,
    SCANNED_ADAPTERS,
    TAG,
    VERSION,
    Entry,
    Work,
)

__all__ = [
    "Candidate",
    "Decision",
    "Knobs",
    "State",
    "cancel",
    "choose",
    "commit",
    "finished",
    "fold",
    "submit",
]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Send this request to this host now. `evicts` are the parts that should go first there."""

    request_id: RequestId
    host_id: str
    work: Work
    run_seconds: float
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
    """A request no longer waits."""
    entry = state.waiting.remove(request_id)
    if entry is not None:
        state.fairness.correct(entry.work.organization, entry.run_seconds, 0.0)


def fold(state: State, event: FleetEvent, now: float) -> None:
    """Something happened to a host. What was planned on one that left is planned again."""
    state.fleet.fold(event, now)
    if isinstance(event, Left) and (index := state.fleet.names.get(event.host_id)) is not None:
        state.waiting.replan_host(index)


def finished(state: State, decision_run_seconds: float, work: Work, host_id: str, run_seconds: float) -> None:
    """An attempt ended well after `run_seconds` on the device: learn from it, put the books right."""
    index = state.fleet.names.get(host_id)
    speed = 1.0 if index is None else float(state.fleet.speed[index])
    state.run_times.learn(work.version, work.units, run_seconds, speed)
    state.fairness.correct(work.organization, decision_run_seconds, run_seconds)


def commit(state: State, decision: Decision, assigned: Assigned, now: float) -> None:
    """The decision is carried out: the request no longer waits, the host is booked."""
    state.waiting.remove(decision.request_id)
    state.fairness.start(decision.tag % LOW_TAG)
    state.fleet.fold(assigned, now)


def choose(state: State, now: float) -> Decision | None:
    """The next assignment to make, or None until something changes. `commit` each before asking again."""
    state.valuation.refresh(state.fleet, state.demand, now)
    while state.waiting.unplanned:
        row = state.waiting.unplanned.popleft()
        if state.waiting.rows[row] is not None and state.waiting.column(PLAN_HOST)[row] < 0:
            decision = _place(state, row, now)
            if decision:
                return decision
    while state.fleet.opened:
        host = next(iter(state.fleet.opened))
        if state.fleet.free_slots[host] > 0 and state.waiting.row_of:
            decision = _fill(state, host, now)
            if decision:
                return decision  # the host stays in `opened` until it is full or finds nothing
        del state.fleet.opened[host]
    return None


def _place(state: State, row: int, now: float) -> Decision | None:
    """Plan one request on its cheapest host; a decision if that host can take it."""
    entry, tag = state.waiting.entry(row), float(state.waiting.column(TAG)[row])
    priced = price(state, entry, tag, now)
    candidates = shortlist(state, entry, priced, now)
    if not candidates:
        return None  # no host can ever run it; the caller finds it by its age or deadline
    best, victims = candidates[0]
    index = state.fleet.names[best.host_id]
    seconds = best.load + best.adapters + best.run
    free = state.fleet.free_slots[index] > 0 and state.waiting.planned_ahead(tag, index + 1)[index] == 0
    low = entry.work.priority == "low"
    if free and not (low and state.fleet.device_free_at[index] > now):
        reason = "cheapest host, and it can take it"
        return _decide(state, entry, tag, best, candidates, victims, reason)
    state.waiting.plan(row, index, seconds, now + best.total)
    return None


def _fill(state: State, host: int, now: float) -> Decision | None:
    """The best waiting request for a host that can take one."""
    waiting, fleet, residency = state.waiting, state.fleet, state.fleet.residency
    free_at = max(now, float(fleet.device_free_at[host]))
    fetch = residency.seconds_on(waiting.bundles(VERSION), host)
    for adapter in range(SCANNED_ADAPTERS):
        fetch = fetch + residency.seconds_on(waiting.bundles(ADAPTER + adapter), host)
    mover_free_at = max(now, float(fleet.mover_free_at[host])) if fleet.overlaps[host] else free_at
    run = waiting.column(RUN_SECONDS) / fleet.speed[host]
    start_at = np.maximum(free_at, np.where(fetch > 0, mover_free_at + fetch, now))
    gain = waiting.column(PLAN_FINISH) - (start_at + run) - state.knobs.steal_margin_seconds
    mine = waiting.column(PLAN_HOST) == host
    tags = waiting.column(TAG)
    allowed = (mine | (gain > 0)) & np.isfinite(tags)
    if free_at > now:
        allowed &= tags < LOW_TAG  # low priority never takes a staging slot
    low_cost = (start_at - free_at) + run + state.knobs.order * (tags - tags.min())
    rows = np.flatnonzero(allowed)
    for row in rows[np.argsort(low_cost[rows], kind="stable")[:8]].tolist():
        decision = _try(state, row, host, now)
        if decision:
            return decision
    return None


def _try(state: State, row: int, host: int, now: float) -> Decision | None:
    """Price one request properly on all hosts; take it here if here is best, or if it was planned here."""
    entry, tag = state.waiting.entry(row), float(state.waiting.column(TAG)[row])
    mine = state.waiting.column(PLAN_HOST)[row] == host
    state.waiting.plan(row, -1, 0.0, np.inf)  # its own plan is not ahead of it
    priced = price(state, entry, tag, now, first_on=host)
    candidates = shortlist(state, entry, priced, now)
    for candidate, victims in candidates:
        if state.fleet.names[candidate.host_id] != host:
            continue
        if candidate.total <= candidates[0][0].total + (state.knobs.steal_margin_seconds if mine else 0.0):
            reason = "planned here" if mine else "this host is free sooner than the planned one"
            return _decide(state, entry, tag, candidate, candidates, victims, reason)
    if candidates:
        best = candidates[0][0]
        seconds = best.load + best.adapters + best.run
        state.waiting.plan(row, state.fleet.names[best.host_id], seconds, now + best.total)
    return None


def _decide(
    state: State,
    entry: Entry,
    tag: float,
    chosen: Candidate,
    candidates: list[tuple[Candidate, tuple[int, ...]]],
    victims: tuple[int, ...],
    reason: str,
) -> Decision:
    parts = state.fleet.residency.parts.keys
    return Decision(
        request_id=entry.work.id,
        host_id=chosen.host_id,
        work=entry.work,
        run_seconds=chosen.run,
        tag=tag,
        reason=reason,
        chosen=chosen,
        candidates=tuple(candidate for candidate, _ in candidates),
        evicts=tuple(parts[part] for part in victims),
    )
