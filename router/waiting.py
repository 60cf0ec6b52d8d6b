"""The requests that wait for a host, as placement sees them: a small pool in fair order, and a backlog behind it.

Pure. The pool holds what is placed next as numpy columns, so that one host can be priced against all of it; the
backlog keeps the rest per organization in order of arrival. So a million waiting requests cost no more than a few
hundred. It refuses to know why a request waits.
"""

import heapq
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from registry.catalog import Digest, OrganizationName
from router.fairness import Fairness
from router.grid import Floats, Grid, Ints
from router.requests import Priority, RequestId

LOW_TAG = 1e15  # added to the tag of low priority: behind everything else; virtual GPU seconds
NOWHERE = -1.0
SCANNED_ADAPTERS = 2  # of a request, when one host is priced against the pool
PLAN_HOST, PLAN_SECONDS, PLAN_FINISH, TAG, RUN_SECONDS, VERSION, ADAPTER = range(7)


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What placement has to know of one waiting request."""

    id: RequestId
    organization: OrganizationName
    version: Digest
    adapters: tuple[Digest, ...] = ()
    units: float = 1.0  # input size, see `demand.units_of`
    arrived_at: float
    priority: Priority = "normal"
    excluded_hosts: frozenset[str] = frozenset()  # where it failed through the host's fault


class Entry(NamedTuple):
    """A waiting request with what was looked up for it once: bundle indexes (version first) and run seconds."""

    work: Work
    bundles: tuple[int, ...]
    run_seconds: float  # on a host of speed 1


Line = tuple[OrganizationName, Priority]


class Waiting:
    """`limit` bounds the pool, except that every organization that waits has one request in it."""

    def __init__(self, fairness: Fairness, limit: int = 512) -> None:
        self.fairness = fairness
        self.limit = limit
        self.rows: list[Entry | None] = []
        self.row_of: dict[RequestId, int] = {}
        self.unplanned: deque[int] = deque()
        self._columns = Grid(2)
        self._view()
        self._free: list[int] = []
        self._pooled: dict[Line, int] = {}
        self._lines: dict[Line, deque[RequestId]] = {}
        self._behind: dict[RequestId, Entry] = {}
        self._turns: list[tuple[float, Line]] = []
        self.planned = 0  # rows with a plan
        self._turning: set[Line] = set()  # lines in `_turns`

    def __len__(self) -> int:
        return len(self.row_of) + len(self._behind)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self.row_of or request_id in self._behind

    def column(self, which: int) -> Floats:
        """A view over all rows; a free row has an infinite tag and no plan."""
        return self._views[which]

    def bundles(self, which: int) -> Ints:
        return self._views[which].astype(np.int64)

    def _view(self) -> None:
        self._views: list[Floats] = list(self._columns.cells[:, : len(self.rows)])

    def planned_ahead(self, tag: float, hosts: int) -> Floats:
        """Seconds planned on each host for requests that go before this tag."""
        if not self.planned:
            return np.zeros(hosts)
        ahead = (self.column(TAG) < tag) & (self.column(PLAN_HOST) >= 0)
        where = self.column(PLAN_HOST)[ahead].astype(np.int64)
        seconds = np.bincount(where, weights=self.column(PLAN_SECONDS)[ahead], minlength=hosts)
        return seconds.astype(np.float64)

    def is_planned_ahead(self, tag: float, host: int) -> bool:
        """Somebody who goes before this tag is planned there."""
        return bool(self.planned and ((self.column(PLAN_HOST) == host) & (self.column(TAG) < tag)).any())

    def entry(self, row: int) -> Entry:
        entry = self.rows[row]
        assert entry is not None, "a free row has no entry"
        return entry

    def find(self, request_id: RequestId) -> Entry | None:
        if (row := self.row_of.get(request_id)) is not None:
            return self.rows[row]
        return self._behind.get(request_id)

    # changes

    def add(self, work: Work, bundles: Sequence[int], run_seconds: float) -> None:
        if work.id in self:
            return
        entry = Entry(work, tuple(bundles), run_seconds)
        line = (work.organization, work.priority)
        alone = work.priority == "normal" and not self._pooled.get(line)
        if alone or (len(self.row_of) < self.limit and not self._turns):
            self._pool(line, entry)
            return
        self._behind[work.id] = entry
        queue = self._lines.setdefault(line, deque())
        queue.append(work.id)
        if line not in self._turning:
            self._turning.add(line)
            heapq.heappush(self._turns, (self._peek(line), line))

    def remove(self, request_id: RequestId) -> Entry | None:
        """Placed or cancelled. Returns what it was; None if it does not wait."""
        row = self.row_of.pop(request_id, None)
        if row is None:
            return self._behind.pop(request_id, None)
        entry = self.entry(row)
        line = (entry.work.organization, entry.work.priority)
        self.rows[row] = None
        self.planned -= int(self._columns.cells[PLAN_HOST, row] >= 0)
        self._columns.cells[TAG, row] = np.inf
        self._columns.cells[PLAN_HOST, row] = NOWHERE
        self._free.append(row)
        self._pooled[line] -= 1
        if not self._pooled[line]:
            del self._pooled[line]
            self._refill_line(line)
        self._refill()
        return entry

    def plan(self, row: int, host: int, seconds: float, finish_at: float) -> None:
        """Expect a request to run there: `seconds` of that host's time, done at `finish_at`."""
        cells = self._columns.cells[PLAN_HOST : PLAN_FINISH + 1, row]
        self.planned += int(host >= 0) - int(cells[0] >= 0)
        cells[:] = (host, seconds, finish_at)

    def replan_host(self, host: int) -> None:
        """What was planned on a host that is gone has to be planned again."""
        rows = np.flatnonzero(self.column(PLAN_HOST) == host)
        for row in rows.tolist():
            self.plan(row, int(NOWHERE), 0.0, np.inf)  # an old finish would look better than any host can do
            self.unplanned.append(row)

    def _pool(self, line: Line, entry: Entry) -> None:
        row = self._free.pop() if self._free else len(self.rows)
        if row == len(self.rows):
            self.rows.append(None)
            self._columns.reserve(ADAPTER + SCANNED_ADAPTERS, len(self.rows))
            self._view()
        self.rows[row] = entry
        self.row_of[entry.work.id] = row
        self._pooled[line] = self._pooled.get(line, 0) + 1
        tag = self.fairness.book(entry.work.organization, entry.run_seconds)
        cells = self._columns.cells[:, row]
        cells[PLAN_HOST : TAG + 1] = (NOWHERE, 0.0, np.inf, tag + LOW_TAG * (entry.work.priority == "low"))
        cells[RUN_SECONDS] = entry.run_seconds
        scanned = (*entry.bundles, 0, 0)[: 1 + SCANNED_ADAPTERS]  # 0 is the fleet's empty bundle
        cells[VERSION : VERSION + 1 + SCANNED_ADAPTERS] = scanned
        self.unplanned.append(row)

    def _refill(self) -> None:
        while self._turns and len(self.row_of) < self.limit:
            tag, line = heapq.heappop(self._turns)
            actual = self._peek(line)
            if actual <= tag and not self._refill_line(line):
                self._turning.discard(line)
                del self._lines[line]
            else:
                heapq.heappush(self._turns, (self._peek(line), line))

    def _refill_line(self, line: Line) -> bool:
        """Move a line's next request into the pool; a line that is empty stays in `_turns` until its turn."""
        queue = self._lines.get(line)
        while queue:
            entry = self._behind.pop(queue.popleft(), None)
            if entry is not None:
                self._pool(line, entry)
                return True
        return False

    def _peek(self, line: Line) -> float:
        return self.fairness.peek(line[0]) + LOW_TAG * (line[1] == "low")

    def check_integrity(self) -> None:
        for request_id, row in self.row_of.items():
            assert self.entry(row).work.id == request_id
            assert request_id not in self._behind
        assert len(self.row_of) + len(self._free) == len(self.rows)
        assert self.planned == int((self.column(PLAN_HOST) >= 0).sum())
        assert sum(self._pooled.values()) == len(self.row_of)
        queued = {request_id for queue in self._lines.values() for request_id in queue}
        assert set(self._behind) <= queued
        assert len(self._turns) == len(self._turning) == len({line for _, line in self._turns})
        assert all(line in self._turning for line, queue in self._lines.items() if queue)
