"""When a provider is left alone: after failures in a row for a while, and after a 429 as long as it asked. Pure.

Open: nothing is sent and callers hear so at once. When the time is over one request tries it; its answer closes the
breaker, its failure opens it again for twice as long. `now` is any clock that only grows.
"""

FAILURES = 5  # in a row
FIRST_SECONDS = 10.0
LONGEST_SECONDS = 160.0


class Breaker:
    """One provider's."""

    def __init__(self) -> None:
        self.reason = ""  # of the last failure
        self._failures = 0
        self._open_until = 0.0
        self._seconds = FIRST_SECONDS
        self._quiet_until = 0.0

    def is_open(self, now: float) -> bool:
        return now < self._open_until

    @property
    def is_on_probation(self) -> bool:
        """It was open, and nothing has gone well since."""
        return self._failures >= FAILURES

    def seconds_open(self, now: float) -> float:
        return max(0.0, self._open_until - now)

    def seconds_quiet(self, now: float) -> float:
        """How long the provider asked to be left alone from now."""
        return max(0.0, self._quiet_until - now)

    def succeeded(self) -> None:
        """It answered, whatever it said."""
        self._failures, self._seconds, self._open_until = 0, FIRST_SECONDS, 0.0

    def failed(self, reason: str, now: float) -> None:
        """Failures that were under way when it opened do not open it for longer."""
        self.reason = reason
        if self.is_open(now):
            return
        self._failures += 1
        if self._failures >= FAILURES:
            self._open_until = now + self._seconds
            self._seconds = min(LONGEST_SECONDS, 2 * self._seconds)

    def hush(self, seconds: float, now: float) -> None:
        self._quiet_until = max(self._quiet_until, now + seconds)
