"""Who in this process waits for which request. Pure memory.

Whoever learns something posts it: `settle` an end, `touch` any other change. It remembers nothing but the waiters.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable

from router.requests import RequestId, Status


class Board:
    """Callers that wait for an end, and callers that watch every change."""

    def __init__(self, concluded: Callable[[Status], None] = lambda _: None) -> None:
        self._concluded = concluded
        self._ends: defaultdict[RequestId, set[asyncio.Future[Status]]] = defaultdict(set)
        self._changes: defaultdict[RequestId, set[asyncio.Event]] = defaultdict(set)

    @property
    def awaited(self) -> frozenset[RequestId]:
        """Requests whose end or next change somebody waits for."""
        return frozenset((*self._ends, *self._changes))

    def awaits(self, request_id: RequestId) -> bool:
        return request_id in self._ends or request_id in self._changes

    def conclude(self, status: Status) -> None:
        """The request's end is stored, by this process: said once per request, over all processes."""
        self._concluded(status)
        self.settle(status)

    def settle(self, status: Status) -> None:
        """The request is final."""
        for future in self._ends.pop(status.request.id, ()):
            if not future.done():
                future.set_result(status)
        self.touch(status.request.id)

    def touch(self, request_id: RequestId) -> None:
        for event in self._changes.get(request_id, ()):
            event.set()

    def end(self, request_id: RequestId) -> asyncio.Future[Status]:
        """Resolves with the final status. Whoever gives up cancels it."""
        future: asyncio.Future[Status] = asyncio.get_running_loop().create_future()
        self._ends[request_id].add(future)
        future.add_done_callback(lambda done: self._leave(request_id, done))
        return future

    def subscribe(self, request_id: RequestId) -> asyncio.Event:
        """Set at every change from now on, the end included; the subscriber clears it, and unsubscribes."""
        event = asyncio.Event()
        self._changes[request_id].add(event)
        return event

    def unsubscribe(self, request_id: RequestId, event: asyncio.Event) -> None:
        events = self._changes.get(request_id)
        if events is not None:
            events.discard(event)
            if not events:
                del self._changes[request_id]

    def _leave(self, request_id: RequestId, future: asyncio.Future[Status]) -> None:
        waiting = self._ends.get(request_id)
        if waiting is not None:
            waiting.discard(future)
            if not waiting:
                del self._ends[request_id]
