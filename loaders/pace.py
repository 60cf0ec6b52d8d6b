"""A bandwidth cap that several threads share: who wants to send or receive bytes is told how long to wait first.

`Pace.reserve` is pure in its arguments (the clock is given); `take` sleeps. Bytes are granted in the order they
are asked for, so that no connection starves.
"""

import threading
import time


class Pace:
    """At most so many bytes per second over all users of this object. None: no cap."""

    def __init__(self, bytes_per_second: float | None = None) -> None:
        self._bytes_per_second = bytes_per_second
        self._free_at = 0.0  # when everything granted so far has passed
        self._lock = threading.Lock()

    def reserve(self, count_bytes: int, now: float) -> float:
        """Seconds to wait before these bytes may pass."""
        if self._bytes_per_second is None:
            return 0.0
        with self._lock:
            begins = max(now, self._free_at)
            self._free_at = begins + count_bytes / self._bytes_per_second
            return self._free_at - now

    def take(self, count_bytes: int, stop: threading.Event) -> None:
        """Returns when the bytes may pass, or at once when `stop` is set."""
        if wait_seconds := self.reserve(count_bytes, time.monotonic()):
            stop.wait(wait_seconds)
