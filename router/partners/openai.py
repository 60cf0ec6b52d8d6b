"""OpenAI's image route as a client: one call that waits for its answer. IO through `wire`.

There is nothing to ask for later: an answer that is lost on the way is a lost picture, so it is not asked for twice.
"""

from collections.abc import Mapping
from typing import Any

from router.errors import Issue
from router.inputs import BODY
from router.partners import refusals
from router.partners.errors import ForgottenError, RefusedError
from router.partners.places import is_address
from router.partners.records import Call, Made, Pending
from router.partners.wire import Answer, Wire

READ_SECONDS = 600.0  # what OpenAI's own client waits


class OpenAI:
    """Implements `Provider`."""

    name = "openai"
    is_synchronous = True

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def submit(self, call: Call) -> Made:
        body = {**arguments(call.input), "model": call.endpoint}
        answer = self._wire.checked(
            await self._wire.ask("POST", "/images/generations", body=body, read_seconds=READ_SECONDS)
        )
        if answer.status == 200:
            answered = made(answer.object)
            if not answered.result:  # an error's text or a page, sent as a success
                message = self._said(answer) or "its answer has no pictures"
                raise RefusedError(refusals.failed(self.name, message, is_its_fault=True))
            return answered
        raise RefusedError(self._refusal(answer, call.endpoint))

    async def look(self, endpoint: str, ticket: str) -> Pending | Made:
        raise ForgottenError("it keeps no requests")

    async def cancel(self, endpoint: str, ticket: str) -> None:
        """It cannot be."""

    def _said(self, answer: Answer) -> str:
        return self._wire.scrubbed(refusals.text_of(_error(answer).get("message")))

    def _refusal(self, answer: Answer, endpoint: str) -> Any:
        said = _error(answer)
        if answer.status == 404 or said.get("code") == "model_not_found":
            return refusals.of_endpoint(self.name, endpoint)
        message = self._said(answer)
        if answer.status not in refusals.INPUT_CODES:
            return refusals.failed(self.name, message or f"it answers {answer.status}", "partner_refused")
        param = refusals.text_of(said.get("param"))
        kind = refusals.text_of(said.get("code") or said.get("type")) or "value_error"
        location = (BODY, *(piece for piece in param.split(".") if piece))
        return refusals.of_input([Issue(location=location, message=message or "refused", kind=kind)])


def _error(answer: Answer) -> Mapping[str, Any]:
    error = answer.object.get("error")
    return error if isinstance(error, Mapping) else {}


def arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Our words in OpenAI's; what a schema calls as OpenAI does goes as it is."""
    sent = {name: value for name, value in values.items() if name not in {"num_images", "image_size"}}
    if values.get("num_images") is not None:
        sent["n"] = values["num_images"]
    size = values.get("image_size")
    if isinstance(size, Mapping):
        sent["size"] = f"{size.get('width')}x{size.get('height')}"
    elif size is not None:
        sent["size"] = size
    return sent


def made(answer: Mapping[str, Any]) -> Made:
    """Its pictures as addresses, whether they came as such or as base64."""
    data = answer.get("data")
    items = [item for item in data if isinstance(item, Mapping)] if isinstance(data, list) else []
    kind = refusals.text_of(answer.get("output_format")) or "png"
    pictures = [
        item["url"] if item.get("url") else f"data:image/{kind};base64,{item.get('b64_json') or ''}"
        for item in items
        if item.get("url") or item.get("b64_json")
    ]
    return Made(result=[picture for picture in pictures if is_address(picture)], is_whole=False)
