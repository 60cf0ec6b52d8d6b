"""Whose turn it is: start-time fair queueing of GPU seconds between organizations.

Pure and deterministic. Each request gets a *tag*, a point in virtual time: the later of the virtual clock and the
end of its organization's previous request of the same priority. Lower tags go first, so a batch of 10,000 queues up
behind itself and not before others, nor, with low priority, before anything else of its own organization. The clock follows the tags that start. Estimates are put right when the real seconds are known.
"""

from collections.abc import Mapping

import msgspec

from registry.catalog import OrganizationName


class FairState(msgspec.Struct, kw_only=True):
    """What a restart needs; everything in virtual GPU seconds."""

    clock: float = 0.0
    ends: dict[str, float] = {}  # account -> where its booked work ends


def account(organization: OrganizationName, *, is_low: bool) -> str:
    """What an organization leaves for idle devices is booked by itself: it uses what nobody else wants."""
    return f"{organization} (low)" if is_low else organization


class Fairness:
    """Weights are shares: an account of weight 2 gets twice the GPU seconds of one of weight 1."""

    def __init__(self, weights: Mapping[str, float] | None = None, state: FairState | None = None) -> None:
        self.weights = dict(weights or {})
        self.state = state or FairState()

    def book(self, account: str, seconds: float) -> float:
        """The tag of a request of about `seconds`, and the account's next one after it."""
        tag = self.peek(account)
        self.state.ends[account] = tag + seconds / self._weight(account)
        return tag

    def peek(self, account: str) -> float:
        """The tag that `book` would give."""
        return max(self.state.clock, self.state.ends.get(account, 0.0))

    def start(self, tag: float) -> None:
        """A request with this tag was placed."""
        self.state.clock = max(self.state.clock, tag)

    def correct(self, account: str, booked_seconds: float, used_seconds: float) -> float:
        """A request took other than booked: 0 used for one that was cancelled before it ran.

        By how much the account's work ends later now, in virtual seconds: what of it waits goes along.
        """
        if account not in self.state.ends:
            return 0.0
        later = (used_seconds - booked_seconds) / self._weight(account)
        self.state.ends[account] += later
        return later

    def delay(self, account: str, seconds: float) -> None:
        """Its work ends later by so many virtual seconds."""
        self.state.ends[account] += seconds

    def forget_idle(self) -> None:
        """Drop accounts whose booked work lies behind the clock: they start afresh anyway."""
        clock = self.state.clock
        self.state.ends = {name: end for name, end in self.state.ends.items() if end > clock}

    def _weight(self, account: str) -> float:
        return self.weights.get(account, 1.0)
