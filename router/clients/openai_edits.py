"""OpenAI's edits: a multipart form with pictures becomes the input of a model that takes some. Pure, but for `read`.

The pictures travel within the input, as data URIs: so they are erased with it, and the same form is the same request.
"""

import asyncio
import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from litestar.datastructures import UploadFile
from litestar.exceptions import ClientException

from router.clients import uploads
from router.clients.door import AnyRequest
from router.errors import BodyTooLargeError, InvalidInputError, Issue, MalformedBodyError

LIMIT_BYTES = 15 << 20  # of a form: as data URIs a third more, and so what a body of JSON may have
MOST_PIXELS = 64_000_000  # of a mask, which is decoded here
SEVERAL = ("image_urls", "input_image_urls")  # what models call their pictures, by what of it they have
ONE = ("image_url",)
MASK = ("mask_url", "mask_image_url")
READABLE = ("PNG", "WEBP", "JPEG", "GIF")
BEGINNINGS = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}
WHOLE_NUMBERS = frozenset({"n", "partial_images", "output_compression"})  # of OpenAI's own words
Pictures = Mapping[str, Sequence[str]]  # data URIs, by the form's field


async def read(request: AnyRequest) -> tuple[dict[str, str], Pictures]:
    """The form's texts and pictures. Raises `BodyTooLargeError`, `MalformedBodyError`, `InvalidInputError`."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise MalformedBodyError(
            "an edit is a multipart form: model, prompt, image (or image[]) and perhaps mask"
        )
    texts: dict[str, str] = {}
    pictures: dict[str, list[str]] = {"image": [], "mask": []}
    for field, value in (await _form(request)).multi_items():
        name = field.removesuffix("[]")
        if isinstance(value, UploadFile):
            pictures.setdefault(name, []).append(await _data_uri(name, value))
        elif "[" in field:
            raise InvalidInputError([_issue(name.partition("[")[0], "say lists and objects as JSON text")])
        else:
            texts[name] = str(value)
    return texts, pictures


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
        content = await asyncio.to_thread(white_where_changed, content)
    known = (kind for beginning, kind in BEGINNINGS.items() if content.startswith(beginning))
    kind = next(known, None) or uploads.kind(file.content_type, file.filename)  # bytes come without a name
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def white_where_changed(content: bytes) -> bytes:
    """OpenAI's masks are transparent where the picture shall change, models' are white there.

    A mask without any transparency is a model's already. Raises `InvalidInputError`.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content), formats=READABLE) as mask:
            if mask.width * mask.height > MOST_PIXELS:
                raise InvalidInputError([_issue("mask", f"it has more than {MOST_PIXELS:,} pixels")])
            made = (
                ImageOps.invert(mask.convert("RGBA").getchannel("A")) if mask.has_transparency_data else mask
            )
            out = io.BytesIO()
            made.save(out, "PNG")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidInputError([_issue("mask", "it cannot be read as a picture")]) from error
    return out.getvalue()


def body(texts: Mapping[str, str], schema: Mapping[str, Any]) -> dict[str, Any]:
    """A form has only texts: numbers, lists and objects are made of those that the model wants as such."""
    properties: Mapping[str, Any] = schema.get("properties", {})
    said: dict[str, Any] = {name: _typed(text, properties.get(name, {})) for name, text in texts.items()}
    for name in WHOLE_NUMBERS & texts.keys():
        said[name] = int(texts[name]) if texts[name].isdecimal() else texts[name]
    return said | {"stream": texts.get("stream") == "true"}


def _typed(text: str, wanted: Mapping[str, Any]) -> Any:
    if wanted.get("type") in {"string", None} and not {"anyOf", "oneOf"} & wanted.keys():
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return text  # what is wrong with it the schema says better


def placed(pictures: Pictures, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The pictures under the model's own names. Raises `InvalidInputError`."""
    properties: Mapping[str, Any] = schema.get("properties", {})
    several, one, mask = (_first(names, properties) for names in (SEVERAL, ONE, MASK))
    images, masks = pictures["image"], pictures["mask"]
    if not images:
        raise InvalidInputError([_issue("image", "an edit needs a picture", "missing")])
    if several is None and one is None:
        raise InvalidInputError([_issue("image", f"this model takes no picture; {_there_are(properties)}")])
    if several is None and len(images) > 1:
        raise InvalidInputError([_issue("image", "this model takes one picture")])
    if masks and mask is None:
        raise InvalidInputError([_issue("mask", f"this model takes no mask; {_there_are(properties)}")])
    use_one = one is not None and (several is None or len(images) == 1)
    found: dict[str, Any] = {str(one): images[0]} if use_one else {str(several): list(images)}
    return found | ({str(mask): masks[0]} if masks else {})


def _first(names: Sequence[str], properties: Mapping[str, Any]) -> str | None:
    return next((name for name in names if name in properties), None)


def _there_are(properties: Mapping[str, Any]) -> str:
    return f"there are {', '.join(sorted(properties))}"


def _issue(field: str, message: str, kind: str = "value_error") -> Issue:
    return Issue(location=(field,), message=message, kind=kind)
