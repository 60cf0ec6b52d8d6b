"""How waiting requests become attempts in a term: decided, written, sent. IO by proxy.

Placement decides, the attempt's row is committed, then its host is told; whatever happened meanwhile is looked at
before anything is sent.
"""

import functools
import time
from typing import TYPE_CHECKING

import structlog

from loaders import protocol
from loaders.protocol import AttemptKey
from router import placement, trails
from router.attempts import Attempt
from router.hosts import Assigned, Staging
from router.requests import Failure
from router.rows import Assignment, Explanation

if TYPE_CHECKING:
    from router.term import Term

DECISIONS_AT_ONCE = 16  # before other tasks get the loop

log = structlog.get_logger("marquee.dispatcher")


class Starts:
    """The part of a `Term` that places."""

    def __init__(self, term: "Term") -> None:
        self._term = term

    def place(self, now: float) -> bool:
        """Some decisions; False when there is nothing more to decide."""
        for _ in range(DECISIONS_AT_ONCE):
            began = time.time()
            decision = placement.choose(self._term.placement, now)
            if decision is None:
                self._fetch_ahead(now)
                return False
            self._carry_out(decision, now, began)
        return True

    def _fetch_ahead(self, now: float) -> None:
        """Where a mover idles: weights of requests that are planned there and not bound yet."""
        while (staging := placement.prefetch(self._term.placement, now)) is not None:
            if not self.stage(staging, now):
                return

    def stage(self, staging: Staging, now: float, *, pin_until: float | None = None) -> bool:
        """Tells a host to fetch; False for what was wanted once and is gone since."""
        version, *adapters = staging.bundles
        snapshot = self._term.catalogue.now
        if version not in snapshot.described or not snapshot.described_adapters.keys() >= set(adapters):
            return False
        link = self._term.links[staging.host_id]
        link.describe(snapshot, version, adapters)
        if staging.evicts:
            link.send(protocol.Drop(digests=staging.evicts))
        link.send(protocol.Stage(version=version, adapters=tuple(adapters), pin_until=pin_until))
        placement.fold(self._term.placement, staging, now)
        return True

    def _carry_out(self, decision: placement.Decision, now: float, began: float) -> None:
        entry = self._term.unlist(decision.request_id)
        work, key = decision.work, AttemptKey(entry.id, entry.attempt + 1)
        assigned = Assigned(
            host_id=decision.host_id,
            attempt=key,
            bundles=(work.version, *work.adapters),
            run_seconds=decision.run_seconds,
            evicts=decision.evicts,
        )
        placement.commit(self._term.placement, decision, assigned, now)
        attempt = Attempt(entry, key, decision.host_id, work, decision.run_seconds, now)
        attempt.booked_seconds = decision.booked_seconds
        attempt.span = trails.begin(self._term.traces, attempt, decision, began)
        self._term.attempts[entry.id] = attempt
        explanation = Explanation(
            reason=decision.reason, candidates=decision.candidates, evicts=decision.evicts
        )
        row = Assignment(id=entry.id, number=key.number, host_id=decision.host_id, decision=explanation)
        written = functools.partial(self._assigned, attempt, decision, time.time())
        # Else it would hold its host's room for ever; `Hub.reconcile` finds the request in the tables.
        self._term.then(self._term.queue.assign(row), written, lambda: self._term.ends.free(attempt))

    def _assigned(
        self,
        attempt: Attempt,
        decision: placement.Decision,
        asked_at: float,
        moved: bool,  # noqa: FBT001  a future's result
    ) -> None:
        self._term.traces.tell("assign", attempt.span.traceparent, asked_at, time.time())
        if attempt.cancelled:
            self._term.ends.free(attempt)
        elif not moved:
            self._term.ends.free(attempt)
            self._term.spawn(self._term.ends.look_again(attempt.entry.id))
        elif attempt.lost:
            self._term.ends.give_back(attempt, "host_lost", is_fault=False)
        else:
            attempt.sent = True
            try:
                self._send(attempt, decision)
            except Exception:
                log.exception("an attempt cannot be sent", request=attempt.entry.id)
                self._give_up(attempt)
            self._term.board.touch(attempt.entry.id)

    def _give_up(self, attempt: Attempt) -> None:
        """It cannot be told to any host: else it would stay where nobody works on it, and hold that host's room."""
        failure = Failure(kind="host", error="not_sent", message="it could not be sent to its host")
        self._term.ends.free(attempt)
        self._term.ends.finish(attempt.entry, attempt.key, attempt.fail(failure), attempt.span)

    def _send(self, attempt: Attempt, decision: placement.Decision) -> None:
        link, request = self._term.links[attempt.host_id], attempt.entry.request
        snapshot = self._term.catalogue.now
        link.describe(snapshot, request.version, [use.digest for use in request.adapters])
        if decision.evicts:
            link.send(protocol.Drop(digests=decision.evicts))
        values = {name: value for name, value in request.input.items() if name != "loras"}
        link.send(
            protocol.Assign(
                attempt=attempt.key,
                version=request.version,
                adapters=request.adapters,
                input=values,
                traceparent=attempt.span.traceparent,
            )
        )
