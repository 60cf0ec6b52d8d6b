"""A program's own values as a router would send them: numpy's numbers as Python's, pictures and files as data URIs.

IO: reads the files that are named. It refuses to know what a file is; `decoding` looks at that.
"""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loaders.errors import InputError
from loaders.pipelines import names

SIDES = ("width", "height")
ADDRESSES = ("data:", "http://", "https://")


def carried(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without those that are None. Raises `InputError` for a file that cannot be read."""
    given = {
        name: _media(value, name) if name in names.MEDIA else _plain(value)
        for name, value in values.items()
        if value is not None
    }
    size = given.get("image_size")
    if isinstance(size, list) and len(size) == len(SIDES):
        given["image_size"] = dict(zip(SIDES, size, strict=True))
    return given


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch are no dimension deep."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _media(value: Any, field: str) -> Any:
    if isinstance(value, list | tuple):
        return [_address(one, field) for one in value]
    return _address(value, field)


def _address(value: Any, field: str) -> Any:
    """Of a path, bytes, or a Pillow image; an address as it is."""
    if isinstance(value, bytes):
        return _uri(value)
    if hasattr(value, "convert") and hasattr(value, "save"):
        out = io.BytesIO()
        value.convert("RGB").save(out, "PNG", compress_level=1)
        return _uri(out.getvalue())
    if isinstance(value, Path) or (isinstance(value, str) and not value.startswith(ADDRESSES)):
        try:
            return _uri(Path(value).read_bytes())
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"the file {value} cannot be read: {reason}", field) from error
    return value


def _uri(data: bytes) -> str:
    return f"data:;base64,{base64.b64encode(data).decode()}"
