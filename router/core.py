"""The one core below all doors: submit, status, wait, cancel, watch. IO by proxy.

Doors translate shapes and errors, nothing more. A request is answered for only after it is committed; whether this
process dispatches it or another one does, callers see the same.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any, Unpack

import msgspec

from loaders.protocol import AdapterUse
from registry import feed, tracing
from registry.catalog import Caller, Digest, Version
from registry.tracing import NO_TRACES, Traces
from router import ids, inputs, limits, queue, repeats, submission
from router.board import Board
from router.catalogue import Catalogue
from router.dispatcher import Dispatcher
from router.errors import AlreadyFinishedError, NotFinishedError, StoppingError, UnknownRequestError
from router.limits import Limiter
from router.loras import Loras
from router.queue import Queue
from router.repeats import Repeats
from router.requests import Failure, Outcome, Priority, Request, RequestId, State, Status
from router.rows import AttemptRow, Ending, Entry
from router.snapshot import Resolved
from router.submission import Entropy, Wishes
from router.waits import Elsewhere

POLL_SECONDS = 1.0  # between looks at the table for requests that another process dispatches
SEED_BITS = 31  # what every pipeline's generator takes


class Core:
    """What one gateway process offers its doors."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        queue: Queue,
        board: Board,
        dispatcher: Dispatcher,
        limiter: Limiter,
        loras: Loras,
        repeats: Repeats,
        elsewhere: Elsewhere,
        longest_wait_seconds: float | None = None,
        traces: Traces = NO_TRACES,
        entropy: Entropy = secrets.randbits,
    ) -> None:
        self.catalogue = catalogue
        self._queue = queue
        self._board = board
        self._dispatcher = dispatcher
        self._limiter = limiter
        self._loras = loras
        self._repeats = repeats
        self._elsewhere = elsewhere
        self._longest_wait_seconds = longest_wait_seconds
        self._traces = traces
        self._entropy = entropy
        self.stopping = asyncio.Event()  # streams and waiting calls end

    def resolve(self, caller: Caller, slug: str, wanted: Digest | None = None) -> Resolved:
        """The `wanted` version where it shares the slug's traffic. Raises `UnknownSlugError`, `UnavailableError`."""
        lot = self._entropy(24) / (1 << 24)
        return self.catalogue.now.resolve(slug, caller, self.catalogue.clock(), lot, wanted)

    async def submit(
        self, caller: Caller, slug: str, arguments: Mapping[str, Any], **wishes: Unpack[Wishes]
    ) -> RequestId:
        """Returns after the commit. Who asks again with the same `once` gets the request that there is.

        Raises `UnknownSlugError`, `UnavailableError`, `InvalidInputError`, `OverloadedError`, `RepeatedKeyError`,
        `QueueUnavailableError`.
        """
        once = wishes.get("once")
        again = None if once is None else repeats.repeat(caller.organization, once, slug, arguments)
        if again is not None and (first := await self._repeats.first(again)) is not None:
            return first
        span = self._traces.begin("submit", tracing.current.get())
        request = await self._accept(caller, slug, arguments, wishes)
        if again is not None:
            request = msgspec.structs.replace(request, id=await self._repeats.claim(again, request.id))
        await self._enqueue(request, fleeting=wishes.get("fleeting", False))
        span.end(request_id=request.id, slug=request.slug, door=request.door)
        return request.id

    async def _accept(
        self, caller: Caller, slug: str, arguments: Mapping[str, Any], wishes: Wishes
    ) -> Request:
        """Limits, launch window, schema and adapters allow it: the whole request, which nobody knows of yet."""
        await self._limiter.admit(caller.key_id)
        resolved = self.resolve(caller, slug, wishes.get("version"))
        version = resolved.version  # None: a partner's, which draws its own seeds and knows its own LoRAs
        values = resolved.checker.complete(arguments, self._entropy(SEED_BITS) if version else None)
        uses = await self._adapters(caller, values, version) if version else ()
        if version is not None:
            await self._refuse_long_wait(caller, resolved, wishes.get("priority", "normal"))
        return submission.compose(
            caller,
            resolved,
            values,
            uses,
            wishes,
            pool=self._dispatcher.pool,
            seeded=arguments.get("seed") is not None,
            traceparent=tracing.current.get(),
            now=self.catalogue.clock(),
            entropy=self._entropy,
        )

    async def _refuse_long_wait(self, caller: Caller, resolved: Resolved, priority: Priority) -> None:
        longest = limits.longest_wait(resolved.variant, self._longest_wait_seconds)
        if longest is None:
            return
        if (term := self._dispatcher.term) is not None:
            expected = term.waits.expected_seconds(caller.organization, priority, len(term.links))
        else:
            expected = await self._elsewhere.expected_seconds(caller.organization, priority)
        limits.refuse_long_wait(expected, longest)

    async def _adapters(
        self, caller: Caller, values: Mapping[str, Any], version: Version
    ) -> tuple[AdapterUse, ...]:
        """A LoRA that a customer brings for the first time is fetched here, before anything is accepted."""
        wanted = inputs.wanted_loras(values)
        if not wanted:
            return ()
        found = await self._loras.find(caller, wanted, version, self._entropy(24) / (1 << 24))
        return inputs.adapters(wanted, found, version)

    async def _enqueue(self, request: Request, *, fleeting: bool) -> None:
        term = self._dispatcher.term
        taken = term is not None and not term.closed and term.intake.admits(request)
        created_at = await self._queue.submit(request, taken=taken, fleeting=fleeting)
        if term is None or not taken:
            return
        if term.closed:  # the dispatcher changed while the row was written: let the next one find it
            await self._queue.give_up(request)
        else:
            request = msgspec.structs.replace(request, created_at=created_at)
            term.offer(Entry(request=request, origin=self._queue.origin))

    async def run(
        self, caller: Caller, slug: str, arguments: Mapping[str, Any], **wishes: Unpack[Wishes]
    ) -> Status:
        """Submit and wait for the end, however long it takes."""
        request_id = await self.submit(caller, slug, arguments, **wishes)
        if wishes.get("once") is not None:  # it may have ended long ago
            known = await self.status(caller, request_id)
            if known.state.is_final:
                return known
        return await self._end(request_id)

    async def status(self, caller: Caller, request_id: str) -> Status:
        """Raises `UnknownRequestError`."""
        known = ids.parse(request_id)
        status = None if known is None else await self._look(known)
        if status is None or status.request.organization != caller.organization:
            raise UnknownRequestError(request_id)
        return status

    async def inspect(self, caller: Caller, request_id: str) -> Status:
        """As `status`, and anybody's for an operator. Raises `UnknownRequestError`."""
        known = ids.parse(request_id)
        if "operate" in caller.scopes and known is not None and (status := await self._look(known)):
            return status
        return await self.status(caller, request_id)

    async def wait(self, caller: Caller, request_id: str, timeout_seconds: float) -> Status:
        """The final status, or the present one when the time is over or this process ends.

        Raises `UnknownRequestError`.
        """
        status = await self.status(caller, request_id)
        if status.state.is_final:
            return status
        with contextlib.suppress(TimeoutError, StoppingError):
            return await asyncio.wait_for(self._end(status.request.id), timeout_seconds)
        return await self.status(caller, request_id)

    async def cancel(self, caller: Caller, request_id: str) -> State:
        """The state it was in. Raises `UnknownRequestError`, `AlreadyFinishedError`."""
        status = await self.status(caller, request_id)
        request = status.request
        failure = Failure(kind="cancelled", error="client_cancelled", message="cancelled by its caller")
        ending = Ending(
            entry=Entry(request=request, origin=self._queue.origin),
            number=None,
            outcome=Outcome(state=State.CANCELLED, failure=failure, attempt=status.attempt),
        )
        ended = await self._queue.finish(ending)
        if ended is None:
            raise AlreadyFinishedError(request_id)
        self._board.conclude(
            msgspec.structs.replace(
                status, state=State.CANCELLED, outcome=ending.outcome, finished_at=ended.finished_at
            )
        )
        if self._dispatcher.term is not None:
            self._dispatcher.term.withdraw(request.id)
        else:
            await self._queue.announce(queue.CANCELLED_CHANNEL, [request.id])
        return status.state

    async def watch(self, caller: Caller, request_id: str) -> AsyncIterator[Status]:
        """The present status, then every change, the final one last. Raises `UnknownRequestError`."""
        known = (await self.status(caller, request_id)).request.id
        told: Status | None = None
        changed = self._board.subscribe(known)
        try:
            while not self.stopping.is_set() and (told is None or not told.state.is_final):
                changed.clear()
                status = await self.status(caller, known)
                if status != told:
                    yield status
                    told = status
                    continue
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), POLL_SECONDS)
        finally:
            self._board.unsubscribe(known, changed)

    async def erase(self, caller: Caller, request_id: str) -> frozenset[str]:
        """Forgets what it was sent and what it made, not what it cost; the files that nobody needs any more.

        Raises `UnknownRequestError`, `NotFinishedError`.
        """
        known = (await self.inspect(caller, request_id)).request.id
        files = await self._queue.erase(known)
        if files is None:
            raise NotFinishedError(request_id)
        return files

    async def explain(self, caller: Caller, request_id: str) -> tuple[Status, list[AttemptRow]]:
        """Every try of it, with the decision that placed it; for its owner and operators.

        Raises `UnknownRequestError`.
        """
        status = await self.inspect(caller, request_id)
        return status, await self._queue.attempts(status.request.id)

    async def follow(self, dsn: str) -> None:
        """Until cancelled: hear what other processes finished, and settle who waits for it here."""
        async for said in feed.hear(dsn, (queue.FINISHED_CHANNEL,)):
            ended = self._board.awaited if said is None else filter(self._board.awaits, map(RequestId, said))
            for status in await asyncio.gather(*map(self._queue.ended, ended)):
                if status is not None:
                    self._board.settle(status)

    async def _look(self, request_id: RequestId) -> Status | None:
        """From memory where this process dispatches it, else from the table."""
        term = self._dispatcher.term
        status = None if term is None else term.status(request_id)
        if status is None:
            status = await self._queue.status(request_id)
            if status is not None and status.state is State.QUEUED:
                ahead = await self._queue.ahead(status.request.pool, request_id)
                status = msgspec.structs.replace(status, queue_position=ahead)
        return status

    async def _end(self, request_id: RequestId) -> Status:
        """Told by this process's dispatcher at once, else found in the table."""
        end = self._board.end(request_id)
        try:
            while True:
                done, _ = await asyncio.wait([end], timeout=POLL_SECONDS)
                if done:
                    return end.result()
                if self.stopping.is_set():
                    raise StoppingError(request_id)
                term = self._dispatcher.term
                if term is not None and term.status(request_id) is not None:
                    continue
                if (status := await self._queue.ended(request_id)) is not None:
                    return status
        finally:
            end.cancel()
