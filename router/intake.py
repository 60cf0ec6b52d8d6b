"""What of the table's waiting requests is in a dispatcher's memory: every line's oldest, a share each. IO by proxy.

A line is one organization's requests of one priority. So one customer's million takes no more memory than two
thousand, and nobody waits behind it: another line's request has room at once. What waits for partners has room of its
own, so that a slow partner takes none from hosts. Inputs may be pictures: their bytes are counted as well.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from router import rows
from router.requests import Request, RequestId
from router.rows import Entry
from router.waiting import Line, Room

if TYPE_CHECKING:
    from router.term import Term

WINDOW = 20_000  # waiting requests in memory, about, and as many for partners
SHARE = 2_000  # of one line
PARTNERS_SHARE = 10_000  # of one line; then all of it waits, for lines are taken up in order
LEAST = 16  # of one line, whatever the others have
WINDOW_BYTES = 1 << 30  # of inputs, about; beyond it a line has one request
LINE_BYTES = 128 << 20
LATE_SECONDS = 1.0  # between looks for requests that missed their deadline in the table
PAUSE_SECONDS = 0.005  # between looks at the table, and at least as long as the look took


def line_of(request: Request) -> Line:
    return request.organization, request.priority


class Held(msgspec.Struct):
    """Of a line: requests for hosts and for partners, and the bytes of their inputs."""

    hosts: int = 0
    partners: int = 0
    size_bytes: int = 0


NOTHING = Held()


class Intake:
    """The part of a `Term` that knows which lines continue in the table."""

    def __init__(self, term: "Term") -> None:
        self._term = term
        self._held: dict[Line, Held] = {}
        self._all = Held()
        self._place_of: dict[RequestId, tuple[Line, Held]] = {}  # what each adds to its line
        self._behind: set[Line] = set()  # lines that may continue in the table
        self._coming = 0  # of those that other processes named

    def admits(self, request: Request) -> bool:
        """False: its row has to wait in the table, in its line's order."""
        line = line_of(request)
        if line not in self._behind and not self._is_full(line):
            return True
        self._behind.add(line)
        return False

    def enter(self, entry: Entry, *, is_partners: bool) -> None:
        line = line_of(entry.request)
        own = Held(int(not is_partners), int(is_partners), rows.bytes_of(entry.request.input))
        self._place_of[entry.id] = line, own
        self._add(line, own, 1)

    def leave(self, request_id: RequestId) -> None:
        place = self._place_of.pop(request_id, None)
        if place is None:
            return
        line, own = place
        self._add(line, own, -1)
        if line in self._behind and self._is_short(line):
            self._term.backlog.set()
        if line in self._held and self._held[line] == NOTHING:
            del self._held[line]

    def _add(self, line: Line, own: Held, sign: int) -> None:
        for held in (self._held.setdefault(line, Held()), self._all):
            held.hosts += sign * own.hosts
            held.partners += sign * own.partners
            held.size_bytes += sign * own.size_bytes

    def hear(self, notice: str) -> None:
        """Another process stored a request: it is taken by itself, unless others may have to go before it."""
        pool, _, request_id = notice.partition(" ")
        if pool != self._term.pool:
            return
        behind = self._behind or self._term.backlog.is_set()
        fits = len(self._place_of) + self._coming < SHARE and self._all.size_bytes < LINE_BYTES
        if request_id and not behind and fits:
            self._coming += 1
            self._term.spawn(self._take(RequestId(request_id)))
        else:
            self._term.backlog.set()

    async def _take(self, request_id: RequestId) -> None:
        try:
            entry = await self._term.queue.take(request_id)
            if entry is not None:
                await self._offer([entry])
        finally:
            self._coming -= 1

    async def _offer(self, entries: Sequence[Entry]) -> None:
        await self._term.catalogue.learn({use.digest for entry in entries for use in entry.request.adapters})
        for entry in entries:
            self._term.offer(entry)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._term.backlog.wait()
            began = time.monotonic()
            await self.take_up()
            await asyncio.sleep(max(PAUSE_SECONDS, time.monotonic() - began))

    async def end_late_ones(self) -> None:
        """Until cancelled: what is not in memory when its deadline to start passes ends all the same."""
        while True:
            await asyncio.sleep(LATE_SECONDS)
            for entry in await self._term.queue.late(self._term.pool, SHARE):
                self._term.ends.end_late(entry)

    async def take_up(self) -> None:
        """Of every line as much as it has room for."""
        self._term.backlog.clear()  # before we look: what is submitted meanwhile sets it again
        rooms, room = {line: self._room(line) for line in self._held}, self._room(None)
        entries = await self._term.queue.take_up(self._term.pool, room, rooms)
        await self._offer(entries)
        found = Counter(line_of(entry.request) for entry in entries)
        used_up = {line for line, n in found.items() if n >= rooms.get(line, room)[0] or self._is_heavy(line)}
        self._behind = used_up | {line for line in self._held if self._is_full(line)}
        if any(self._is_short(line) for line in self._behind):
            self._term.backlog.set()

    def _most(self) -> Held:
        """Of one line, as full as memory is now."""
        return Held(
            SHARE if self._all.hosts < WINDOW else LEAST,
            PARTNERS_SHARE if self._all.partners < WINDOW else LEAST,
            LINE_BYTES if self._all.size_bytes < WINDOW_BYTES else 1,
        )

    def _room(self, line: Line | None) -> Room:
        """For more requests of it; None stands for a line without any."""
        most, held = self._most(), NOTHING if line is None else self._held.get(line, NOTHING)
        if held.partners >= most.partners or held.size_bytes >= most.size_bytes:
            return 0, 0
        return max(0, most.hosts - held.hosts), most.size_bytes - held.size_bytes

    def _is_full(self, line: Line) -> bool:
        return not self._room(line)[0]

    def _is_heavy(self, line: Line) -> bool:
        """The table counts more bytes of some inputs than we do: their room may be used up before we call it full."""
        return self._held.get(line, NOTHING).size_bytes > LINE_BYTES // 2

    def _is_short(self, line: Line) -> bool:
        most, held = self._most(), self._held.get(line, NOTHING)
        of_each = zip(msgspec.structs.astuple(held), msgspec.structs.astuple(most), strict=True)
        return all(there <= limit // 2 for there, limit in of_each)

    def check_integrity(self) -> None:
        for place in (None, *self._held):
            owns = [own for line, own in self._place_of.values() if place in {None, line}]
            total = Held(*map(sum, zip((0, 0, 0), *map(msgspec.structs.astuple, owns), strict=True)))
            assert (self._all if place is None else self._held[place]) == total
        assert self._place_of.keys() <= self._term.waiting.keys()
