"""Pictures that come with a call instead of lying somewhere: they travel within the input, as data URIs. Pure.

So they are erased with it, and the same call is the same request. They go to whatever a model calls its pictures.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from router.clients import uploads
from router.errors import InvalidInputError, Issue

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


def data_uri(content: bytes, declared: str = "", name: str = "") -> str:
    """Its type is what it begins as, else what is said of it: bytes often come without a name."""
    kind = _kind(content) or uploads.kind(declared, name)
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def from_base64(text: Any) -> str | None:
    """A data URI, where this is a picture in base64; None where it is words."""
    try:
        kind = _kind(base64.b64decode(text[:8], validate=True)) if isinstance(text, str) else None
    except ValueError:
        return None
    return None if kind is None else f"data:{kind};base64,{text}"


def _kind(content: bytes) -> str | None:
    return next((kind for beginning, kind in BEGINNINGS.items() if content.startswith(beginning)), None)


def white_where_changed(content: bytes) -> bytes:
    """OpenAI's masks are transparent where the picture shall change, models' are white there.

    A mask without any transparency is a model's already. Raises `InvalidInputError`.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content), formats=READABLE) as mask:
            if mask.width * mask.height > MOST_PIXELS:
                raise InvalidInputError([issue("mask", f"it has more than {MOST_PIXELS:,} pixels")])
            made = (
                ImageOps.invert(mask.convert("RGBA").getchannel("A")) if mask.has_transparency_data else mask
            )
            out = io.BytesIO()
            made.save(out, "PNG")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidInputError([issue("mask", "it cannot be read as a picture")]) from error
    return out.getvalue()


def placed(images: Sequence[str], masks: Sequence[str], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The pictures under the model's own names. Raises `InvalidInputError`."""
    properties: Mapping[str, Any] = schema.get("properties", {})
    several, one, mask = (_first(names, properties) for names in (SEVERAL, ONE, MASK))
    if not images:
        raise InvalidInputError([issue("image", "an edit needs a picture", "missing")])
    if several is None and one is None:
        raise InvalidInputError([issue("image", f"this model takes no picture; {_there_are(properties)}")])
    if several is None and len(images) > 1:
        raise InvalidInputError([issue("image", "this model takes one picture")])
    if masks and mask is None:
        raise InvalidInputError([issue("mask", f"this model takes no mask; {_there_are(properties)}")])
    use_one = one is not None and (several is None or len(images) == 1)
    found: dict[str, Any] = {str(one): images[0]} if use_one else {str(several): list(images)}
    return found | ({str(mask): masks[0]} if masks else {})


def _first(names: Sequence[str], properties: Mapping[str, Any]) -> str | None:
    return next((name for name in names if name in properties), None)


def _there_are(properties: Mapping[str, Any]) -> str:
    return f"there are {', '.join(sorted(properties))}"


def issue(field: str, message: str, kind: str = "value_error") -> Issue:
    return Issue(location=(field,), message=message, kind=kind)
