"""Reads addresses of somebody else's choosing without being made to knock on doors inside. IO.

An address is believed for nothing: the name is resolved here, every address checked, and the connection made to one
that was checked, on each redirect again. Proxies from the environment are not used, because they would undo the
check. Who answers by a byte now and then is given up; sizes and seconds beyond that are the callers' to bound.
"""

import contextlib
import functools
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpcore
import msgspec

from registry.errors import AddressError

CONNECT_SECONDS = 10.0
SLACK_SECONDS = 30.0  # of waiting that an answer may cost beside what its length allows
LEAST_BYTES_PER_SECOND = 4096
MAX_REDIRECTS = 5
PRIVATE_SETTING = "MARQUEE_ALLOW_PRIVATE_INPUTS"  # the operator's
REDIRECTS = frozenset({301, 302, 303, 307, 308})
NAT64 = ipaddress.ip_network("64:ff9b::/96")
FAILURES = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, OSError)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Answer(msgspec.Struct, frozen=True):
    """An open answer: its status, and its bytes as they come."""

    status: int
    headers: Mapping[bytes, bytes]  # names in lower case
    chunks: Iterator[bytes]


@contextlib.contextmanager
def opened(
    url: str, *, may_be_private: Callable[[str], bool], headers: Mapping[str, str] | None = None
) -> Iterator[Answer]:
    """The answer behind all redirects. Raises `AddressError`, and `FAILURES` when nobody answers."""
    for _ in range(MAX_REDIRECTS + 1):
        check(url)
        backend = _CheckedBackend(allow_private=may_be_private(url))
        with _pool(backend) as pool, _response(pool, url, headers or {}) as response:
            found = {name.lower(): value for name, value in response.headers}
            if response.status in REDIRECTS:
                url = urljoin(url, found.get(b"location", b"").decode("ascii", "replace"))
                continue
            yield Answer(response.status, found, response.iter_stream())
            return
    raise AddressError(f"the file cannot be fetched: more than {MAX_REDIRECTS} redirects")


def check(url: str) -> None:
    """Raises `AddressError` for what is no address that anybody should follow."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  raises for a port that is none
    except ValueError as error:
        raise AddressError(f"this is no address: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise AddressError("the address has to begin with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise AddressError("the address may not hold a name and password")


def is_public(address: Address) -> bool:
    """Reachable by everybody; also what an IPv6 address hides is looked at."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in NAT64 or address.sixtofour is not None or address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast


def are_public(addresses: Iterable[str]) -> bool:
    """All that a name stands for, as name servers write them."""
    return all(is_public(ipaddress.ip_address(address.partition("%")[0])) for address in addresses)


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
        if not self._allow_private and not are_public(addresses):
            raise AddressError(f"{host} is a private address; {PRIVATE_SETTING} lets those in")
        return _Timely(super().connect_tcp(addresses[0], port, timeout, local_address, socket_options))


class _Timely(httpcore.NetworkStream):
    """A connection whose other end may not hold it with a byte now and then: a pause's limit alone allows that for ever.

    Only what is waited for here counts, so a reader that takes its time is none of the other's slowness.
    """

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream
        self._received_bytes = 0
        self._waited_seconds = 0.0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        allowed = SLACK_SECONDS + self._received_bytes / LEAST_BYTES_PER_SECOND - self._waited_seconds
        if allowed <= 0:
            raise httpcore.ReadTimeout("it answers too slowly")
        began = time.monotonic()
        data = self._stream.read(max_bytes, allowed if timeout is None else min(timeout, allowed))
        self._waited_seconds += time.monotonic() - began
        self._received_bytes += len(data)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Timely(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Costs 30 ms to make: once for all, not for every range of a file."""
    return ssl.create_default_context()


def _pool(backend: _CheckedBackend) -> httpcore.ConnectionPool:
    return httpcore.ConnectionPool(
        ssl_context=_certificates(), max_connections=1, network_backend=backend, retries=0
    )


@contextlib.contextmanager
def _response(
    pool: httpcore.ConnectionPool, url: str, headers: Mapping[str, str]
) -> Iterator[httpcore.Response]:
    timeout = {"connect": CONNECT_SECONDS, "read": CONNECT_SECONDS, "write": CONNECT_SECONDS}
    own = {"Host": urlsplit(url).netloc, "Accept-Encoding": "identity", "User-Agent": "marquee"}
    try:
        with pool.stream(
            "GET", url, headers=list((own | dict(headers)).items()), extensions={"timeout": timeout}
        ) as response:
            yield response
    except (UnicodeError, httpcore.UnsupportedProtocol, ValueError) as error:
        raise AddressError(f"this is no address: {error}") from error
