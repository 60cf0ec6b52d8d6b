"""The requests that wait for a host, as placement sees them: a small pool in fair order, and a backlog behind it.

Pure. The pool holds what is placed next as numpy columns, so that one host can be priced against all of it; the
backlog keeps the rest per organization in order of arrival. So a million waiting requests cost no more than a few
hundred. It refuses to know why a request waits.
"""

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from registry.catalog import Digest, OrganizationName
from router.fairness import Fairness, account
from router.grid import Floats, Grid, Ints, cells
from router.requests import Priority, RequestId

LOW_TAG = 1e15  # added to the tag of low priority: behind everything else; virtual GPU seconds
NOWHERE = -1
FEW = 8  # rows, up to which Python's loops are quicker than numpy's calls
SCANNED = 3  # bundles of a request, the version first, when one host is priced against the pool


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

    @property
    def account(self) -> str:
        return account(self.organization, is_low=self.priority == "low")


class Entry(NamedTuple):
    """A waiting request with what was looked up for it once: bundle indexes (version first) and run seconds."""

    work: Work
    bundles: tuple[int, ...]
    run_seconds: float  # on a host of speed 1


class PoolArrays(NamedTuple):
    """By row of the pool. A free row has an infinite tag and no plan."""

    plan_seconds: Floats  # of the planned host's time
    plan_finish: Floats
    tag: Floats
    run_seconds: Floats
    plan_host: Ints
    accounts: Ints
    bundles: Ints  # per position in a request, the version first


Line = tuple[OrganizationName, Priority]
Room = tuple[int, int]  # for so many requests, and bytes of their inputs


class Waiting:
    """`limit` bounds the pool, except that every organization that waits has one request in it."""

    def __init__(self, fairness: Fairness, limit: int = 512) -> None:
        self.fairness = fairness
        self.limit = limit
        self.rows: list[Entry | None] = []
        self.row_of: dict[RequestId, int] = {}
        self.unplanned: deque[int] = deque()
        self._numbers, self._indexes = Grid(2), Grid(2, np.int64)
        self._numbers.reserve(4, 1)
        self._indexes.reserve(2 + SCANNED, 1)
        self._view()
        self._free: list[int] = []
        self._pooled: dict[Line, int] = {}
        self._lines: dict[Line, deque[RequestId]] = {}
        self._behind: dict[RequestId, Entry] = {}
        self._turns: list[tuple[float, Line]] = []
        self._numbers_of: dict[str, int] = {}  # of accounts, as the pool's column has them
        self.planned = 0  # rows with a plan
        self.adapted = 0  # rows with adapters
        self.planned_on: dict[int, dict[int, None]] = {}  # host -> rows planned there
        self.relieved: dict[int, None] = {}  # hosts that a plan was taken from: what was behind it may go
        self._turning: set[Line] = set()  # lines in `_turns`

    def __len__(self) -> int:
        return len(self.row_of) + len(self._behind)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self.row_of or request_id in self._behind

    def _view(self) -> None:
        """Bind the columns by name; needed after they grew."""
        rows = len(self.rows)
        numbers, indexes = self._numbers.cells[:4, :rows], self._indexes.cells[: 2 + SCANNED, :rows]
        plan_host, accounts, *_ = indexes
        self.arrays = PoolArrays._make([*numbers, plan_host, accounts, indexes[2:]])
        # The same memory, row by row; see `numbers`.
        self.plan_seconds, self.plan_finish, self.tag, self.run_seconds = map(cells, numbers)
        self.plan_host: memoryview[int] = plan_host.data
        self._accounts: memoryview[int] = accounts.data
        self._bundles: list[memoryview[int]] = [column.data for column in indexes[2:]]

    def planned_ahead(self, tag: float, hosts: int) -> Floats | None:
        """Seconds planned on each host for requests that go before this tag; None for none anywhere."""
        if not self.planned:
            return None
        if self.planned <= FEW:
            return self._few_planned_ahead(tag, hosts)
        seconds, tags, planned = self.arrays.plan_seconds, self.arrays.tag, self.arrays.plan_host
        rows = ((tags < tag) & (planned >= 0)).nonzero()[0]
        if not len(rows):
            return None
        found: Floats = np.bincount(planned[rows], seconds[rows], hosts).astype(float, copy=False)
        return found

    def _few_planned_ahead(self, tag: float, hosts: int) -> Floats | None:
        """The same row by row, in the same order, which is quicker than numpy's calls."""
        planned = sorted([row for rows in self.planned_on.values() for row in rows if self.tag[row] < tag])
        if not planned:
            return None
        found = np.zeros(hosts)
        for row in planned:
            found[self.plan_host[row]] += self.plan_seconds[row]
        return found

    def is_planned_ahead(self, tag: float, host: int) -> bool:
        """Somebody who goes before this tag is planned there."""
        return any(self.tag[row] < tag for row in self.planned_on.get(host, ()))

    def planned_parts(self, host: int, bundle_parts: Sequence[Sequence[int]]) -> set[int]:
        """Parts that requests planned on this host will need there."""
        rows = self.planned_on.get(host, ())
        return {part for row in rows for bundle in self.entry(row).bundles for part in bundle_parts[bundle]}

    def entry(self, row: int) -> Entry:
        entry = self.rows[row]
        assert entry is not None, "a free row has no entry"
        return entry

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
        self.plan(row, NOWHERE, 0.0, np.inf)
        self.tag[row] = np.inf
        self.adapted -= len(entry.bundles) > 1
        self._free.append(row)
        self._pooled[line] -= 1
        if not self._pooled[line]:
            del self._pooled[line]
            self._refill_line(line)
        self._refill()
        return entry

    def plan(self, row: int, host: int, seconds: float, finish_at: float) -> None:
        """Expect a request to run there: `seconds` of that host's time, done at `finish_at`."""
        before = self.plan_host[row]
        if before >= 0:
            self.planned -= 1
            rows = self.planned_on[before]
            del rows[row]
            if not rows:
                del self.planned_on[before]
            self.relieved[before] = None
        if host >= 0:
            self.planned += 1
            self.planned_on.setdefault(host, {})[row] = None
        self.plan_host[row], self.plan_seconds[row], self.plan_finish[row] = host, seconds, finish_at

    def replan_host(self, host: int) -> None:
        """What was planned on a host that is gone has to be planned again."""
        for row in list(self.planned_on.get(host, ())):
            self.plan(row, NOWHERE, 0.0, np.inf)  # an old finish would look better than any host can do
            self.unplanned.append(row)

    def look_again(self) -> None:
        """There is one host more: who found none is planned before who comes now."""
        if self.planned < len(self.row_of):
            rows = [row for row in self.row_of.values() if self.plan_host[row] == NOWHERE]
            self.unplanned = deque(sorted(rows, key=self.tag.__getitem__))

    def _pool(self, line: Line, entry: Entry) -> None:
        row = self._free.pop() if self._free else len(self.rows)
        if row == len(self.rows):
            self.rows.append(None)
            self._numbers.reserve(4, len(self.rows))
            self._indexes.reserve(2 + SCANNED, len(self.rows))
            self._view()
            self.plan_host[row] = NOWHERE
        self.rows[row] = entry
        self.row_of[entry.work.id] = row
        self._pooled[line] = self._pooled.get(line, 0) + 1
        tag = self.fairness.book(entry.work.account, entry.run_seconds)
        self.plan(row, NOWHERE, 0.0, np.inf)
        self.tag[row] = tag + LOW_TAG * (entry.work.priority == "low")
        self._accounts[row] = self._numbers_of.setdefault(entry.work.account, len(self._numbers_of))
        self.run_seconds[row] = entry.run_seconds
        self.adapted += len(entry.bundles) > 1
        scanned = (*entry.bundles, 0, 0)  # 0 is the fleet's empty bundle
        for column, bundle in zip(self._bundles, scanned, strict=False):
            column[row] = bundle
        self.unplanned.append(row)

    def correct(self, work: Work, booked_seconds: float, used_seconds: float, tag: float = -np.inf) -> None:
        """What it took was other than booked: its account's that wait behind `tag` move, and who comes later.

        Where they would get before the clock, all of them get as near as the first may.
        """
        later = self.fairness.correct(work.account, booked_seconds, used_seconds)
        if not later or not self._pooled.get((work.organization, work.priority)):
            return
        tags = self.arrays.tag
        mine = self.arrays.accounts == self._numbers_of[work.account]
        rows = (mine & (tags > tag) & (tags < np.inf)).nonzero()[0]
        if len(rows):
            first = float(tags[rows].min()) % LOW_TAG
            moved = max(later, min(0.0, self.fairness.clock - first))
            self.fairness.delay(work.account, moved - later)
            tags[rows] += moved

    def reestimate(self, version: Digest, estimate: Callable[[Work], float]) -> None:
        """Runs of a version take other than was thought: what was booked for those that wait is put right.

        Else the first of a new version would stay the longest on paper, and all who came later the shorter ones.
        """
        for request_id, entry in self._behind.items():
            if entry.work.version == version:
                self._behind[request_id] = entry._replace(run_seconds=estimate(entry.work))
        for row in self.row_of.values():
            entry = self.entry(row)
            if entry.work.version == version:
                seconds = estimate(entry.work)
                self.rows[row] = entry._replace(run_seconds=seconds)
                self.run_seconds[row] = seconds
                self.correct(entry.work, entry.run_seconds, seconds, tag=self.tag[row])

    def _refill(self) -> None:
        while self._turns and len(self.row_of) < self.limit:
            tag, line = heapq.heappop(self._turns)
            if self._peek(line) <= tag and not self._refill_line(line):
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
        is_low = line[1] == "low"
        return self.fairness.peek(account(line[0], is_low=is_low)) + LOW_TAG * is_low

    def check_integrity(self) -> None:
        for request_id, row in self.row_of.items():
            assert self.entry(row).work.id == request_id
            assert request_id not in self._behind
        assert len(self.row_of) + len(self._free) == len(self.rows)
        assert self.planned == int((self.arrays.plan_host >= 0).sum())
        planned = {(host, row) for host, rows in self.planned_on.items() for row in rows}
        assert planned == {(host, row) for row, host in enumerate(self.plan_host.tolist()) if host >= 0}
        assert sum(self._pooled.values()) == len(self.row_of)
        queued = {request_id for queue in self._lines.values() for request_id in queue}
        assert set(self._behind) <= queued
        assert len(self._turns) == len(self._turning) == len({line for _, line in self._turns})
        assert all(line in self._turning for line, queue in self._lines.items() if queue)
