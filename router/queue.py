"""The durable queue: the only writer of `requests` and `attempts`, in hand-written SQL beside this file. IO.

Every write is a group commit: what many callers ask while one flush is under way is one statement in the next.
A write that meets a lost connection is repeated until the database is back; a repeated write changes nothing that
its first try already did, and answers as that did. Moves are compare-and-set on state and attempt number, so a late report changes nothing either.
"""

import asyncio
import contextlib
import functools
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from registry import database
from registry.catalog import Digest
from registry.database import Connection, Database
from router import ledger, results, rows, webhooks
from router.batching import Batcher, patiently
from router.errors import QueueUnavailableError
from router.requests import FINAL, Outcome, Request, RequestId, State, Status
from router.rows import Acceptance, Adoption, Assignment, AttemptRow, Ended, Ending, Entry, Return
from router.waiting import Line, Room

QUERIES = database.load_queries(Path(__file__).with_suffix(".sql"))
MOVES = ("assign", "requeue", "adopt", "finish")
# Without the half that only a repeated write needs: with it Postgres plans over all partitions at every call.
FIRST_TRIES = {name: QUERIES[name].rpartition("\nUNION ALL\n")[0] for name in MOVES}
SUBMITTED_CHANNEL = "marquee_named"  # payload: a pool and a request id, or a pool alone: look yourself
FORMER_SUBMITTED_CHANNEL = (
    "marquee_submitted"  # payload: a pool; dispatchers of the release before listen there
)
FINISHED_CHANNEL = "marquee_finished"  # payload: a request id
CANCELLED_CHANNEL = "marquee_cancelled"  # payload: a request id
SUBMIT_PATIENCE_SECONDS = 10.0
AHEAD_LIMIT = 10_000  # who asks for a place in a longer line hears this
LOST = database.LOST


class Queue:
    """One process's way to the queue's tables. `origin` names the process."""

    def __init__(self, db: Database, origin: str) -> None:
        self._db = db
        self.origin = origin
        away = (QueueUnavailableError,)
        submit = patiently(self._submit, SUBMIT_PATIENCE_SECONDS)
        self._submits = Batcher(submit, away, weight=lambda item: rows.bytes_of(item[0].input))
        look, look_for_ends = (functools.partial(self._statuses, states) for states in (State, FINAL))
        self._reads = Batcher(patiently(look, SUBMIT_PATIENCE_SECONDS), away)
        self._ends = Batcher(patiently(look_for_ends, SUBMIT_PATIENCE_SECONDS), away)
        self._takes = Batcher(patiently(self._take), away)
        self._assigns = Batcher(patiently(self._assign), away, _its_id)
        self._returns = Batcher(patiently(self._requeue), away, _its_id)
        self._adoptions = Batcher(patiently(self._adopt), away, _its_id)
        self._endings = Batcher(patiently(self._finish), away, lambda ending: ending.entry.id)
        self._acceptances = Batcher(patiently(self._accept), away)

    async def submit(self, request: Request, *, taken: bool, fleeting: bool = False) -> datetime:
        """The database's time of acceptance, after the commit. `taken`: this process's dispatcher has it already.

        `fleeting`: its input and outputs are not kept.

        Raises `QueueUnavailableError` when the database stays away; nothing was accepted then, as far as we know.
        """
        return await self._submits.add((request, taken, fleeting))

    def assign(self, assignment: Assignment) -> asyncio.Future[bool]:
        """False when the request no longer waits for this number; send nothing then."""
        return self._assigns.add(assignment)

    def requeue(self, item: Return) -> asyncio.Future[bool]:
        return self._returns.add(item)

    def adopt(self, item: Adoption) -> asyncio.Future[bool]:
        return self._adoptions.add(item)

    def accept(self, item: Acceptance) -> asyncio.Future[None]:
        """A partner has taken the attempt."""
        return self._acceptances.add(item)

    def finish(self, ending: Ending) -> asyncio.Future[Ended | None]:
        """Outcome and usage record in one transaction; None when the report came too late to matter."""
        return self._endings.add(ending)

    async def status(self, request_id: RequestId) -> Status | None:
        return await self._reads.add(request_id)

    async def ended(self, request_id: RequestId) -> Status | None:
        """None as long as it is not final: inputs may be large, and who waits asks again and again."""
        return await self._ends.add(request_id)

    def take(self, request_id: RequestId) -> asyncio.Future[Entry | None]:
        """A request that another process stored; None if it does not wait any more, or somebody has it."""
        return self._takes.add(request_id)

    async def late(self, pool: str, limit: int) -> list[Entry]:
        """Taken up as well: waiting requests of nobody's memory whose deadline to start has passed.

        Nothing while the database is away: the next look finds them, a term does not end over it.
        """
        try:
            return [rows.to_entry(row) for row in await self._fetch("late", pool=pool, limit=limit)]
        except LOST:
            return []

    async def take_up(self, pool: str, room: Room, rooms: Mapping[Line, Room]) -> list[Entry]:
        """The oldest of every line, as many as there is `room` for, or for lines that have some in memory, `rooms`."""
        named = msgspec.json.encode({f"{priority} {who}": room for (who, priority), room in rooms.items()})
        count, size_bytes = room
        found = await self._fetch(
            "take_up", pool=pool, count=count, size_bytes=size_bytes, rooms=named.decode()
        )
        return sorted((rows.to_entry(row) for row in found), key=lambda entry: entry.id)

    async def release(self, pool: str) -> None:
        """A dispatcher begins: what its predecessor had in memory and did not start is free again."""
        await self._fetch("release", pool=pool)

    async def untake(self, ids: Sequence[RequestId]) -> None:
        """No dispatcher has these in memory after all."""
        await self._fetch("untake", ids=list(ids))

    async def give_up(self, request: Request) -> None:
        """It was accepted for a dispatcher that is no more: the next one hears of it, or finds it."""
        with contextlib.suppress(*LOST):
            await self.untake([request.id])
            for channel in (SUBMITTED_CHANNEL, FORMER_SUBMITTED_CHANNEL):
                await self.announce(channel, [request.pool])

    async def running(self, pool: str) -> list[Entry]:
        return [rows.to_entry(row) for row in await self._fetch("running", pool=pool)]

    async def held(self, pool: str, settled_seconds: float) -> dict[RequestId, State]:
        """What the tables say is in the dispatcher's memory, but for what moved within `settled_seconds`."""
        found = await self._fetch("held", pool=pool, settled_seconds=settled_seconds)
        return {row["id"]: State(row["state"]) for row in found}

    async def ahead(self, pool: str, request_id: RequestId, limit: int = AHEAD_LIMIT) -> int:
        """How many of its own line wait before it: of others, fair sharing lets only some go first.

        Raises `QueueUnavailableError`.
        """
        try:
            found = await self._fetch("ahead", pool=pool, id=request_id, limit=limit)
        except LOST as error:
            raise QueueUnavailableError("the database does not answer") from error
        return int(found[0]["count"])

    async def attempts(self, request_id: RequestId) -> list[AttemptRow]:
        return [msgspec.convert(row, AttemptRow) for row in await self._fetch("attempts", id=request_id)]

    async def erase(self, request_id: RequestId) -> frozenset[str] | None:
        """Forgets input and outputs of what has ended; the files that were its alone. None: it has not ended.

        Raises `QueueUnavailableError`.
        """
        try:
            found = await self._fetch("erase", id=request_id)
        except LOST as error:
            raise QueueUnavailableError("the database does not answer") from error
        if not found:
            return None
        mine = msgspec.json.decode(found[0]["outcome"], type=Outcome)
        others = msgspec.json.decode(found[0]["others"], type=list[Outcome])
        shared = {file.id for other in others for file in other.files}
        return frozenset(file.id for file in mine.files) - shared

    async def past(self, kept: timedelta, limit: int) -> list[RequestId]:
        """Those of which nothing is to be kept any more, so long after their end. Raises `psycopg.Error`."""
        return [RequestId(row["id"]) for row in await self._fetch("past", kept=kept, limit=limit)]

    async def forgotten(self, ids: Sequence[RequestId]) -> None:
        """`past` need not name these again. Raises `psycopg.Error`."""
        await self._fetch("forgotten", ids=list(ids))

    async def stored_result(self, key: Digest) -> Outcome | None:
        """What the same request made before; None as well while the database is away: then it is made again."""
        try:
            async with self._db.pool.connection() as connection:
                return await results.find(connection, key)
        except LOST:
            return None

    async def announce(self, channel: str, messages: Sequence[str]) -> None:
        await self._fetch("announce", channel=channel, messages=list(messages))

    async def drain(self) -> None:
        """Returns when every write asked for so far is committed."""
        for batcher in self._writers:
            await batcher.drain()

    async def close(self) -> None:
        """Ends at once; writes under way may or may not have happened."""
        for batcher in (*self._writers, self._reads, self._ends):
            await batcher.close()

    @property
    def _writers(self) -> tuple[Batcher[Any, Any], ...]:
        return (
            self._submits,
            self._takes,
            self._assigns,
            self._returns,
            self._adoptions,
            self._endings,
            self._acceptances,
        )

    async def _submit(
        self, items: Sequence[tuple[Request, bool, bool]], repeated: bool
    ) -> Sequence[datetime]:
        encoded = msgspec.json.encode(
            [rows.from_submission(request, taken=taken) for request, taken, _ in items]
        )
        parameters = {"rows": encoded.decode(), "origin": self.origin}
        foreign = [f"{request.pool} {request.id}" for request, taken, _ in items if not taken]
        passing = [request.id for request, _, fleeting in items if fleeting]
        async with self._db.pool.connection() as connection:
            if passing:
                await connection.execute(QUERIES["let_pass"], {"ids": passing})
            stored = await (await connection.execute(QUERIES["submit"], parameters)).fetchall()
            if foreign:
                await _announce(connection, SUBMITTED_CHANNEL, foreign)
                pools = sorted({request.pool for request, taken, _ in items if not taken})
                await _announce(connection, FORMER_SUBMITTED_CHANNEL, pools)
        return [stored[0]["created_at"]] * len(items)

    async def _take(self, ids: Sequence[RequestId], repeated: bool) -> Sequence[Entry | None]:
        found = {row["id"]: rows.to_entry(row) for row in await self._fetch("take", ids=list(ids))}
        return [found.get(request_id) for request_id in ids]

    async def _assign(self, items: Sequence[Assignment], repeated: bool) -> Sequence[bool]:
        return await self._move("assign", items, repeated)

    async def _requeue(self, items: Sequence[Return], repeated: bool) -> Sequence[bool]:
        return await self._move("requeue", items, repeated)

    async def _adopt(self, items: Sequence[Adoption], repeated: bool) -> Sequence[bool]:
        return await self._move("adopt", items, repeated)

    async def _accept(self, items: Sequence[Acceptance], repeated: bool) -> Sequence[None]:
        async with self._db.pool.connection() as connection:
            await connection.execute(QUERIES["accept"], {"rows": msgspec.json.encode(items).decode()})
        return [None] * len(items)

    async def _move(
        self, name: str, items: Sequence[Assignment | Return | Adoption], repeated: bool
    ) -> Sequence[bool]:
        async with self._db.pool.connection() as connection:
            moved = {row["id"] for row in await _write(connection, name, items, repeated)}
        return [item.id in moved for item in items]

    async def _finish(self, endings: Sequence[Ending], repeated: bool) -> Sequence[Ended | None]:
        async with self._db.transaction() as connection:
            items = [rows.from_ending(ending) for ending in endings]
            changed = await _write(connection, "finish", items, repeated)
            moved = {row["id"]: row for row in changed}
            kept = [ending for ending in endings if ending.entry.id in moved]
            await ledger.record(connection, [(e, moved[e.entry.id]["finished_at"]) for e in kept])
            await results.record(connection, kept)
            await webhooks.owe(connection, [e.entry.request for e in kept])
            if elsewhere := [e.entry.id for e in kept if e.entry.origin != self.origin]:
                await _announce(connection, FINISHED_CHANNEL, elsewhere)
        return [rows.to_ended(moved.get(ending.entry.id)) for ending in endings]

    async def _statuses(
        self, states: Iterable[State], ids: Sequence[RequestId], repeated: bool
    ) -> Sequence[Status | None]:
        read = await self._fetch("statuses", ids=list(ids), states=list(states))
        found = {row["id"]: rows.to_status(row) for row in read}
        return [found.get(request_id) for request_id in ids]

    async def _fetch(self, name: str, **parameters: Any) -> Sequence[Mapping[str, Any]]:
        async with self._db.pool.connection() as connection:
            cursor = await connection.execute(QUERIES[name], parameters)
            return [] if cursor.description is None else await cursor.fetchall()


def _its_id(item: Assignment | Return | Adoption) -> RequestId:
    return item.id


async def _write(
    connection: Connection, name: str, items: Sequence[Any], repeated: bool
) -> Sequence[Mapping[str, Any]]:
    query = QUERIES[name] if repeated else FIRST_TRIES[name]
    parameters = {"rows": msgspec.json.encode(items).decode(), "repeated": repeated}
    return await (await connection.execute(query, parameters)).fetchall()


async def _announce(connection: Connection, channel: str, messages: Sequence[str]) -> None:
    await connection.execute(QUERIES["announce"], {"channel": channel, "messages": list(messages)})
