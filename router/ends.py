"""How attempts and requests end in a term: handed back, set aside, finished; and who is told. IO by proxy.

The row is written first, then memory follows what was really written: a move that did not happen as asked is
looked up, never guessed.
"""

import asyncio
import functools
import time
from typing import TYPE_CHECKING

import msgspec
import structlog

from loaders import protocol
from loaders.protocol import AttemptKey
from registry.tracing import NO_SPAN, Span
from router import placement, results, trails
from router.attempts import Attempt, set_aside
from router.hosts import Reported
from router.requests import Failure, Outcome, RequestId, State, Status
from router.rows import Ended, Ending, Entry, Return

if TYPE_CHECKING:
    from router.term import Term

log = structlog.get_logger("marquee.dispatcher")

MAX_HOST_FAULTS = 3  # after so many hosts died or failed under a request it is set aside


class Ends:
    """The part of a `Term` that lets go."""

    def __init__(self, term: "Term") -> None:
        self._term = term
        self.returning: dict[RequestId, tuple[Entry, asyncio.Future[bool]]] = {}  # not yet written

    def free(self, attempt: Attempt, used_seconds: float = 0.0) -> None:
        """The attempt is over as far as memory goes: its host has room again, its organization its share.

        What a host's fault took is no organization's doing; of others `used_seconds` of the device count.
        """
        booked, attempt.booked_seconds = attempt.booked_seconds, 0.0
        if booked or used_seconds:
            placement.settle(self._term.placement, attempt.work, attempt.host_id, booked, used_seconds)
        if self._term.attempts.get(attempt.entry.id) is attempt:
            del self._term.attempts[attempt.entry.id]
        attempt.discard()
        self._term.pass_turn(attempt.entry.id)
        gone = protocol.Failed(attempt=attempt.key, kind="cancelled", error="", message="")
        gone_there = Reported(host_id=attempt.host_id, message=gone)
        placement.fold(self._term.placement, gone_there, self._term.now())
        self._term.wake.set()

    def give_back(self, attempt: Attempt, reason: str, *, is_fault: bool) -> None:
        """The attempt ended without an outcome: its request waits again, or is set aside."""
        self.free(attempt)
        faults = attempt.entry.host_faults + is_fault
        if faults >= MAX_HOST_FAULTS:
            self.finish(attempt.entry, attempt.key, attempt.fail(set_aside(faults, reason)), attempt.span)
            return
        attempt.span.end(error=reason, ended=reason)
        entry = msgspec.structs.replace(
            attempt.entry, attempt=attempt.key.number, host_faults=faults, returned_at=time.time()
        )
        if is_fault:
            self._term.faulty[entry.id] = self._term.faulty.get(entry.id, frozenset()) | {attempt.host_id}
        row = Return(id=entry.id, number=attempt.key.number, reason=reason, faults=faults)
        written = self._term.queue.requeue(row)
        self.returning[entry.id] = entry, written
        self._term.then(
            written,
            functools.partial(self._returned, entry),
            lambda: self.returning.pop(entry.id, None),
        )

    def refuse(self, entry: Entry, failure: Failure, key: AttemptKey | None = None) -> None:
        """It ends as failed, and no host had a part in that."""
        self.finish(entry, key, Outcome(state=State.FAILED, failure=failure, attempt=entry.attempt))

    def end_late(self, entry: Entry) -> None:
        """It waits nowhere, and its deadline to start has passed."""
        message = "it did not start before its deadline"
        self.refuse(entry, Failure(kind="deadline", error="request_timeout", message=message))

    def _returned(self, entry: Entry, moved: bool) -> None:  # noqa: FBT001  a future's result
        if self.returning.pop(entry.id, None) is None:
            return  # its host came back with it meanwhile
        if moved:
            self._term.offer(entry)
        else:
            self._term.spawn(self.look_again(entry.id))

    def finish(self, entry: Entry, key: AttemptKey | None, outcome: Outcome, span: Span = NO_SPAN) -> None:
        """Store the end, then tell whoever waits, and the host that made it. `span` is the attempt's."""
        self._term.faulty.pop(entry.id, None)
        variant = self._term.catalogue.now.variants.get(entry.request.slug)
        ending = Ending(
            entry=entry,
            number=None if key is None else key.number,
            outcome=outcome,
            price=None if variant is None else results.price_of(variant) if outcome.reused else variant.price,
        )
        stored = functools.partial(self._finished, ending, span, time.time())
        self._term.then(self._term.queue.finish(ending), stored)

    def _finished(self, ending: Ending, span: Span, asked_at: float, ended: Ended | None) -> None:
        trails.settled(self._term.traces, ending, span, asked_at)
        outcome, request = ending.outcome, ending.entry.request
        self._term.reuse.leave(request.id)
        if ended is None:
            self._term.spawn(self.look_again(request.id))
        else:
            self._term.board.conclude(
                Status(
                    request=request,
                    state=outcome.state,
                    attempt=outcome.attempt,
                    started_at=ended.started_at,
                    finished_at=ended.finished_at,
                    outcome=outcome,
                )
            )
        if ending.number is not None:
            self.settle(outcome.host_id, AttemptKey(request.id, ending.number))

    def settle(self, host_id: str | None, key: AttemptKey) -> None:
        """The host may forget the attempt and its outputs."""
        if (link := self._term.links.get(host_id or "")) is not None:
            link.send(protocol.Settled(attempt=key))

    async def look_again(self, request_id: RequestId) -> None:
        """A move did not happen as asked: another process moved it, or our first answer was lost on the way."""
        status = await self._term.queue.status(request_id)
        if status is None or request_id in self._term.attempts or request_id in self._term.waiting:
            return
        if status.state.is_final:
            self._term.reuse.leave(request_id)
            self._term.board.settle(status)
        else:
            log.warning("a request moved by itself", request=request_id, state=status.state)
            await self._term.queue.untake([request_id])
            self._term.backlog.set()
