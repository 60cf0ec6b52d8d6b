"""One attempt at a partner, from handing it over to its end. IO.

The attempt's row is committed before; the partner's own name of the request is stored as soon as it is known, and
whoever finds that name later goes on asking for it. What cannot be known is said: an answer that was lost on the way
to a synchronous provider is not asked for again. A caller's cancellation is passed on.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import structlog

from loaders.protocol import Timings
from registry.catalog import Partner
from router.attempts import Attempt
from router.partners import patience, refusals
from router.partners.connections import Connection
from router.partners.errors import (
    BusyError,
    FailedThereError,
    ForgottenError,
    OutputLostError,
    PartnerError,
    RefusedError,
    UnreachableError,
)
from router.partners.records import Call, Made, Pending, Ticket
from router.queue import LOST, Queue
from router.requests import Outcome, State
from router.rows import Acceptance, AttemptRow

RESUME_GRACE_SECONDS = 10.0  # in which a dispatcher before us may still write down the partner's name of it
RESUME_LOOK_SECONDS = 0.5
CLOCKS_SECONDS = (
    1.0  # by which a run's length may pass the time it had: more is not believed, for runs are billed
)
CANCEL_SECONDS = 5.0  # of one try

log = structlog.get_logger("marquee.partners")


class Errand:
    """`stop` ends it for its caller; cancelling the task that runs it leaves all as it is, for the next term."""

    def __init__(
        self,
        attempt: Attempt,
        partner: Partner,
        connection: Connection,
        queue: Queue,
        *,
        told: Callable[[], None],
        answered: Callable[[], None],
        clock: Callable[[], float] = time.time,  # by which the attempt was assigned
    ) -> None:
        self.attempt = attempt
        self._partner = partner
        self._connection = connection
        self._queue = queue
        self._told = told  # the attempt's status changed
        self._answered = answered  # the breaker may have changed
        self._clock = clock
        self._stopped = asyncio.Event()
        self._ticket: str | None = None
        self._queued_seconds = 0.0  # in the partner's own queue
        self._began_at = time.monotonic()
        self.handing_over: asyncio.Task[Any] | None = None
        self.leaving: asyncio.Task[None] | None = None

    def stop(self) -> None:
        self._stopped.set()

    async def run(self, *, is_resumed: bool = False) -> Outcome | None:
        """Its outcome; None when its caller cancelled it. Raises `FailedThereError`: another attempt may do better."""
        work = asyncio.create_task(self._work(is_resumed=is_resumed))
        stop = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
            if work.done() and not self._stopped.is_set():
                return work.result()
            await self._withdraw(work)
            return None
        finally:
            for task in (work, stop):
                task.cancel()
            await asyncio.gather(work, stop, return_exceptions=True)

    async def _work(self, *, is_resumed: bool) -> Outcome:
        name = self._partner.provider
        try:
            made = await (self._resume() if is_resumed else self._submit())
            if made is None:
                made = await self._follow()
            return await self._bring(made)
        except RefusedError as error:
            return self.attempt.fail(error.failure, self._timings(None))
        except ForgottenError as error:
            failure = refusals.failed(name, f"it forgot the request: {error}", is_its_fault=True)
            raise FailedThereError(failure) from error
        except OutputLostError as error:
            failure = refusals.failed(name, str(error), "partner_output_lost", is_its_fault=True)
            return self.attempt.fail(failure, self._timings(None))

    # handing it over

    async def _submit(self) -> Made | None:
        """The result where the provider waits for it; else it has a ticket now."""
        for tries in itertools.count(1):
            try:
                self.handing_over = asyncio.create_task(self._hand_over())
                self.handing_over.add_done_callback(_heard)
                return await asyncio.shield(self.handing_over)
            except (BusyError, UnreachableError) as error:
                await self._wait_to_submit(error, tries)
            finally:
                self._answered()
        raise AssertionError("it tries for ever, or gives up")

    async def _hand_over(self) -> Made | None:
        """Shielded: what the partner has taken is written down, whatever happens to us meanwhile."""
        request = self.attempt.entry.request
        left = None
        if request.start_deadline is not None:
            left = request.start_deadline.timestamp() - self._clock()
        call = Call(
            endpoint=self._partner.endpoint,
            input=request.input,
            priority=request.priority,
            start_within_seconds=left,
            traceparent=self.attempt.span.traceparent or None,
        )
        answer = await self._connection.api.submit(call)
        if isinstance(answer, Made):
            return answer
        assert isinstance(answer, Ticket), "an answer or a ticket"
        self._ticket = answer.id
        key = self.attempt.key
        await self._queue.accept(
            Acceptance(id=self.attempt.entry.id, number=key.number, partner_request_id=answer.id)
        )
        return None

    async def _wait_to_submit(self, error: BusyError | UnreachableError, tries: int) -> None:
        """Raises `RefusedError` when it is not worth another try."""
        breaker, api = self._connection.breaker, self._connection.api
        pause = patience.pause(tries, error.retry_after_seconds)
        if isinstance(error, BusyError):
            if error.retry_after_seconds is not None and pause is not None:
                breaker.hush(pause, time.monotonic())
            if pause is None:
                raise RefusedError(refusals.too_busy(api.name)) from error
        elif pause is None or breaker.is_open(time.monotonic()) or (api.is_synchronous and error.sent):
            raise RefusedError(refusals.unavailable(api.name, str(error))) from error
        await asyncio.sleep(pause)

    # waiting for it

    async def _resume(self) -> None:
        """A dispatcher before us began it. Raises `ForgottenError` when nobody knows whether the partner has it."""
        if self._connection.api.is_synchronous:  # its answer went to who is no more, and is paid
            reason = "its answer was lost when this deployment restarted"
            raise RefusedError(refusals.unavailable(self._partner.provider, reason))
        deadline = time.monotonic() + RESUME_GRACE_SECONDS
        while True:
            rows: Sequence[AttemptRow] = ()
            try:
                rows = await self._queue.attempts(self.attempt.entry.id)
            except LOST:  # takeovers come with databases that go: pooled connections may be dead still
                deadline = time.monotonic() + RESUME_GRACE_SECONDS
            names = [row.partner_request_id for row in rows if row.number == self.attempt.key.number]
            if names and names[0] is not None:
                self._ticket = names[0]
                return
            if time.monotonic() > deadline:
                raise ForgottenError("it was being handed over when this deployment restarted")
            await asyncio.sleep(RESUME_LOOK_SECONDS)

    async def _follow(self) -> Made:
        assert self._ticket is not None, "it was handed over"
        api, heard_at = self._connection.api, time.monotonic()
        for pause in patience.polls():
            await self._refuse_too_slow()
            wait = pause
            try:
                look = await api.look(self._partner.endpoint, self._ticket)
                if isinstance(look, Made):
                    return look
                heard_at = time.monotonic()
                self._fold(look)
            except (BusyError, UnreachableError) as error:
                if time.monotonic() - heard_at > patience.SILENCE_SECONDS:
                    raise RefusedError(refusals.unavailable(api.name, str(error))) from error
                wait = max(pause, min(error.retry_after_seconds or 0.0, patience.SILENCE_SECONDS))
            finally:
                self._answered()
            await asyncio.sleep(wait)
        raise AssertionError("it looks for ever, or gives up")

    async def _refuse_too_slow(self) -> None:
        longest = self._connection.account.longest_seconds
        if self._clock() - self.attempt.assigned_at > longest:
            await self.call_off()
            raise RefusedError(refusals.too_slow(self._partner.provider, longest))

    def _fold(self, look: Pending) -> None:
        attempt = self.attempt
        if look.position is not None:
            self._queued_seconds = time.monotonic() - self._began_at
        phase: Literal["running"] | None = "running" if look.position is None else None
        if (attempt.position, attempt.phase, attempt.logs) != (look.position, phase, look.logs):
            attempt.position, attempt.phase, attempt.logs = look.position, phase, look.logs
            self._told()

    async def _bring(self, made: Made) -> Outcome:
        """The partner's answer as ours: its files in our store."""
        self.attempt.position, self.attempt.phase = None, "running"
        timings = self._timings(made.run_seconds)
        if made.logs:
            self.attempt.logs = made.logs
        brought = await self._connection.media.bring(made.result, time.time())
        if not made.is_whole:
            return self.attempt.outcome(State.SUCCEEDED, timings, files=brought.files)
        if not isinstance(brought.result, dict):
            failure = refusals.failed(
                self._partner.provider, "its answer is no JSON object", is_its_fault=True
            )
            return self.attempt.fail(failure, timings)
        return self.attempt.outcome(
            State.SUCCEEDED, timings, files=brought.files, result=brought.result, places=brought.places
        )

    def _timings(self, run_seconds: float | None) -> Timings:
        elapsed = time.monotonic() - self._began_at
        possible = max(elapsed, self._clock() - self.attempt.assigned_at) + CLOCKS_SECONDS
        run = elapsed - self._queued_seconds if run_seconds is None else min(run_seconds, possible)
        run = max(0.0, run)
        return Timings(wait=max(0.0, elapsed - run), run=run)

    # letting go

    async def _withdraw(self, work: "asyncio.Task[Any]") -> None:
        """Its caller wants it no more: the partner hears so, if it has it."""
        work.cancel()
        self.leaving = asyncio.create_task(self._leave())
        await self.leaving

    async def _leave(self) -> None:
        """However late the partner says what it calls the request (`wire` knows how late): unheard, it runs and costs."""
        if self.handing_over is not None and not self._connection.api.is_synchronous:
            await asyncio.wait([self.handing_over])
        await self.call_off()

    async def call_off(self) -> None:
        """The partner hears that nobody wants it any more."""
        if self._ticket is not None:
            await call_off(self._connection, self._partner.endpoint, self._ticket)


async def call_off(connection: Connection, endpoint: str, ticket: str) -> None:
    """In a few tries; never raises for what the partner does."""
    for tries in itertools.count(1):
        pause = patience.pause(tries, None)
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                await connection.api.cancel(endpoint, ticket)
        except (BusyError, UnreachableError, TimeoutError) as error:
            if pause is None:
                log.warning("a partner does not hear a cancellation", ticket=ticket, error=str(error))
                return
            await asyncio.sleep(pause)
        except PartnerError:  # it is over there, or unknown
            return
        else:
            return


def _heard(task: "asyncio.Task[Any]") -> None:
    """Whoever waited for it may be gone: its exception is no surprise."""
    if not task.cancelled():
        task.exception()
