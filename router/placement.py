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
from router.hosts import Assigned, FleetEvent, Left, Staging
from router.pricing import Candidate, Knobs, Shortlist, State, finish_on, planned_parts, price, shortlist
from router.requests import RequestId
from router.waiting import (
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

TRIES = 8  # candidates looked at closely for one host
NEVER_TAG = 1e300

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
    return _bind_or_plan(state, row, shortlist(state, entry, priced, now), now)


def _bind_or_plan(state: State, row: int, candidates: Shortlist, now: float) -> Decision | None:
    """A decision if the cheapest host can take it now; else a plan to run it there."""
    if not candidates:
        return None  # no host can run it: it is looked at again whenever one can take work
    entry, tag = state.waiting.entry(row), float(state.waiting.column(TAG)[row])
    best, victims = candidates[0]
    index = state.fleet.names[best.host_id]
    free = state.fleet.free_slots[index] > 0 and not state.waiting.is_planned_ahead(tag, index)
    low = entry.work.priority == "low"
    if free and not (low and state.fleet.device_free_at[index] > now):
        return _decide(state, entry, tag, best, candidates, victims, "the cheapest host, and it can take it")
    seconds = best.load + best.adapters + best.run
    state.waiting.plan(row, index, seconds, now + best.total)
    return None


def _fill(state: State, host: int, now: float) -> Decision | None:
    """The best waiting request for a host that can take one."""
    waiting, knobs = state.waiting, state.knobs
    free_at = max(now, float(state.fleet.device_free_at[host]))
    finish_at = finish_on(state, host, free_at, now)
    tags = waiting.column(TAG)
    mine = waiting.column(PLAN_HOST) == host
    gains = waiting.column(PLAN_FINISH) - finish_at > knobs.steal_margin_seconds
    allowed = (mine | gains) & (tags < NEVER_TAG)
    if free_at > now:
        allowed &= tags < LOW_TAG  # low priority never takes a staging slot
    rows = np.flatnonzero(allowed)
    if not len(rows):
        return None
    # Short work first, but every second of virtual time that others came later counts against them.
    stall = finish_at[rows] - free_at - waiting.column(RUN_SECONDS)[rows] / state.fleet.speed[host]
    turn = (
        finish_at[rows]
        + stall * knobs.stall * min(10, int(mine.sum()))
        + knobs.order * (tags[rows] - tags[rows].min())
    )
    for row in rows[np.argsort(turn, kind="stable")[:TRIES]].tolist():
        decision = _try(state, row, host, now)
        if decision:
            return decision
    return None


def _try(state: State, row: int, host: int, now: float) -> Decision | None:
    """Price one request on all hosts; take it here if it was planned here or if here is cheapest."""
    entry, tag = state.waiting.entry(row), float(state.waiting.column(TAG)[row])
    mine = state.waiting.column(PLAN_HOST)[row] == host
    state.waiting.plan(row, -1, 0.0, np.inf)  # its own plan is not ahead of it
    priced = price(state, entry, tag, now, first_on=host)
    candidates = shortlist(state, entry, priced, now, include=host)
    for candidate, victims in candidates:
        if state.fleet.names[candidate.host_id] != host:
            continue
        if mine or candidate.total <= candidates[0][0].total:
            reason = "planned here" if mine else "this host is free sooner than the planned one"
            return _decide(state, entry, tag, candidate, candidates, victims, reason)
    return _bind_or_plan(state, row, candidates, now)


def prefetch(state: State, now: float) -> Staging | None:
    """Weights to fetch now for a request that is planned on a host but not bound to it, while the mover idles.

    Ask when `choose` has nothing more; fold each answer before asking again.
    """
    waiting, fleet = state.waiting, state.fleet
    if not waiting.planned:
        return None
    hosts = waiting.column(PLAN_HOST).astype(np.int64)
    idle = (fleet.overlaps > 0) & (fleet.mover_free_at <= now)
    rows = np.flatnonzero(hosts >= 0)
    rows = rows[idle[hosts[rows]]]
    if not len(rows):
        return None
    at = hosts[rows]
    columns = [waiting.bundles(VERSION + offset)[rows] for offset in range(1 + SCANNED_ADAPTERS)]
    needs = np.sum([fleet.residency.missing_bytes_on(column, at) for column in columns], axis=0)
    fits = fleet.pinned_bytes[at] + needs <= fleet.budget_bytes[at]
    rows, needs = rows[(needs > 0) & fits], needs[(needs > 0) & fits]
    order = np.argsort(waiting.column(TAG)[rows], kind="stable")[:TRIES]
    for row, bytes_ in zip(rows[order].tolist(), needs[order].tolist(), strict=True):
        host, entry = int(hosts[row]), waiting.entry(row)
        victims, lost = state.valuation.evictions(fleet, host, bytes_, planned_parts(state, host))
        if state.knobs.regret * lost <= state.knobs.prefetch_regret_seconds:
            names = fleet.residency.parts.keys
            return Staging(
                host_id=fleet.names.keys[host],
                bundles=(entry.work.version, *entry.work.adapters),
                evicts=tuple(names[part] for part in victims),
            )
    return None


def _decide(
    state: State,
    entry: Entry,
    tag: float,
    chosen: Candidate,
    candidates: Shortlist,
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
