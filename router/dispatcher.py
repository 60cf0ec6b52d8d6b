"""Who dispatches: one process per pool, by an advisory lock; the others stand by and take over when it goes. IO.

The lock lives in a connection of its own, which also listens for what other processes submit and cancel. While it
lasts there is a `Term`; when it breaks, memory is thrown away and the next holder, here or elsewhere, folds anew.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping

import psycopg
import structlog
from psycopg import sql

from registry import database
from registry.database import Database
from registry.tracing import NO_TRACES, Traces
from router import queue
from router.board import Board
from router.catalogue import Catalogue
from router.files import FileStore
from router.foresight import Foresight
from router.hub import Hub
from router.partners.connections import Connection
from router.queue import Queue
from router.requests import RequestId
from router.term import Term
from router.turns import Turns

log = structlog.get_logger("marquee.dispatcher")

LOCK_CLASS = 0x6D71  # first half of the advisory lock's key; the second is the pool's hash
RETRY_SECONDS = 0.5
CHECK_SECONDS = 1.0
SILENT_SECONDS = 8.0  # a little less than a server takes to give a lock away whose holder's machine is gone
RECONCILE_SECONDS = 10.0
OVERGROWN_CELLS = 1 << 24  # a bundle on a host each, since a term began: about 300 MB


class _OvergrownError(Exception):
    """The term knows so many LoRAs that it is cheaper to begin anew with those that are wanted now."""


class Dispatcher:
    """Stands by for one pool until it ends; `term` and `hub` are there while it is the active one."""

    def __init__(
        self,
        *,
        pool: str,
        db: Database,
        files: FileStore,
        board: Board,
        catalogue: Catalogue,
        origin: str,
        key_at_once: int | None = None,
        traces: Traces = NO_TRACES,
        partners: Mapping[str, Connection] | None = None,
    ) -> None:
        self._traces = traces
        self.pool = pool
        self._key_at_once = key_at_once
        self.term: Term | None = None
        self.hub: Hub | None = None
        self.foresight: Foresight | None = None
        self.standing_by = False  # another process is active and we are ready
        self._db = db
        self._files = files
        self._board = board
        self._catalogue = catalogue
        self._origin = origin
        self._partners = partners or {}

    @contextlib.asynccontextmanager
    async def standing(self) -> AsyncIterator[None]:
        """Stands by from now on; ends its term at the exit, what hosts run goes on there."""
        task = asyncio.create_task(self._stand_by())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    @property
    def hosts(self) -> int:
        """How many are linked now."""
        return 0 if self.term is None else len(self.term.links)

    async def _stand_by(self) -> None:
        while True:
            try:
                await self._hold_lock()
            except (psycopg.Error, OSError) as error:
                log.warning("the dispatcher's connection is gone", error=str(error).strip())
            except _OvergrownError:
                log.info("the dispatcher begins anew, to forget what nobody wants any more")
                continue
            except Exception:
                log.exception("the dispatcher failed and begins anew")
            await asyncio.sleep(RETRY_SECONDS)

    async def _hold_lock(self) -> None:
        connection = await database.connect(self._db.dsn)
        async with connection:
            for channel in (queue.SUBMITTED_CHANNEL, queue.CANCELLED_CHANNEL):
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            self.standing_by = True
            try:
                await connection.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", [LOCK_CLASS, self.pool])
            finally:
                self.standing_by = False
            log.info("dispatching", pool=self.pool)
            await self._serve(connection)

    async def _serve(self, connection: psycopg.AsyncConnection) -> None:
        term = Term(
            pool=self.pool,
            queue=Queue(self._db, self._origin),
            files=self._files,
            board=self._board,
            catalogue=self._catalogue,
            turns=Turns(self._key_at_once),
            traces=self._traces,
            partners=self._partners,
        )
        hub, foresight = Hub(term), Foresight(term, self._db)
        try:
            await foresight.recall()
            await hub.begin()
            self.term, self.hub, self.foresight = term, hub, foresight
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._hear(connection, term, hub))
                tasks.create_task(term.run())
                tasks.create_task(foresight.run())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            self._step_down(term)
            await term.close()
            await foresight.remember()

    def _step_down(self, term: Term) -> None:
        self.term = self.hub = self.foresight = None
        term.shut()

    async def _hear(self, connection: psycopg.AsyncConnection, term: Term, hub: Hub) -> None:
        """Ends with the connection, and so with the lock: the term at once, whatever else is still under way.

        Raises `_OvergrownError`.
        """
        try:
            await self._listen(connection, term, hub)
        finally:
            self._step_down(term)

    async def _listen(self, connection: psycopg.AsyncConnection, term: Term, hub: Hub) -> None:
        residency = term.placement.fleet.residency
        known = len(residency.bundles)
        reconcile_at = time.monotonic() + RECONCILE_SECONDS
        while True:
            async for notice in connection.notifies(timeout=CHECK_SECONDS):
                if notice.channel == queue.CANCELLED_CHANNEL:
                    term.withdraw(RequestId(notice.payload))
                else:
                    term.intake.hear(notice.payload)
            await _answers(connection)
            if (len(residency.bundles) - known) * residency.hosts > OVERGROWN_CELLS:
                raise _OvergrownError
            hub.give_up_orphans(term.now())
            if time.monotonic() > reconcile_at:
                await hub.reconcile()
                term.backlog.set()  # should ever a notice be lost
                reconcile_at = time.monotonic() + RECONCILE_SECONDS


async def _answers(connection: psycopg.AsyncConnection) -> None:
    """Does the lock still stand? A term whose database is silent ends rather than decide beside its successor.

    Raises `psycopg.OperationalError`; what was asked is waited for no longer, which may take psycopg ten seconds more.
    """
    asked = asyncio.ensure_future(connection.execute("SELECT 1"))
    try:
        await asyncio.wait([asked], timeout=SILENT_SECONDS)
        if not asked.done():
            raise psycopg.OperationalError(f"no answer for {SILENT_SECONDS:.0f} s")
        await asked
    finally:
        asked.cancel()
