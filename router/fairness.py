"""Whose turn it is: start-time fair queueing of GPU seconds between organizations.

Pure and deterministic. Each request gets a *tag*, a point in virtual time: the later of the virtual clock and the
end of its organization's previous request of the same priority. Lower tags go first, so a batch of 10,000 queues up
behind itself and not before others, nor, with low priority, before anything else of its own organization. The clock
follows the tags that start. Estimates are put right when the real seconds are known.
"""

from collections.abc import Mapping

from registry.catalog import OrganizationName


def account(organization: OrganizationName, *, is_low: bool) -> str:
    """What an organization leaves for idle devices is booked by itself: it uses what nobody else wants."""
    return f"{organization} (low)" if is_low else organization


class Fairness:
    """Weights are shares: an account of weight 2 gets twice the GPU seconds of one of weight 1."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self.weights = dict(weights or {})
        self.clock = 0.0  # virtual GPU seconds, as all here
        self._ends: dict[str, float] = {}  # account -> where its booked work ends

    def book(self, account: str, seconds: float) -> float:
        """The tag of a request of about `seconds`, and the account's next one after it."""
        tag = self.peek(account)
        self._ends[account] = tag + seconds / self._weight(account)
        return tag

    def peek(self, account: str) -> float:
        """The tag that `book` would give."""
        return max(self.clock, self._ends.get(account, 0.0))

    def start(self, tag: float) -> None:
        """A request with this tag was placed."""
        self.clock = max(self.clock, tag)

    def correct(self, account: str, booked_seconds: float, used_seconds: float) -> float:
        """A request took other than booked: 0 used for one that was cancelled before it ran.

        By how much the account's work ends later now, in virtual seconds: what of it waits goes along.
        """
        if account not in self._ends:
            return 0.0
        later = (used_seconds - booked_seconds) / self._weight(account)
        self._ends[account] += later
        return later

    def delay(self, account: str, seconds: float) -> None:
        """Its work ends later by so many virtual seconds."""
        self._ends[account] += seconds

    def _weight(self, account: str) -> float:
        return self.weights.get(account, 1.0)
