"""The desk of a term that gives requests to partners: who waits, who is served, what becomes of it. IO by proxy.

It does for partners what placement, hub and hosts do for GPUs, with the same rows, numbers and ends: an attempt is
committed before the partner is called, and a late answer changes nothing. Requests for hosts never pass here.
"""

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

from loaders.protocol import AttemptKey
from registry.catalog import Partner
from registry.dashboard.live import PartnerState
from registry.settings import partner_key, variable
from router import ends, trails
from router.attempts import Attempt
from router.errors import QueueUnavailableError
from router.partners import refusals
from router.partners.connections import Connection
from router.partners.errand import Errand, call_off
from router.partners.errors import FailedThereError
from router.partners.line import Line
from router.queue import LOST
from router.requests import Failure, RequestId, State
from router.rows import Assignment, Entry, Explanation

if TYPE_CHECKING:
    from router.term import Term

log = structlog.get_logger("marquee.partners")

HOST = "partner:"  # what stands for a host in attempts and usage: `partner:fal`
CLOSE_SECONDS = 3.0  # at the end of a term: what is being handed over shall get its name
AGAIN_SECONDS = 1.0  # before a request that failed there is tried anew; doubles


class Desk:
    """The part of a `Term` that partners serve. `connections`: the configured ones."""

    def __init__(self, term: "Term", connections: Mapping[str, Connection]) -> None:
        self._term = term
        self._connections = connections
        self._lines = {name: Line() for name in connections}
        self._busy: Counter[str] = Counter()
        self._errands: dict[RequestId, Errand] = {}
        self._alarms: dict[str, asyncio.TimerHandle] = {}

    def serves(self, entry: Entry) -> bool:
        """Whether it is a partner's, configured or not."""
        return entry.request.version in self._term.catalogue.now.partners

    @property
    def partners(self) -> tuple[PartnerState, ...]:
        """For dashboards and alerts."""
        return tuple(
            PartnerState(
                name=name,
                waiting=len(self._lines[name]),
                running=self._busy[name],
                is_down=connection.breaker.is_on_probation,
            )
            for name, connection in self._connections.items()
        )

    # what waits

    def enter(self, entry: Entry) -> None:
        """Its key's turn has come."""
        name, request = self._partner(entry).provider, entry.request
        if name not in self._connections:
            asyncio.get_running_loop().call_soon(self.refuse, entry.id, _not_configured(name))
            return
        self._lines[name].enter(entry.id, request.organization, is_low=request.priority == "low")
        asyncio.get_running_loop().call_soon(self._pump, name)

    def leave(self, request_id: RequestId) -> None:
        """It waits no more: cancelled, or too late."""
        for line in self._lines.values():
            if line.leave(request_id):
                return

    def stop(self, request_id: RequestId) -> None:
        """Its row is final already: if a partner has it, the partner hears so."""
        if (errand := self._errands.get(request_id)) is not None:
            errand.stop()

    def disown(self, request_id: RequestId) -> None:
        """Cancelled while nobody dispatched: no errand of this term knows of it, and its partner may run it still."""
        if self._connections:
            self._term.spawn(self._disown(request_id))

    async def _disown(self, request_id: RequestId) -> None:
        try:
            status = await self._term.queue.status(request_id)
            if status is None or status.state is not State.CANCELLED:
                return
            partner = self._term.catalogue.now.partners.get(status.request.version)
            attempts = await self._term.queue.attempts(request_id) if partner is not None else ()
        except (*LOST, QueueUnavailableError):
            return
        if partner is None or not attempts:
            return
        last = attempts[-1]
        connection = self._connections.get(last.host_id.removeprefix(HOST))
        if connection is not None and last.partner_request_id is not None:
            await call_off(connection, partner.endpoint, last.partner_request_id)

    def _pump(self, name: str) -> None:
        """Whoever waits and may be served is; when nobody may for long, all hear why."""
        if self._term.closed:
            return
        line, connection, now = self._lines[name], self._connections[name], time.monotonic()
        breaker = connection.breaker
        if breaker.is_open(now):
            failure = refusals.unavailable(name, breaker.reason, breaker.seconds_open(now))
            for waiting in line.drain():
                self.refuse(waiting, failure)
            return
        if quiet := breaker.seconds_quiet(now):
            self._wake_in(name, quiet)
            return
        room = 1 if breaker.is_on_probation else connection.account.at_once
        while self._busy[name] < room and (request_id := line.pop()) is not None:
            entry = self._term.waiting[request_id]
            if self.serves(entry):
                self._start(name, request_id)
            else:
                self.refuse(request_id, _withdrawn(entry))

    def _wake_in(self, name: str, seconds: float) -> None:
        if (alarm := self._alarms.get(name)) is None or alarm.when() < asyncio.get_running_loop().time():
            loop = asyncio.get_running_loop()
            self._alarms[name] = loop.call_later(seconds + 0.01, self._pump, name)

    def refuse(self, request_id: RequestId, failure: Failure) -> None:
        """It waits and cannot be served."""
        if self._term.closed or request_id not in self._term.waiting:
            return
        self._term.ends.refuse(self._term.drop(request_id), failure)

    # what is served

    def _start(self, name: str, request_id: RequestId) -> None:
        began, entry = time.time(), self._term.unlist(request_id)
        errand = self._errand(entry, AttemptKey(entry.id, entry.attempt + 1), self._term.now())
        reason = f"served by partner {name} ({self._partner(entry).endpoint})"
        decision = Explanation(reason=reason, candidates=())
        errand.attempt.span = trails.begin(self._term.traces, errand.attempt, decision, began)
        number = errand.attempt.key.number
        row = Assignment(id=entry.id, number=number, host_id=HOST + name, decision=decision)
        written = functools.partial(self._assigned, errand)
        self._term.then(self._term.queue.assign(row), written, lambda: self._free(errand))

    def _errand(self, entry: Entry, key: AttemptKey, assigned_at: float) -> Errand:
        partner = self._partner(entry)
        host_id = HOST + partner.provider
        attempt = Attempt(entry, key, host_id, self._term.work_of(entry), 0.0, assigned_at)
        errand = Errand(
            attempt,
            partner,
            self._connections[partner.provider],
            self._term.queue,
            told=functools.partial(self._term.board.touch, entry.id),
            answered=functools.partial(self._pump, partner.provider),
            clock=self._term.now,
        )
        self._term.attempts[entry.id] = attempt
        self._errands[entry.id] = errand
        self._busy[partner.provider] += 1
        return errand

    def _assigned(self, errand: Errand, moved: bool) -> None:  # noqa: FBT001  a future's result
        attempt = errand.attempt
        if attempt.cancelled or not moved:
            self._free(errand)
            if not attempt.cancelled:
                self._term.spawn(self._term.ends.look_again(attempt.entry.id))
            return
        attempt.sent = True
        self._term.board.touch(attempt.entry.id)
        self._term.spawn(self._serve(errand, is_resumed=False))

    async def _serve(self, errand: Errand, *, is_resumed: bool) -> None:
        attempt = errand.attempt
        try:
            outcome = await errand.run(is_resumed=is_resumed)
        except FailedThereError as error:
            await self._try_again(errand, error)
            return
        except Exception:
            log.exception("an errand failed", request=attempt.entry.id)
            await errand.call_off()
            failure = Failure(kind="host", error="partner_error", message="Something went wrong here")
            outcome = attempt.fail(failure)
        self._free(errand)
        if outcome is not None and not attempt.cancelled:
            self._term.ends.finish(attempt.entry, attempt.key, outcome, attempt.span)

    async def _try_again(self, errand: Errand, error: FailedThereError) -> None:
        """As a new attempt, a few times; then the partner's own words are the end."""
        attempt, faults = errand.attempt, errand.attempt.entry.host_faults
        if faults + 1 < ends.MAX_HOST_FAULTS:
            await asyncio.sleep(AGAIN_SECONDS * 2.0**faults)
        self._free(errand)
        if attempt.cancelled:
            return
        if faults + 1 < ends.MAX_HOST_FAULTS:
            self._term.ends.give_back(attempt, f"{error.failure.error}: {error}", is_fault=True)
        else:
            outcome = attempt.fail(error.failure)
            self._term.ends.finish(attempt.entry, attempt.key, outcome, attempt.span)

    def _free(self, errand: Errand) -> None:
        """Its provider has room again."""
        attempt = errand.attempt
        name = attempt.host_id.removeprefix(HOST)
        if self._errands.get(attempt.entry.id) is errand:
            del self._errands[attempt.entry.id]
            self._busy[name] -= 1
        self._term.ends.free(attempt)
        self._pump(name)

    # over restarts

    def resume(self, entry: Entry) -> bool:
        """True when it is a partner's: a dispatcher before us gave it there, and we go on asking."""
        host_id = entry.host_id or ""
        if not host_id.startswith(HOST) or entry.id in self._errands:
            return host_id.startswith(HOST)
        key = AttemptKey(entry.id, entry.attempt)
        name = host_id.removeprefix(HOST)
        if not self.serves(entry) or self._partner(entry).provider != name or name not in self._connections:
            failure = _withdrawn(entry) if name in self._connections else _not_configured(name)
            self._term.ends.refuse(entry, failure, key)
            return True
        started_at = self._term.now() if entry.started_at is None else entry.started_at.timestamp()
        errand = self._errand(entry, key, started_at)
        errand.attempt.sent = True
        self._term.turns.claim(entry.id, entry.request.key_id)
        self._term.reuse.claim(entry)
        self._term.spawn(self._serve(errand, is_resumed=True))
        return True

    async def close(self) -> None:
        """What is being handed over gets a moment to be taken and written down; the rest goes on there."""
        for alarm in self._alarms.values():
            alarm.cancel()
        under_way = [task for e in self._errands.values() for task in (e.handing_over, e.leaving) if task]
        if left := [task for task in under_way if not task.done()]:
            _, late = await asyncio.wait(left, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()

    def _partner(self, entry: Entry) -> Partner:
        return self._term.catalogue.now.partners[entry.request.version]


def _withdrawn(entry: Entry) -> Failure:
    """The catalogue was changed while it waited."""
    message = f"{entry.request.slug} is served by another endpoint now, or by none: call it again"
    return Failure(kind="host", error="partner_endpoint_withdrawn", message=message)


def _not_configured(provider: str) -> Failure:
    message = f"partner {provider} is not configured here; the operator has to set {variable(partner_key(provider))}"
    return Failure(kind="host", error="partner_not_configured", message=message)
