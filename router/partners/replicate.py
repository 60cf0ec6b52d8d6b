"""Replicate's predictions as a client: create, get, cancel. IO through `wire`.

An endpoint is `owner/name` (its official or latest version), `owner/name:version` or a version alone. What a
prediction puts out is addresses of files, mostly: then it answers as a local model does; else the whole output is told.
"""

import re
from collections.abc import Mapping
from typing import Any

from router.errors import Issue
from router.inputs import BODY
from router.partners import refusals
from router.partners.errors import FailedThereError, ForgottenError, RefusedError, UnreachableError
from router.partners.places import is_address
from router.partners.records import Call, Made, Pending, Ticket
from router.partners.wire import Answer, Wire
from router.requests import LogLine

LOG_LINES, LOG_CHARACTERS = 200, 2000  # the newest of them are kept
ID = re.compile(r"[A-Za-z0-9_-]{1,200}")


class Replicate:
    """Implements `Provider`."""

    name = "replicate"
    is_synchronous = False

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def submit(self, call: Call) -> Ticket:
        name, _, version = call.endpoint.rpartition(":") if ":" in call.endpoint else (call.endpoint, "", "")
        body: dict[str, Any] = {"input": call.input}
        path = f"/v1/models/{name}/predictions"
        if version or "/" not in name:
            path, body = "/v1/predictions", body | {"version": version or name}
        answer = self._wire.checked(await self._wire.ask("POST", path, body=body))
        ticket = answer.object.get("id")
        if answer.status in {200, 201, 202} and isinstance(ticket, str) and ID.fullmatch(ticket):
            return Ticket(id=ticket)
        if answer.status == 404:
            raise RefusedError(refusals.of_endpoint(self.name, call.endpoint))
        if answer.status in refusals.INPUT_CODES:
            raise RefusedError(refusals.of_input(issues_of(answer.object)))
        raise RefusedError(self._said(answer))

    async def look(self, endpoint: str, ticket: str) -> Pending | Made:
        answer = self._wire.checked(await self._wire.ask("GET", f"/v1/predictions/{ticket}"))
        if answer.status == 404:
            raise ForgottenError(refusals.text_of(answer.object.get("detail")))
        prediction = answer.object
        logs = logs_of(prediction.get("logs"))
        match prediction.get("status"):
            case "starting" | "queued":
                return Pending(position=0, logs=logs)
            case "processing":
                return Pending(logs=logs)
            case "succeeded":
                return made(prediction, logs)
            case "failed":
                message = self._wire.scrubbed(refusals.text_of(prediction.get("error")))
                raise RefusedError(refusals.failed(self.name, message))
            case "canceled" | "aborted":
                text = "it cancelled the prediction"
                raise FailedThereError(refusals.failed(self.name, text, "partner_cancelled"))
        raise UnreachableError(f"its prediction has no status: {answer.status}", sent=True)

    async def cancel(self, endpoint: str, ticket: str) -> None:
        self._wire.checked(await self._wire.ask("POST", f"/v1/predictions/{ticket}/cancel"))

    def _said(self, answer: Answer) -> Any:
        detail = answer.object.get("detail") or f"it answers {answer.status}"
        return refusals.failed(self.name, self._wire.scrubbed(refusals.text_of(detail)), "partner_refused")


def made(prediction: Mapping[str, Any], logs: tuple[LogLine, ...]) -> Made:
    output = prediction.get("output")
    metrics = prediction.get("metrics")
    seconds = metrics.get("predict_time") if isinstance(metrics, Mapping) else None
    items = output if isinstance(output, list) else [output]
    only_files = bool(items) and all(is_address(item) for item in items)
    return Made(
        result=items if only_files else {"output": output},
        is_whole=not only_files,
        run_seconds=float(seconds) if isinstance(seconds, int | float) else None,
        logs=logs,
    )


def issues_of(problem: Mapping[str, Any]) -> tuple[Issue, ...]:
    """`invalid_fields` where the answer has them, else its detail in one."""
    fields = problem.get("invalid_fields")
    found = [field for field in fields if isinstance(field, Mapping)] if isinstance(fields, list) else []
    if not found:
        return refusals.issues_of(problem.get("detail") or problem.get("title"))
    return tuple(
        Issue(
            location=(BODY, *_place(refusals.text_of(field.get("field")))),
            message=refusals.text_of(field.get("description")) or "refused",
            kind=refusals.text_of(field.get("type")) or "value_error",
        )
        for field in found
    )


def _place(field: str) -> tuple[str, ...]:
    """`input.prompt` → prompt: what they call the input is our body."""
    return tuple(piece for piece in field.removeprefix("input").split(".") if piece)


def logs_of(text: Any) -> tuple[LogLine, ...]:
    lines = text.splitlines() if isinstance(text, str) else []
    kept = lines[-LOG_LINES:]
    return tuple(LogLine(message=refusals.text_of(line)[:LOG_CHARACTERS]) for line in kept)
