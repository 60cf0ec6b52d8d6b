"""What the router refuses, and what the caller can do about it. Facts are attributes; doors translate them.

RouterError
├── UnauthorizedError            no key, or one that is not valid
├── ForbiddenError               the key lacks a scope
├── UnknownSlugError             nothing answers to this slug (for this caller, now)
├── UnavailableError             the slug exists but cannot be called: retired, or nothing to run it
├── InvalidInputError            the input does not fit the schema; `issues` says where
├── BodyTooLargeError            more bytes than a body may have
├── MalformedBodyError           not the JSON that was promised
├── UnknownRequestError          no such request, or somebody else's
├── AlreadyFinishedError         too late to cancel
├── NotFinishedError             too early to erase
├── RepeatedKeyError             an Idempotency-Key came back with another input
├── UnknownFileError             nothing in the file store under this id
├── NoRoomError                  an upload that the disk does not take
├── OverloadedError              come back after `retry_after_seconds`
├── QueueUnavailableError        the database does not answer; nothing was accepted
├── StoppingError                this gateway stops; the request goes on without it
├── LinkRefusedError             a host's hello does not fit: protocol or pool
├── StartUpError                `marquee up` cannot start: a busy port, a home in use, a child that dies
└── IntegrityError               memory and tables disagree; the dispatcher folds anew
"""

from collections.abc import Sequence
from typing import Any

import msgspec


class RouterError(Exception):
    """Root of everything the router raises on purpose."""


class UnauthorizedError(RouterError):
    """No key or an invalid one: send `Authorization: Key …` or `Bearer …`."""


class ForbiddenError(RouterError):
    """The key is valid but lacks `scope`: ask the organization's owner for another."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"this key lacks the scope {scope!r}")
        self.scope = scope


class UnknownSlugError(RouterError):
    """Nothing answers to `slug`; an embargoed variant says the same, so that its name does not leak."""

    def __init__(self, slug: str, near: str | None = None) -> None:
        hint = f"did you mean {near!r}?" if near else "GET /v1/models says what there is"
        super().__init__(f"no model is called {slug!r}; {hint}")
        self.slug = slug


class UnavailableError(RouterError):
    """`slug` is known but cannot be called, for `reason`; `is_gone`: and never will be again."""

    def __init__(self, slug: str, reason: str, *, is_gone: bool = False) -> None:
        super().__init__(f"{slug} cannot be called: {reason}")
        self.slug = slug
        self.reason = reason
        self.is_gone = is_gone


class Issue(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that is wrong with an input, and where."""

    location: tuple[str | int, ...]
    message: str
    kind: str
    input: Any = None


class InvalidInputError(RouterError):
    """The input does not fit; every issue is named, so that one answer is enough to mend it."""

    def __init__(self, issues: Sequence[Issue]) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, i.location))}: {i.message}" for i in issues))
        self.issues = tuple(issues)


class BodyTooLargeError(RouterError):
    """The body has more than `limit_bytes`: upload the file and send its URL."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body is larger than {limit_bytes} bytes")
        self.limit_bytes = limit_bytes


class MalformedBodyError(RouterError):
    """The body is not a JSON object."""


class UnknownRequestError(RouterError):
    """No request of this caller has this id."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"no request {request_id}")
        self.request_id = request_id


class AlreadyFinishedError(RouterError):
    """The request is final; it cannot be cancelled any more."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request {request_id} is already finished")
        self.request_id = request_id


class NotFinishedError(RouterError):
    """The request waits or runs: cancel it, or wait for its end, before its contents are erased."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request {request_id} has not ended: cancel it first, or wait for its end")
        self.request_id = request_id


class RepeatedKeyError(RouterError):
    """An Idempotency-Key names one request for a day; another request needs another key."""

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key came with another input before: a new request needs a new key")


class UnknownFileError(RouterError):
    """No file has this id."""

    def __init__(self, file_id: str) -> None:
        super().__init__(f"no file {file_id}")
        self.file_id = file_id


class NoRoomError(RouterError):
    """The disk does not take an upload; nothing of it is kept. Try again when the operator has made room."""


class OverloadedError(RouterError):
    """Accepting this would make a promise we cannot keep; try again after `retry_after_seconds`."""

    def __init__(self, reason: str, retry_after_seconds: float) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class QueueUnavailableError(RouterError):
    """The database does not answer, so nothing was accepted; submit again."""


class StoppingError(RouterError):
    """The gateway stops while the caller waits; the request goes on: ask for it by `request_id`."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"this gateway is stopping; request {request_id} goes on, ask for it again")
        self.request_id = request_id


class LinkRefusedError(RouterError):
    """A host's hello does not fit this router; `reason` goes into the close frame."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class IntegrityError(RouterError):
    """What memory holds differs from the tables: `differences` lists how."""

    def __init__(self, differences: Sequence[str]) -> None:
        super().__init__("; ".join(differences))
        self.differences = tuple(differences)


class StartUpError(RouterError):
    """`marquee up` cannot start; its message says what to change. Nothing was left running."""
