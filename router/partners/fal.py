"""fal's queue as a client: submit, status, result, cancel. Another Marquee's fal door is one more fal. IO through `wire`.

Addresses are made here from the configured one, never taken from an answer: the key must not follow a redirection.
"""

from collections.abc import Mapping
from typing import Any

from router.partners import refusals
from router.partners.errors import FailedThereError, ForgottenError, RefusedError, UnreachableError
from router.partners.records import Call, Made, Pending, Ticket
from router.partners.wire import Answer, Wire
from router.requests import Failure, LogLine

NAMESPACES = frozenset({"workflows", "comfy"})
RETRIED_THERE = frozenset({502, 503, 504})  # fal's own queue repeats these; 500 is the model's word
LOG_LINES, LOG_CHARACTERS = 200, 2000  # the newest of them are kept
MOST_AHEAD = 1_000_000  # believed of a queue


class Fal:
    """Implements `Provider`."""

    name = "fal"
    is_synchronous = False

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def submit(self, call: Call) -> Ticket:
        headers: dict[str, str] = {"x-fal-queue-priority": call.priority}
        if call.start_within_seconds is not None:
            seconds = f"{max(0.1, call.start_within_seconds):.1f}"
            headers |= {"x-fal-request-start-timeout": seconds, "x-fal-request-timeout": seconds}
        if call.traceparent is not None:
            headers["traceparent"] = call.traceparent
        answer = self._wire.checked(
            await self._wire.ask("POST", f"/{call.endpoint}", body=call.input, headers=headers)
        )
        ticket = answer.object.get("request_id")
        if answer.status in {200, 201, 202} and isinstance(ticket, str) and _is_plain(ticket):
            return Ticket(id=ticket)
        raise self._refused(answer, call.endpoint)

    async def look(self, endpoint: str, ticket: str) -> Pending | Made:
        answer = self._wire.checked(await self._wire.ask("GET", f"{_job(endpoint, ticket)}/status?logs=1"))
        status = answer.object
        match status.get("status"):
            case "IN_QUEUE":
                position = status.get("queue_position")
                return Pending(position=min(max(0, position), MOST_AHEAD) if isinstance(position, int) else 0)
            case "IN_PROGRESS":
                return Pending(logs=logs_of(status.get("logs")))
            case "COMPLETED":
                return await self._result(endpoint, ticket, status)
        if answer.status == 404:
            raise ForgottenError(refusals.text_of(status.get("detail")))
        raise UnreachableError(f"its status is none: {answer.status}", sent=True)

    async def cancel(self, endpoint: str, ticket: str) -> None:
        self._wire.checked(await self._wire.ask("PUT", f"{_job(endpoint, ticket)}/cancel"))

    async def _result(self, endpoint: str, ticket: str, status: Mapping[str, Any]) -> Made:
        answer = await self._wire.ask("GET", _job(endpoint, ticket))
        if not (is_jobs_own := "x-fal-request-id" in answer.headers or bool(status.get("error"))):
            self._wire.checked(answer)
        if answer.status == 200:
            self._wire.breaker.succeeded()
            metrics = status.get("metrics")
            seconds = metrics.get("inference_time") if isinstance(metrics, Mapping) else None
            return Made(
                result=answer.json,
                is_whole=True,
                run_seconds=float(seconds) if isinstance(seconds, int | float) else None,
                logs=logs_of(status.get("logs")),
            )
        if answer.status == 404 and status.get("error"):  # the model's own word
            message = refusals.text_of(answer.object.get("detail") or status.get("error"))
            raise RefusedError(refusals.failed(self.name, self._wire.scrubbed(message)))
        if answer.status == 404:
            raise ForgottenError("its result is gone")
        if is_jobs_own and answer.status >= 500:
            raise self._failed(answer, status)
        raise self._refused(answer, endpoint)

    def _failed(self, answer: Answer, status: Mapping[str, Any]) -> RefusedError | FailedThereError:
        """The job ended with a server's error: the model's last word, or worth another try."""
        kind = answer.headers.get("x-fal-error-type") or status.get("error_type")
        name = refusals.text_of(kind) or None
        detail = answer.object.get("detail") or status.get("error")
        message = self._wire.scrubbed(refusals.text_of(detail))
        if answer.headers.get("x-fal-request-timeout-type") == "user":
            text = "it did not start before its deadline"
            return RefusedError(Failure(kind="deadline", error="request_timeout", message=text))
        again = answer.headers.get("x-fal-retryable")
        is_its_fault = answer.status in RETRIED_THERE if again is None else again == "true"
        failure = refusals.failed(self.name, message, name, is_its_fault=is_its_fault)
        return FailedThereError(failure) if is_its_fault else RefusedError(failure)

    def _refused(self, answer: Answer, endpoint: str) -> RefusedError | FailedThereError:
        detail = answer.object.get("detail")
        if answer.status == 499:
            return FailedThereError(
                refusals.failed(self.name, "it cancelled the request", "partner_cancelled")
            )
        if answer.status == 404:
            return RefusedError(refusals.of_endpoint(self.name, endpoint))
        if answer.status in refusals.INPUT_CODES:
            return RefusedError(refusals.of_input(refusals.issues_of(detail)))
        message = refusals.text_of(detail) or f"it answers {answer.status}"
        return RefusedError(refusals.failed(self.name, self._wire.scrubbed(message), "partner_refused"))


def _job(endpoint: str, ticket: str) -> str:
    """Where a job is asked for: below owner and alias, whatever follows them dropped."""
    pieces = endpoint.split("/")
    kept = 3 if pieces[0] in NAMESPACES else 2
    return f"/{'/'.join(pieces[:kept])}/requests/{ticket}"


def _is_plain(ticket: str) -> bool:
    """It becomes part of an address."""
    return 0 < len(ticket) <= 200 and all(c.isalnum() or c in "-_." for c in ticket) and ticket.isascii()


def logs_of(lines: Any) -> tuple[LogLine, ...]:
    """The newest of a job's log items."""
    found = [line for line in lines if isinstance(line, Mapping)] if isinstance(lines, list) else []
    return tuple(
        LogLine(
            message=refusals.text_of(line.get("message"))[:LOG_CHARACTERS],
            level=refusals.text_of(line.get("level"))[:20] or "INFO",
            timestamp=refusals.text_of(line.get("timestamp"))[:40] or None,
        )
        for line in found[-LOG_LINES:]
    )
