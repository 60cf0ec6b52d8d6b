"""A partner's error answers in our words: whose fault it was, where in the input, and what the operator has to do. Pure.

Nothing a partner says about keys or accounts reaches a caller, for it may quote them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from registry.settings import partner_key, variable
from router.errors import Issue
from router.inputs import BODY, ECHO_CHARACTERS
from router.requests import Failure

MESSAGE_CHARACTERS = 2000
ISSUES = 50
INPUT_CODES = frozenset({400, 413, 415, 422})
ACCOUNT_CODES = frozenset({401, 402, 403})


def of_account(provider: str) -> Failure:
    """Our key or our account there is refused: nothing that a caller could mend."""
    setting = variable(partner_key(provider))
    message = f"partner {provider} refuses this deployment's account; its operator has to look at {setting}"
    return Failure(kind="host", error="partner_account_refused", message=message)


def of_endpoint(provider: str, endpoint: str) -> Failure:
    message = f"partner {provider} knows no endpoint {endpoint!r}"
    return Failure(kind="model", error="partner_endpoint_unknown", message=message)


def unavailable(provider: str, reason: str, again_in_seconds: float | None = None) -> Failure:
    """It does not answer, or not soon enough."""
    again = "" if again_in_seconds is None else f"; it is tried again in {again_in_seconds:.0f} s"
    message = f"partner {provider} cannot be reached: {reason}{again}"
    return Failure(kind="host", error="partner_unavailable", message=message)


def too_busy(provider: str) -> Failure:
    message = f"partner {provider} takes no more requests of this deployment at the moment"
    return Failure(kind="host", error="partner_busy", message=message)


def too_slow(provider: str, seconds: float) -> Failure:
    message = f"partner {provider} did not finish within {seconds:.0f} s"
    return Failure(kind="host", error="partner_timeout", message=message)


def failed(provider: str, message: str, name: str | None = None, *, is_its_fault: bool = False) -> Failure:
    """A run that ended badly there: by the model's own reasons, or by the partner's."""
    text = text_of(message) or "it gave no reason"
    return Failure(
        kind="host" if is_its_fault else "model",
        error=name or "partner_failed",
        message=f"partner {provider}: {text}",
    )


def of_input(issues: Sequence[Issue]) -> Failure:
    """Several issues are one failure; its own words are the first one's."""
    first = issues[0]
    return Failure(
        kind="input",
        error=first.kind,
        message=first.message,
        location=tuple(str(piece) for piece in first.location if piece != BODY),
        issues=tuple(issues),
    )


def issues_of(detail: Any) -> tuple[Issue, ...]:
    """FastAPI's list of what is wrong, as fal and every Marquee say it; a plain text is one issue of the whole body."""
    if isinstance(detail, Sequence) and not isinstance(detail, str):
        found = tuple(_issue(item) for item in list(detail)[:ISSUES] if isinstance(item, Mapping))
        if found:
            return found
    return (Issue(location=(BODY,), message=text_of(detail or "") or "refused", kind="value_error"),)


def _issue(item: Mapping[str, Any]) -> Issue:
    location = item.get("loc")
    pieces: Iterable[Any] = location if isinstance(location, list) else (BODY,)
    return Issue(
        location=tuple(p if isinstance(p, int) and not isinstance(p, bool) else text_of(p) for p in pieces),
        message=text_of(item.get("msg")) or "refused",
        kind=text_of(item.get("type")) or "value_error",
        input=_echo(item.get("input")),
    )


def _echo(value: Any) -> Any:
    if isinstance(value, str):
        return text_of(value)[:ECHO_CHARACTERS]
    return value if isinstance(value, bool | int | float) else None


def text_of(value: Any) -> str:
    """Something a person can read, not endless, and without the NULs that Postgres does not store."""
    if value is None:
        return ""
    return str(value).replace("\0", "")[:MESSAGE_CHARACTERS]
