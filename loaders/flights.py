"""Single flight: what several threads want is brought by one of them, while the others wait for it or stop waiting.

Threads, no IO. Where the one fails, or nobody waits for its order any more, the next goes on with it.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from loaders.interest import Interest
from registry.catalog import Digest

LOOK_SECONDS = 0.5  # between two looks whether anybody still waits


class Flights:
    """Under way on some thread. `changed` is notified whenever one ends."""

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._under_way: set[Digest] = set()

    @contextmanager
    def alone(self, digest: Digest, interest: Interest) -> Iterator[None]:
        """One at a time for each digest. Raises `AbandonedError` instead of waiting for nobody."""
        with self._changed:
            while digest in self._under_way:
                wait(self._changed, interest)
            self._under_way.add(digest)
        try:
            yield
        finally:
            with self._changed:
                self._under_way.discard(digest)
                self._changed.notify_all()


def wait(changed: threading.Condition, interest: Interest) -> None:
    """Under its lock, for a change. Waiting for each other is no silence. Raises `AbandonedError`."""
    changed.wait(LOOK_SECONDS)
    interest.moved()
    interest.check()
