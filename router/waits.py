"""How long a request that comes now would wait, from the seconds that wait already, by whose they are. Pure.

Fair sharing gives each organization that waits an equal part of the hosts. So another customer's batch does not make
a caller's wait long: only what waits of its own does, as many times as there are others who share.
"""

from collections import defaultdict

from registry.catalog import OrganizationName
from router.requests import Priority, RequestId


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
        """0 where no host could say. Low priority waits for everybody."""
        if not hosts:
            return 0.0
        sharing = len(self._counts) + (organization not in self._counts)
        fair = self._sums.get(organization, 0.0) * sharing
        return max(0.0, self._total if priority == "low" else min(self._total, fair)) / hosts

    def check_integrity(self) -> None:
        assert abs(self._total - sum(seconds for _, seconds in self._of.values())) < 1e-6 * (1 + self._total)
        assert sum(self._counts.values()) == len(self._of)
