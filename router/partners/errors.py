"""What a call to a partner can come to. `errand` decides what follows; no caller ever sees these.

PartnerError
├── RefusedError        the partner's last word on this request: `failure` is what the caller gets
├── BusyError           it took nothing; come again, not before `retry_after_seconds`
├── UnreachableError    no answer, or a server's fault; `sent`: it may have taken the request all the same
├── FailedThereError    it took the request and failed by its own fault; another try may do better
├── ForgottenError      it knows no request of this name (any more)
└── OutputLostError     what it made cannot be fetched into our file store
"""

from router.errors import RouterError
from router.requests import Failure


class PartnerError(RouterError):
    """Root of what can go wrong between us and a partner."""


class RefusedError(PartnerError):
    """The partner said no, and would again: `failure` says to the caller why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class BusyError(PartnerError):
    """Too many requests: nothing was taken. Ask again, after `retry_after_seconds` where it said so."""

    def __init__(self, reason: str, retry_after_seconds: float | None) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class UnreachableError(PartnerError):
    """A connection that failed or a 5xx. Unless `sent`, the partner surely did not see the request."""

    def __init__(self, reason: str, *, sent: bool, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.sent = sent
        self.retry_after_seconds = retry_after_seconds


class FailedThereError(PartnerError):
    """The partner's own fault after it had taken the request: it may be tried once more, as a new attempt."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class ForgottenError(PartnerError):
    """The partner knows no such request; it was never taken there, or its record is gone."""


class OutputLostError(PartnerError):
    """A file of the result cannot be brought into our store: too large, at a forbidden address, or gone."""
