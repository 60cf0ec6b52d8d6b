"""The requests that wait for one provider, organizations taking turns. Pure.

The same fairness as between requests for hosts, with one difference: nobody knows how long a partner takes, so every
request counts as one. Low priority goes behind everything else.
"""

import heapq
from collections.abc import Iterator

from registry.catalog import OrganizationName
from router.fairness import Fairness, account
from router.requests import RequestId
from router.waiting import LOW_TAG

ONE = 1.0


class Line:
    """A heap by tag; whoever left is skipped when its turn comes."""

    def __init__(self) -> None:
        self._fairness = Fairness()
        self._turns: list[tuple[float, RequestId]] = []
        self._tags: dict[RequestId, tuple[float, str]] = {}  # and the account

    def __len__(self) -> int:
        return len(self._tags)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._tags

    def enter(self, request_id: RequestId, organization: OrganizationName, *, is_low: bool) -> None:
        whose = account(organization, is_low=is_low)
        tag = self._fairness.book(whose, ONE) + (LOW_TAG if is_low else 0.0)
        self._tags[request_id] = (tag, whose)
        heapq.heappush(self._turns, (tag, request_id))

    def leave(self, request_id: RequestId) -> bool:
        """False when it does not wait here."""
        known = self._tags.pop(request_id, None)
        if known is None:
            return False
        self._fairness.correct(known[1], ONE, 0.0)
        return True

    def pop(self) -> RequestId | None:
        """Whose turn it is; None when nobody waits."""
        while self._turns:
            tag, request_id = heapq.heappop(self._turns)
            known = self._tags.get(request_id)
            if known is not None and known[0] == tag:
                del self._tags[request_id]
                self._fairness.start(tag % LOW_TAG)
                return request_id
        return None

    def drain(self) -> Iterator[RequestId]:
        """Everybody, in turn."""
        while (request_id := self.pop()) is not None:
            yield request_id
