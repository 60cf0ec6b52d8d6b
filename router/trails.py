"""What a dispatcher tells of a request's life as spans: its wait, its attempts, their placing and settling. Pure but for the telling.

POST /fal/run/{slug}            the gateway, or wherever the caller's trace came in
  submit                        until the request is committed
  queue                         accepted (or handed back) until an attempt
  attempt                       one try, until its outcome is stored
    place, assign               the decision; its row committed and sent
    host: wait, load, run, encode    told by the host itself
    store, settle               outputs kept; outcome and usage in one transaction
"""

import time

from registry.tracing import NO_SPAN, Span, Traces
from router.attempts import Attempt
from router.placement import Decision
from router.requests import State
from router.rows import Ending, Explanation


def begin(traces: Traces, attempt: Attempt, decision: Decision | Explanation, began: float) -> Span:
    """The attempt's span, after its request's wait was told and with its placing as first child."""
    if not traces.on:
        return NO_SPAN
    entry = attempt.entry
    parent = entry.request.traceparent
    waited_from = entry.returned_at or min(entry.request.created_at.timestamp(), began)
    traces.tell("queue", parent, waited_from, began, priority=entry.request.priority)
    span = traces.begin(
        "attempt",
        parent,
        at=began,
        request_id=entry.id,
        number=attempt.key.number,
        host_id=attempt.host_id,
        slug=entry.request.slug,
    )
    traces.tell(
        "place",
        span.traceparent,
        began,
        time.time(),
        reason=decision.reason,
        candidates=len(decision.candidates),
    )
    return span


def settled(traces: Traces, ending: Ending, span: Span, asked_at: float) -> None:
    """Also of requests that ended without an attempt: reused, cancelled, too late."""
    if not traces.on:
        return
    outcome = ending.outcome
    error = "" if outcome.failure is None else outcome.failure.error
    parent = span.traceparent or ending.entry.request.traceparent
    traces.tell("settle", parent, asked_at, time.time(), state=str(outcome.state))
    span.end(error=error if outcome.state is State.FAILED else "", state=str(outcome.state))
