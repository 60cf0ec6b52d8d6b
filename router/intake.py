"""What of the table's waiting requests is in a dispatcher's memory: every line's oldest, a share each. IO by proxy.

A line is one organization's requests of one priority. So one customer's million takes no more memory than two
thousand, and nobody waits behind it: another line's request has room at once. What waits for partners counts nowhere.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from router.requests import Request, RequestId
from router.rows import Entry
from router.waiting import Line

if TYPE_CHECKING:
    from router.term import Term

WINDOW = 20_000  # waiting requests in memory, about
SHARE = 2_000  # of one line
LEAST = 16  # of one line, whatever the others have
LATE_SECONDS = 1.0  # between looks for requests that missed their deadline in the table
PAUSE_SECONDS = 0.005  # between looks at the table, and at least as long as the look took


def line_of(request: Request) -> Line:
    return request.organization, request.priority


class Intake:
    """The part of a `Term` that knows which lines continue in the table."""

    def __init__(self, term: "Term") -> None:
        self._term = term
        self._held: Counter[Line] = Counter()
        self._line_of: dict[RequestId, Line] = {}
        self._behind: set[Line] = set()  # lines that may continue in the table
        self._coming = 0  # of those that other processes named

    def admits(self, request: Request) -> bool:
        """False: its row has to wait in the table, in its line's order."""
        line = line_of(request)
        if line not in self._behind and self._held[line] < self._share:
            return True
        self._behind.add(line)
        return False

    def enter(self, entry: Entry) -> None:
        line = line_of(entry.request)
        self._line_of[entry.id] = line
        self._held[line] += 1

    def leave(self, request_id: RequestId) -> None:
        line = self._line_of.pop(request_id, None)
        if line is None:
            return
        self._held[line] -= 1
        if line in self._behind and self._is_short(line):
            self._term.backlog.set()
        if not self._held[line]:
            del self._held[line]

    def hear(self, notice: str) -> None:
        """Another process stored a request: it is taken by itself, unless others may have to go before it."""
        pool, _, request_id = notice.partition(" ")
        if pool != self._term.pool:
            return
        behind = self._behind or self._term.backlog.is_set()
        if request_id and not behind and len(self._line_of) + self._coming < SHARE:
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
        share, held = self._share, dict(self._held)
        entries = await self._term.queue.take_up(self._term.pool, share, held)
        await self._offer(entries)
        found = Counter(line_of(entry.request) for entry in entries)
        self._behind = {line for line, count in (Counter(held) + found).items() if count >= share}
        if any(self._is_short(line) for line in self._behind):
            self._term.backlog.set()

    @property
    def _share(self) -> int:
        return SHARE if len(self._line_of) < WINDOW else LEAST

    def _is_short(self, line: Line) -> bool:
        return self._held[line] <= self._share // 2

    def check_integrity(self) -> None:
        assert self._held == Counter(self._line_of.values())
        assert self._line_of.keys() <= self._term.waiting.keys()
