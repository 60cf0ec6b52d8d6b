"""Fetches what a request's input fields point at: a data URI, or an http(s) address of somebody else's choosing.

IO. `registry.outside` sees to it that no private address is reached; sizes and seconds are bounded here. It refuses to
know what the bytes are; `decoding` looks at them.
"""

import base64
import binascii
import contextlib
import re
import time
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from loaders import protocol
from loaders.errors import InputError
from registry import outside
from registry.errors import AddressError

MAX_BYTES = 100 << 20
TIMEOUT_SECONDS = 60.0  # for the whole file
FILE = re.compile(rf"https?://[^/]+/files/({protocol.FILE_ID})")


class Retrieval:
    """`trusted` are beginnings of addresses (`http://127.0.0.1:8080/files/`) that may be private: the router's files.

    Not its whole origin: what the router answers to a neighbour without a key is nobody else's business. A caller may
    know the router by another name than this host does, so what looks like one of its files is asked of it first.
    """

    def __init__(
        self, *, max_bytes: int = MAX_BYTES, allow_private: bool = False, trusted: Iterable[str] = ()
    ) -> None:
        self._max_bytes = max_bytes
        self._allow_private = allow_private
        self._trusted = tuple(trusted)

    def get(self, url: str, field: str) -> bytes:
        """Raises `InputError` at `field`."""
        try:
            if url.startswith("data:"):
                return _decode_data_uri(url, self._max_bytes)
            return self._fetch(url)
        except AddressError as error:
            raise InputError(str(error), field) from error
        except outside.FAILURES as error:
            raise InputError(f"the file cannot be fetched: {error or type(error).__name__}", field) from error

    def _fetch(self, url: str) -> bytes:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        if (ours := FILE.fullmatch(url)) and self._trusted and not self._is_trusted(url):
            with contextlib.suppress(AddressError):
                return self._open(self._trusted[0] + ours[1], deadline)
        return self._open(url, deadline)

    def _open(self, url: str, deadline: float) -> bytes:
        with outside.opened(url, may_be_private=self._may_be_private) as answer:
            if answer.status != 200:
                raise AddressError(f"the file cannot be fetched: its server answers {answer.status}")
            return self._read(answer, deadline)

    def _may_be_private(self, url: str) -> bool:
        return self._allow_private or self._is_trusted(url)

    def _is_trusted(self, url: str) -> bool:
        plain = url.lower().replace("%2e", ".")
        return url.startswith(self._trusted) and ".." not in plain

    def _read(self, answer: outside.Answer, deadline: float) -> bytes:
        declared = answer.headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self._max_bytes:
            raise AddressError(_too_large(self._max_bytes))
        data = bytearray()
        for chunk in answer.chunks:
            data += chunk
            if len(data) > self._max_bytes:
                raise AddressError(_too_large(self._max_bytes))
            if time.monotonic() > deadline:
                raise AddressError(f"the file did not arrive within {TIMEOUT_SECONDS:.0f} seconds")
        return bytes(data)


def _decode_data_uri(uri: str, max_bytes: int) -> bytes:
    head, comma, body = uri[len("data:") :].partition(",")
    if not comma:
        raise AddressError("the data URI has no data")
    if len(body) > max_bytes * 4 // 3 + 4:
        raise AddressError(_too_large(max_bytes))
    if not head.endswith(";base64"):
        return unquote_to_bytes(body)
    try:
        return base64.b64decode(unquote_to_bytes(body) if "%" in body else body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise AddressError("the data URI is not base64") from error


def _too_large(max_bytes: int) -> str:
    return f"the file is larger than {max_bytes >> 20} MiB"
