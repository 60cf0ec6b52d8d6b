"""Single flight: what several threads want is brought by one of them, while the others wait for it or stop waiting.

Threads, no IO. Where the one fails, or nobody waits for its order any more, the next goes on with it. Where it hangs
in something that never returns, the others are told.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from loaders.errors import SourceDownError
from loaders.interest import Interest
from registry.catalog import Digest

LOOK_SECONDS = 0.5  # between two looks whether anybody still waits
LOST_SECONDS = 60.0  # after which a thread that was told to stop, and shows nothing, is taken to hang


class Flights:
    """Under way on some thread. `changed` is notified whenever one ends."""

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._under_way: dict[Digest, Interest] = {}

    @contextmanager
    def alone(self, digest: Digest, interest: Interest) -> Iterator[None]:
        """One at a time for each digest. Raises `AbandonedError` instead of waiting for nobody, `SourceDownError` where
        the one hangs: no thread can be ended from outside, nor its locks be had.
        """
        with self._changed:
            while (first := self._under_way.get(digest)) is not None:
                if first.is_given_up and first.silent_seconds() > LOST_SECONDS:
                    raise SourceDownError(
                        "what brought it before hangs; this host has to be started again for it"
                    )
                self._changed.wait(LOOK_SECONDS)
                interest.follow(first)
                interest.check()
            self._under_way[digest] = interest
        try:
            yield
        finally:
            with self._changed:
                del self._under_way[digest]
                self._changed.notify_all()


def wait(changed: threading.Condition, interest: Interest) -> None:
    """Under its lock, for a change. Waiting for each other is no silence. Raises `AbandonedError`."""
    changed.wait(LOOK_SECONDS)
    interest.moved()
    interest.check()
