"""How long a request that comes now would wait, from the seconds that wait already, by whose they are. Pure but for
`Elsewhere`, which asks.

Fair sharing gives each organization that waits an equal part of the hosts. So another customer's batch does not make
a caller's wait long: only what waits of its own does, as many times as there are others who share.
"""

import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable

import msgspec

from registry.catalog import OrganizationName
from router.requests import Priority, RequestId

FRESH_SECONDS = 2.0  # between questions to the dispatcher's memory, which it writes every ten seconds


class Crowd(msgspec.Struct, frozen=True, kw_only=True):
    """Who waits for hosts, with how many seconds of work: what a dispatcher tells gateways that stand by."""

    hosts: int = 0
    seconds: dict[str, float] = {}  # by organization

    def expected_seconds(self, organization: OrganizationName, priority: Priority) -> float:
        own, total = self.seconds.get(organization, 0.0), sum(self.seconds.values())
        sharing = len(self.seconds) + (organization not in self.seconds)
        return _expected(own * sharing, total, priority, self.hosts)


def _expected(fair: float, total: float, priority: Priority, hosts: int) -> float:
    """0 where no host could say. Low priority waits for everybody."""
    return max(0.0, total if priority == "low" else min(total, fair)) / hosts if hosts else 0.0


class Elsewhere:
    """What the pool's dispatcher, another process, said lately. `ask` may say that nobody knows."""

    def __init__(self, ask: Callable[[], Awaitable[Crowd | None]]) -> None:
        self._ask = ask
        self._asked_at = -math.inf
        self._crowd = Crowd()

    async def expected_seconds(self, organization: OrganizationName, priority: Priority) -> float:
        now = time.monotonic()
        if now - self._asked_at > FRESH_SECONDS:
            self._asked_at = now
            self._crowd = await self._ask() or Crowd()
        return self._crowd.expected_seconds(organization, priority)


class Waits:
    """Expected device seconds of what is in memory."""

    def __init__(self) -> None:
        self._of: dict[RequestId, tuple[OrganizationName, float]] = {}
        self._sums: defaultdict[OrganizationName, float] = defaultdict(float)
        self._counts: defaultdict[OrganizationName, int] = defaultdict(int)
        self._total = 0.0

    def add(self, request_id: RequestId, organization: OrganizationName, seconds: float) -> None:
        self._of[request_id] = organization, seconds
        self._sums[organization] += seconds
        self._counts[organization] += 1
        self._total += seconds

    def remove(self, request_id: RequestId) -> None:
        organization, seconds = self._of.pop(request_id)
        self._sums[organization] -= seconds
        self._counts[organization] -= 1
        self._total -= seconds
        if not self._counts[organization]:
            del self._counts[organization], self._sums[organization]

    def expected_seconds(self, organization: OrganizationName, priority: Priority, hosts: int) -> float:
        sharing = len(self._counts) + (organization not in self._counts)
        return _expected(self._sums.get(organization, 0.0) * sharing, self._total, priority, hosts)

    def crowd(self, hosts: int) -> Crowd:
        return Crowd(hosts=hosts, seconds={str(name): seconds for name, seconds in self._sums.items()})

    def check_integrity(self) -> None:
        assert abs(self._total - sum(seconds for _, seconds in self._of.values())) < 1e-6 * (1 + self._total)
        assert sum(self._counts.values()) == len(self._of)
