"""OpenAI's edits: a multipart form with pictures, and the body that it stands for. Pure, but for `read`."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from litestar.datastructures import UploadFile
from litestar.exceptions import ClientException

from router.clients import pictures
from router.clients.door import AnyRequest, parsed
from router.errors import BodyTooLargeError, InvalidInputError, MalformedBodyError

LIMIT_BYTES = 15 << 20  # of a form: as data URIs a third more, and so what a body of JSON may have
WHOLE_NUMBERS = frozenset({"n", "partial_images", "output_compression"})  # of OpenAI's own words
NUMBER = {"type": "integer"}
Pictures = Mapping[str, Sequence[str]]  # data URIs, by the form's field


async def read(request: AnyRequest) -> tuple[dict[str, str], Pictures]:
    """The form's texts and pictures. Raises `BodyTooLargeError`, `MalformedBodyError`, `InvalidInputError`."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise MalformedBodyError(
            "an edit is a multipart form: model, prompt, image (or image[]) and perhaps mask"
        )
    texts: dict[str, str] = {}
    found: dict[str, list[str]] = {"image": [], "mask": []}
    for field, value in (await _form(request)).multi_items():
        name = field.removesuffix("[]")
        if isinstance(value, UploadFile):
            found.setdefault(name, []).append(await _data_uri(name, value))
        elif "[" in field:
            raise InvalidInputError(
                [pictures.issue(name.partition("[")[0], "say lists and objects as JSON text")]
            )
        else:
            texts[name] = str(value)
    return texts, found


async def _form(request: AnyRequest) -> Any:
    try:
        return await request.form()
    except ClientException as error:
        if error.status_code == 413:
            raise BodyTooLargeError(LIMIT_BYTES) from error
        raise


async def _data_uri(name: str, file: UploadFile) -> str:
    content = await file.read()
    if name == "mask":
        content = await asyncio.to_thread(pictures.white_where_changed, content)
    return pictures.data_uri(content, file.content_type, file.filename)


def body(texts: Mapping[str, str], schema: Mapping[str, Any]) -> dict[str, Any]:
    """A form has only texts: numbers, lists and objects are made of those that the model wants as such.

    Raises `MalformedBodyError`.
    """
    properties: Mapping[str, Any] = schema.get("properties", {})
    wanted = {name: NUMBER if name in WHOLE_NUMBERS else properties.get(name, {}) for name in texts}
    said = {name: _typed(text, wanted[name]) for name, text in texts.items()}
    return said | {"stream": texts.get("stream") == "true"}


def _typed(text: str, wanted: Mapping[str, Any]) -> Any:
    if wanted.get("type") in {"string", None} and not {"anyOf", "oneOf"} & wanted.keys():
        return text
    try:
        return parsed(text.encode(), object)
    except (msgspec.MsgspecError, UnicodeError):
        return text  # what is wrong with it the schema says better
