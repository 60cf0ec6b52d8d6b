"""Fetches what a request's input fields point at: a data URI, or an http(s) address of somebody else's choosing.

IO. An address is believed for nothing: the name is resolved here, every address checked, and the connection made to
the one that was checked, on each redirect again; sizes and seconds are bounded. It refuses to know what the bytes
are; `decoding` looks at them. Proxies from the environment are not used, because they would undo the check.
"""

import base64
import binascii
import contextlib
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import httpcore

from loaders.errors import InputError

MAX_BYTES = 100 << 20
TIMEOUT_SECONDS = 60.0  # for the whole file
CONNECT_SECONDS = 10.0
MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class _RefusedError(Exception):
    """The address may not be fetched; the message is for the caller."""


class Retrieval:
    """`trusted` are beginnings of addresses (`http://127.0.0.1:8080/files/`) that may be private: the router's files.

    Not its whole origin: what the router answers to a neighbour without a key is nobody else's business.
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
        except _RefusedError as error:
            raise InputError(str(error), field) from error
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise InputError(f"the file cannot be fetched: {error or type(error).__name__}", field) from error

    def _fetch(self, url: str) -> bytes:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        for _ in range(MAX_REDIRECTS + 1):
            _check(url)
            backend = _CheckedBackend(allow_private=self._allow_private or self._is_trusted(url))
            with _pool(backend) as pool, _response(pool, url) as response:
                if response.status in REDIRECTS:
                    url = urljoin(url, _header(response, b"location").decode("ascii", "replace"))
                    continue
                if response.status != 200:
                    raise _RefusedError(f"the file cannot be fetched: its server answers {response.status}")
                return self._read(response, deadline)
        raise _RefusedError(f"the file cannot be fetched: more than {MAX_REDIRECTS} redirects")

    def _is_trusted(self, url: str) -> bool:
        plain = url.lower().replace("%2e", ".")
        return url.startswith(self._trusted) and ".." not in plain

    def _read(self, response: httpcore.Response, deadline: float) -> bytes:
        declared = _header(response, b"content-length")
        if declared.isdigit() and int(declared) > self._max_bytes:
            raise _RefusedError(_too_large(self._max_bytes))
        data = bytearray()
        for chunk in response.iter_stream():
            data += chunk
            if len(data) > self._max_bytes:
                raise _RefusedError(_too_large(self._max_bytes))
            if time.monotonic() > deadline:
                raise _RefusedError(f"the file did not arrive within {TIMEOUT_SECONDS:.0f} seconds")
        return bytes(data)


class _CheckedBackend(httpcore.SyncBackend):
    """Connects only to addresses that are checked, so that a name cannot mean one address now and another later."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        found = [info[4][0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        addresses = [str(address) for address in found]
        if not self._allow_private and not all(
            is_public(ipaddress.ip_address(a.split("%")[0])) for a in addresses
        ):
            raise _RefusedError(f"{host} is a private address")
        return super().connect_tcp(addresses[0], port, timeout, local_address, socket_options)


def is_public(address: Address) -> bool:
    """Reachable by everybody; also what an IPv6 address hides is looked at."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in NAT64 or address.sixtofour is not None or address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  raises for a port that is none
    except ValueError as error:
        raise _RefusedError(f"this is no address: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise _RefusedError("the address has to begin with http://, https:// or data:")
    if parts.username is not None or parts.password is not None:
        raise _RefusedError("the address may not hold a name and password")


def _pool(backend: _CheckedBackend) -> httpcore.ConnectionPool:
    return httpcore.ConnectionPool(
        ssl_context=ssl.create_default_context(), max_connections=1, network_backend=backend, retries=0
    )


@contextlib.contextmanager
def _response(pool: httpcore.ConnectionPool, url: str) -> Iterator[httpcore.Response]:
    timeout = {"connect": CONNECT_SECONDS, "read": CONNECT_SECONDS, "write": CONNECT_SECONDS}
    headers = [("Host", urlsplit(url).netloc), ("Accept-Encoding", "identity"), ("User-Agent", "marquee")]
    try:
        with pool.stream("GET", url, headers=headers, extensions={"timeout": timeout}) as response:
            yield response
    except (UnicodeError, httpcore.UnsupportedProtocol, ValueError) as error:
        raise _RefusedError(f"this is no address: {error}") from error


def _header(response: httpcore.Response, name: bytes) -> bytes:
    return next((value for key, value in response.headers if key.lower() == name), b"")


def _decode_data_uri(uri: str, max_bytes: int) -> bytes:
    head, comma, body = uri[len("data:") :].partition(",")
    if not comma:
        raise _RefusedError("the data URI has no data")
    if len(body) > max_bytes * 4 // 3 + 4:
        raise _RefusedError(_too_large(max_bytes))
    if not head.endswith(";base64"):
        return unquote_to_bytes(body)
    try:
        return base64.b64decode(unquote_to_bytes(body) if "%" in body else body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _RefusedError("the data URI is not base64") from error


def _too_large(max_bytes: int) -> str:
    return f"the file is larger than {max_bytes >> 20} MiB"
