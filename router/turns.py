"""How many requests of one key may be placed or running at once; the others wait their turn behind them. Pure.

A request that waits for its key's turn is queued like any other for its caller, but placement does not see it.
"""

from router.requests import RequestId


class Turns:
    """`at_once` None: nobody waits here."""

    def __init__(self, at_once: int | None) -> None:
        self._at_once = at_once
        self._key_of: dict[RequestId, str] = {}  # of requests that have their turn
        self._count: dict[str, int] = {}
        self._behind: dict[str, dict[RequestId, None]] = {}  # in order
        self._waits_for: dict[RequestId, str] = {}

    def enter(self, request_id: RequestId, key_id: str) -> bool:
        """True when it has its turn at once; one that had it already keeps it."""
        if self._at_once is None or request_id in self._key_of:
            return True
        if self._count.get(key_id, 0) >= self._at_once:
            self._behind.setdefault(key_id, {})[request_id] = None
            self._waits_for[request_id] = key_id
            return False
        self._admit(request_id, key_id)
        return True

    def claim(self, request_id: RequestId, key_id: str) -> None:
        """It runs already, whatever its key's limit."""
        if request_id not in self._key_of:
            self._forget(request_id)
            self._admit(request_id, key_id)

    def leave(self, request_id: RequestId) -> RequestId | None:
        """It ended, or never came to its turn. Returns whose turn it is instead."""
        key_id = self._key_of.pop(request_id, None)
        if key_id is None:
            self._forget(request_id)
            return None
        self._count[key_id] -= 1
        if waiting := self._behind.get(key_id):
            following = next(iter(waiting))
            self._forget(following)
            self._admit(following, key_id)
            return following
        if not self._count[key_id]:
            del self._count[key_id]
        return None

    def _admit(self, request_id: RequestId, key_id: str) -> None:
        self._key_of[request_id] = key_id
        self._count[key_id] = self._count.get(key_id, 0) + 1

    def _forget(self, request_id: RequestId) -> None:
        key_id = self._waits_for.pop(request_id, None)
        if key_id is None:
            return
        del self._behind[key_id][request_id]
        if not self._behind[key_id]:
            del self._behind[key_id]

    def check_integrity(self) -> None:
        keys = list(self._key_of.values())
        assert {key: keys.count(key) for key in set(keys)} == self._count
        for key, waiting in self._behind.items():
            assert waiting
            assert self._count[key] >= (self._at_once or 0)
            assert not waiting.keys() & self._key_of.keys()
        assert self._waits_for == {one: key for key, waiting in self._behind.items() for one in waiting}
