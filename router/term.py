"""One dispatcher's term: all it has in memory, folded from rows and hosts' reports, and what follows from it.

A term begins empty and ends whole: whatever goes wrong with the lock or the database, the next term folds anew.
Decisions are `placement`'s, writes are `queue`'s, the hosts' side is `hub`'s; this module keeps them in step.
An attempt is sent only after its row is committed; a caller is told only after the outcome's commit.
"""

import asyncio
import bisect
import functools
import heapq
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from loaders import protocol
from loaders.protocol import AttemptKey
from router import placement
from router.attempts import Attempt
from router.board import Board
from router.demand import Demand, RunTimes, units_of
from router.ends import Ends
from router.fairness import Fairness
from router.files import FileStore
from router.fleet import Fleet
from router.hosts import Assigned
from router.links import Link
from router.queue import Queue
from router.requests import Failure, Outcome, RequestId, State, Status
from router.residency import Bundle
from router.rows import Assignment, Entry, Explanation
from router.snapshot import Catalogue
from router.waiting import Waiting, Work

log = structlog.get_logger("marquee.dispatcher")

DECISIONS_AT_ONCE = 16  # before other tasks get the loop
WINDOW = 20_000  # waiting requests in memory; the rest stays in the table
TICK_SECONDS = 0.5


class Term:
    """What one dispatcher knows and does while it is the active one."""

    def __init__(
        self, *, pool: str, queue: Queue, files: FileStore, board: Board, catalogue: Catalogue
    ) -> None:
        self.pool = pool
        self.queue = queue
        self.files = files
        self.board = board
        self.catalogue = catalogue
        self.placement = placement.State(
            fleet=Fleet(), waiting=Waiting(Fairness()), demand=Demand(time.time()), run_times=RunTimes()
        )
        self.waiting: dict[RequestId, Entry] = {}
        self.attempts: dict[RequestId, Attempt] = {}  # the one that counts, per request
        self.links: dict[str, Link] = {}
        self.wake = asyncio.Event()
        self.backlog = asyncio.Event()  # the table may hold waiting requests that are not in memory
        self.closed = False
        self.ends = Ends(self)
        self._order: list[RequestId] = []
        self._deadlines: list[tuple[float, RequestId]] = []
        self.faulty: dict[RequestId, frozenset[str]] = {}  # hosts that failed under a waiting request
        self._tasks: set[asyncio.Task[None]] = set()

    # what callers ask

    @property
    def has_room(self) -> bool:
        return not self.closed and len(self.waiting) < WINDOW and not self.backlog.is_set()

    def status(self, request_id: RequestId) -> Status | None:
        """None when it is not in memory: the table knows."""
        entry = self.waiting.get(request_id)
        if entry is not None:
            position = bisect.bisect_left(self._order, request_id)
            return Status(
                request=entry.request, state=State.QUEUED, queue_position=position, attempt=entry.attempt
            )
        attempt = self.attempts.get(request_id)
        return None if attempt is None or attempt.cancelled else attempt.status()

    def withdraw(self, request_id: RequestId) -> None:
        """Its row is final by somebody else's doing: forget it, and stop the host that runs it."""
        if request_id in self.waiting:
            self.unlist(request_id)
            placement.cancel(self.placement, request_id)
        attempt = self.attempts.get(request_id)
        if attempt is not None:
            attempt.cancelled = True
            if attempt.sent and (link := self.links.get(attempt.host_id)) is not None:
                link.send(protocol.Cancel(attempt=attempt.key))

    # waiting

    def offer(self, entry: Entry) -> None:
        """A request waits from now on. What nobody can describe to a host ends at once."""
        if entry.id in self.waiting or entry.id in self.attempts:
            return
        missing = self.describe_to_fleet(entry)
        if missing is not None:
            self.ends.finish(entry, None, Outcome(state=State.FAILED, failure=missing, attempt=entry.attempt))
            return
        self.waiting[entry.id] = entry
        bisect.insort(self._order, entry.id)
        if entry.request.start_deadline is not None:
            heapq.heappush(self._deadlines, (entry.request.start_deadline.timestamp(), entry.id))
        placement.submit(self.placement, self.work_of(entry), time.time())
        self.board.touch(entry.id)
        self.wake.set()

    def work_of(self, entry: Entry) -> Work:
        request = entry.request
        faulty = self.faulty.get(entry.id, frozenset())
        return Work(
            id=request.id,
            organization=request.organization,
            version=request.version,
            adapters=tuple(use.digest for use in request.adapters),
            units=units_of(request.input),
            arrived_at=request.created_at.timestamp(),
            priority=request.priority,
            excluded_hosts=faulty if self.links.keys() - faulty else frozenset(),
        )

    def unlist(self, request_id: RequestId) -> Entry:
        """Take it out of the waiting ones, but for placement's own list."""
        place = bisect.bisect_left(self._order, request_id)
        del self._order[place]
        return self.waiting.pop(request_id)

    def describe_to_fleet(self, entry: Entry) -> Failure | None:
        fleet, snapshot, request = self.placement.fleet, self.catalogue.now, entry.request
        if request.version not in fleet.residency.bundles:
            described = snapshot.described.get(request.version)
            if described is None:
                return _unknown(request.version)
            fleet.describe(Bundle.of_version(described.manifest))
        for use in request.adapters:
            if use.digest not in fleet.residency.bundles:
                manifest = snapshot.described_adapters.get(use.digest)
                if manifest is None:
                    return _unknown(use.digest)
                fleet.describe(Bundle.of_adapter(manifest))
        return None

    # placing

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._place_for_ever())
            tasks.create_task(self._take_up_for_ever())

    async def _place_for_ever(self) -> None:
        while True:
            try:
                async with asyncio.timeout(TICK_SECONDS):
                    await self.wake.wait()
            except TimeoutError:
                self._expire(time.time())
            self.wake.clear()
            if self.place(time.time()):
                self.wake.set()
                await asyncio.sleep(0)

    async def _take_up_for_ever(self) -> None:
        while True:
            await self.backlog.wait()
            if WINDOW - len(self.waiting) < WINDOW // 10:
                await asyncio.sleep(TICK_SECONDS)
            else:
                await self.take_up()

    async def take_up(self) -> None:
        """As much of the table's backlog as there is room for."""
        self.backlog.clear()  # before we look: what is submitted meanwhile sets it again
        room = WINDOW - len(self.waiting)
        entries = await self.queue.take_up(self.pool, room)
        if len(entries) == room:
            self.backlog.set()
        for entry in entries:
            self.offer(entry)

    def place(self, now: float) -> bool:
        """Some decisions; False when there is nothing more to decide."""
        for _ in range(DECISIONS_AT_ONCE):
            decision = placement.choose(self.placement, now)
            if decision is None:
                return False
            self._carry_out(decision, now)
        return True

    def _carry_out(self, decision: placement.Decision, now: float) -> None:
        entry = self.unlist(decision.request_id)
        work, key = decision.work, AttemptKey(entry.id, entry.attempt + 1)
        assigned = Assigned(
            host_id=decision.host_id,
            attempt=key,
            bundles=(work.version, *work.adapters),
            run_seconds=decision.run_seconds,
            evicts=decision.evicts,
        )
        placement.commit(self.placement, decision, assigned, now)
        attempt = Attempt(entry, key, decision.host_id, work, decision.run_seconds, now)
        self.attempts[entry.id] = attempt
        explanation = Explanation(
            reason=decision.reason, candidates=decision.candidates, evicts=decision.evicts
        )
        row = Assignment(id=entry.id, number=key.number, host_id=decision.host_id, decision=explanation)
        self.then(self.queue.assign(row), functools.partial(self._assigned, attempt, decision))

    def _assigned(self, attempt: Attempt, decision: placement.Decision, moved: bool) -> None:  # noqa: FBT001  a future's result
        if attempt.cancelled:
            self.ends.free(attempt)
        elif not moved:
            self.ends.free(attempt)
            self.spawn(self.ends.look_again(attempt.entry.id))
        elif attempt.lost:
            self.ends.give_back(attempt, "host_lost", is_fault=False)
        else:
            attempt.sent = True
            self._send(attempt, decision)
            self.board.touch(attempt.entry.id)

    def _send(self, attempt: Attempt, decision: placement.Decision) -> None:
        link, request = self.links[attempt.host_id], attempt.entry.request
        messages: list[protocol.Message] = []
        snapshot = self.catalogue.now
        if request.version not in link.described:
            version = snapshot.described[request.version]
            messages.append(
                protocol.DescribeVersion(
                    digest=request.version, manifest=version.manifest, defaults=version.defaults
                )
            )
            link.described.add(request.version)
        for use in request.adapters:
            if use.digest not in link.described:
                manifest = snapshot.described_adapters[use.digest]
                messages.append(protocol.DescribeAdapter(digest=use.digest, manifest=manifest))
                link.described.add(use.digest)
        if decision.evicts:
            messages.append(protocol.Drop(digests=decision.evicts))
        values = {name: value for name, value in request.input.items() if name != "loras"}
        messages.append(
            protocol.Assign(
                attempt=attempt.key, version=request.version, adapters=request.adapters, input=values
            )
        )
        link.send(*messages)

    def _expire(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            _, request_id = heapq.heappop(self._deadlines)
            entry = self.waiting.get(request_id)
            if entry is not None:
                self.unlist(request_id)
                placement.cancel(self.placement, request_id)
                failure = Failure(
                    kind="deadline", error="request_timeout", message="it did not start before its deadline"
                )
                self.ends.finish(
                    entry, None, Outcome(state=State.FAILED, failure=failure, attempt=entry.attempt)
                )

    # tasks

    def then(self, future: "asyncio.Future[Any]", act: Callable[[Any], None]) -> None:
        """`act` on the result, unless this term is over by then."""

        def react(done: "asyncio.Future[Any]") -> None:
            if self.closed or done.cancelled():
                return
            if (error := done.exception()) is not None:
                log.error("a write failed", error=repr(error))
                return
            act(done.result())

        future.add_done_callback(react)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Memory is worth nothing any more; what it began to write may or may not have happened."""
        self.closed = True
        for link in self.links.values():
            link.close()
        for task in self._tasks:
            task.cancel()
        await self.queue.close()
        for attempt in self.attempts.values():
            attempt.discard()


def _unknown(digest: str) -> Failure:
    return Failure(kind="model", error="version_unknown", message=f"nothing is known of {digest} any more")
