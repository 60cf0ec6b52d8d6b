"""One dispatcher's term: all it has in memory, folded from rows and hosts' reports, and what follows from it.

A term begins empty and ends whole: whatever goes wrong with the lock or the database, the next term folds anew.
Decisions are `placement`'s, writes are `queue`'s, the hosts' side is `hub`'s; this module keeps them in step.
An attempt is sent only after its row is committed; a caller is told only after the outcome's commit.
"""

import asyncio
import bisect
import contextlib
import heapq
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import structlog

from loaders import protocol
from registry.tracing import NO_TRACES, Traces
from router import placement
from router.attempts import Attempt
from router.board import Board
from router.catalogue import Catalogue
from router.demand import Demand, RunTimes, units_of
from router.ends import Ends
from router.fairness import Fairness
from router.files import FileStore
from router.fleet import Fleet
from router.intake import Intake
from router.links import Link
from router.partners.connections import Connection
from router.partners.desk import Desk
from router.queue import Queue
from router.requests import Failure, RequestId, State, Status
from router.residency import Bundle
from router.results import Reuse
from router.rows import Entry
from router.starts import Starts
from router.turns import Turns
from router.waiting import Waiting, Work
from router.waits import Waits

log = structlog.get_logger("marquee.dispatcher")

TICK_SECONDS = 0.5
FORGOTTEN_DEADLINES = 1000  # of requests that wait no more, kept until there are so many


class Term:
    """What one dispatcher knows and does while it is the active one."""

    def __init__(
        self,
        *,
        pool: str,
        queue: Queue,
        files: FileStore,
        board: Board,
        catalogue: Catalogue,
        turns: Turns | None = None,
        traces: Traces = NO_TRACES,
        partners: Mapping[str, Connection] | None = None,
    ) -> None:
        self.traces = traces
        self.turns = Turns(None) if turns is None else turns
        self.pool = pool
        self.queue = queue
        self.files = files
        self.board = board
        self.catalogue = catalogue
        self._zero = catalogue.clock().timestamp() - time.monotonic()
        self.placement = placement.State(
            fleet=Fleet(), waiting=Waiting(Fairness()), demand=Demand(self.now()), run_times=RunTimes()
        )
        self.waiting: dict[RequestId, Entry] = {}
        self.attempts: dict[RequestId, Attempt] = {}  # the one that counts, per request
        self.links: dict[str, Link] = {}
        self.wake = asyncio.Event()
        self.backlog = asyncio.Event()  # the table may hold waiting requests that are not in memory
        self.closed = False
        self.starts = Starts(self)
        self.ends = Ends(self)
        self.reuse = Reuse(self)
        self.desk = Desk(self, partners or {})
        self.intake = Intake(self)
        self._order: list[RequestId] = []
        self.waits = Waits()
        self._deadlines: list[tuple[float, RequestId]] = []
        self.faulty: dict[RequestId, frozenset[str]] = {}  # hosts that failed under a waiting request
        self._tasks: set[asyncio.Task[None]] = set()

    def now(self) -> float:
        """Unix seconds by the database's clock, as of this term's begin: who puts ours forward or back moves nothing."""
        return self._zero + time.monotonic()

    # what callers ask

    def status(self, request_id: RequestId) -> Status | None:
        """None when it is not in memory: the table knows."""
        entry = self.waiting.get(request_id)
        if entry is not None:
            position = bisect.bisect_left(self._order, request_id)
            return Status(
                request=entry.request, state=State.QUEUED, queue_position=position, attempt=entry.attempt
            )
        attempt = self.attempts.get(request_id)
        if attempt is None or attempt.cancelled:
            return None
        if not attempt.sent:  # decided, but not yet written: to the tables it still waits
            entry = attempt.entry
            return Status(request=entry.request, state=State.QUEUED, queue_position=0, attempt=entry.attempt)
        return attempt.status()

    def withdraw(self, request_id: RequestId) -> None:
        """Its row is final by somebody else's doing: forget it, and stop the host that runs it."""
        attempt = self.attempts.get(request_id)
        if request_id in self.waiting:
            self.drop(request_id)
        elif attempt is None:
            self.desk.disown(request_id)
        self.reuse.leave(request_id)
        self.faulty.pop(request_id, None)
        if attempt is not None:
            attempt.cancelled = True
            if attempt.sent and (link := self.links.get(attempt.host_id)) is not None:
                link.send(protocol.Cancel(attempt=attempt.key))
            self.desk.stop(request_id)

    # waiting

    def offer(self, entry: Entry) -> None:
        """A request waits from now on. What nobody can describe to a host ends at once."""
        if entry.id in self.waiting or entry.id in self.attempts:
            return
        missing = self.describe_to_fleet(entry)
        if missing is not None:
            self.ends.refuse(entry, missing)
            return
        self.waiting[entry.id] = entry
        self.intake.enter(entry, is_partners=self.desk.serves(entry))
        bisect.insort(self._order, entry.id)
        if entry.request.start_deadline is not None:
            self._watch_deadline(entry.request.start_deadline.timestamp(), entry.id)
        self.waits.add(entry.id, entry.request.organization, self._estimate(entry))
        if self.reuse.enter(entry):
            self.take_turn(entry)
        self.board.touch(entry.id)

    def _watch_deadline(self, at: float, request_id: RequestId) -> None:
        """Those of requests that wait no more are dropped now and then: a deadline may be months away."""
        heapq.heappush(self._deadlines, (at, request_id))
        if len(self._deadlines) > 2 * len(self.waiting) + FORGOTTEN_DEADLINES:
            self._deadlines = [known for known in self._deadlines if known[1] in self.waiting]
            heapq.heapify(self._deadlines)

    def take_turn(self, entry: Entry) -> None:
        """It has to run: placed when its key's turn comes."""
        if self.turns.enter(entry.id, entry.request.key_id):
            self._let_run(entry)

    def _let_run(self, entry: Entry) -> None:
        if self.desk.serves(entry):
            self.desk.enter(entry)
            return
        missing = self.describe_to_fleet(entry)
        if missing is not None:  # a partner's that the catalogue lost meanwhile
            asyncio.get_running_loop().call_soon(self.desk.refuse, entry.id, missing)
            return
        placement.submit(self.placement, self.work_of(entry), self.now())
        self.wake.set()

    def drop(self, request_id: RequestId) -> Entry:
        """It waits no more, and was not placed."""
        placement.cancel(self.placement, request_id)
        self.desk.leave(request_id)
        entry = self.unlist(request_id)
        self.pass_turn(request_id)
        return entry

    def pass_turn(self, request_id: RequestId) -> None:
        """It needs its key's turn no more: the next of the same key may be placed."""
        following = self.turns.leave(request_id)
        if following is not None and (entry := self.waiting.get(following)) is not None:
            self._let_run(entry)
        self.wake.set()

    def _estimate(self, entry: Entry) -> float:
        if self.desk.serves(entry):
            return 0.0  # of any host's time
        return self.placement.run_times.estimate(entry.request.version, units_of(entry.request.input))

    def work_of(self, entry: Entry) -> Work:
        request, faulty = entry.request, self.faulty.get(entry.id, frozenset())
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
        del self._order[bisect.bisect_left(self._order, request_id)]
        self.waits.remove(request_id)
        self.intake.leave(request_id)
        return self.waiting.pop(request_id)

    def describe_to_fleet(self, entry: Entry) -> Failure | None:
        fleet, snapshot, request = self.placement.fleet, self.catalogue.now, entry.request
        if request.version not in fleet.residency.bundles:
            described = snapshot.described.get(request.version)
            if described is None:
                return None if self.desk.serves(entry) else _unknown(request.version)
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
            tasks.create_task(self.intake.run())
            tasks.create_task(self.intake.end_late_ones())

    async def _place_for_ever(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self.wake.wait()
            self._expire(self.now())
            self.wake.clear()
            if self.starts.place(self.now()):
                self.wake.set()
                await asyncio.sleep(0)

    def _expire(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            _, request_id = heapq.heappop(self._deadlines)
            entry = self.waiting.get(request_id)
            if entry is not None:
                self.drop(request_id)
                self.ends.end_late(entry)

    # tasks

    def then(
        self,
        future: "asyncio.Future[Any]",
        act: Callable[[Any], None],
        unwritten: Callable[[], object] | None = None,
    ) -> None:
        """`act` on the result, unless this term is over by then; `unwritten` where the tables refused it."""

        def react(done: "asyncio.Future[Any]") -> None:
            if self.closed or done.cancelled():
                return
            if (error := done.exception()) is None:
                act(done.result())
                return
            log.error("a write failed", error=repr(error))
            if unwritten is not None:
                unwritten()

        future.add_done_callback(react)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def shut(self) -> None:
        """Nothing more is decided here; hosts go elsewhere."""
        self.closed = True
        for link in self.links.values():
            link.close()

    async def close(self) -> None:
        """Memory is worth nothing any more; what it began to write may or may not have happened."""
        self.shut()
        await self.desk.close()
        for task in self._tasks:
            task.cancel()
        await self.queue.close()
        for attempt in self.attempts.values():
            attempt.discard()


def _unknown(digest: str) -> Failure:
    return Failure(kind="model", error="version_unknown", message=f"nothing is known of {digest} any more")
