"""Where bytes come from: the origins of a version's file, each opened as a stream of a range.

IO, no disk of its own. Foreign errors are translated here: what an origin lacks is `WeightsMissingError`,
another file under the same name `WeightsDamagedError`, and what does not answer `SourceDownError`. It believes nothing else: digests are checked by `download`.
"""

import functools
import hashlib
import hmac
import random
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from loaders.errors import SourceDownError, WeightsDamagedError, WeightsMissingError
from registry import outside
from registry.catalog import FileRef, Source
from registry.errors import AddressError

TIMEOUT = httpx.Timeout(30.0, connect=10.0)
PEER_TIMEOUT = httpx.Timeout(10.0, connect=2.0)  # a peer is only a short cut
MAX_PEERS = 8  # asked before the source: each miss costs a round trip
OVERLOADED = frozenset({408, 425, 429})
DIGITS = re.compile(r"[0-9]{1,18}")  # what Python refuses as a number must not look like a fault of ours
BUCKET_SCHEMES = frozenset({"s3", "gs", "az", "abfs", "abfss"})


class Opened(msgspec.Struct, frozen=True):
    """A stream and where it really starts: 0 when the origin cannot begin in the middle."""

    offset: int
    chunks: Iterator[bytes]


class Origin(Protocol):
    """One place that may have a file."""

    @property
    def name(self) -> str: ...
    def open(self, start: int, stop: int) -> AbstractContextManager[Opened]:
        """Raises the named errors above, also in the middle of the stream."""
        ...


class Remote(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a host may ask beyond its own disk."""

    hub_endpoint: str | None = None  # None: the library's own default, which reads HF_ENDPOINT
    hub_token: str | None = None  # None: the library's own, which reads HF_TOKEN and its login
    router_url: str | None = None
    host_key: str | None = None
    peers: tuple[str, ...] = ()  # addresses of hosts of the pool that serve their blobs
    allow_private: bool = False  # whether labs' addresses may lie inside private networks


class Address(msgspec.Struct, frozen=True):
    url: str
    headers: Mapping[str, str] = {}


def local_path(source: Source, file: FileRef) -> Path:
    """Raises `WeightsMissingError` when the path leads out of the source's folder."""
    parts = PurePosixPath(file.path).parts
    if not parts or ".." in parts or PurePosixPath(file.path).is_absolute():
        raise WeightsMissingError(f"{file.path} leads out of {source.location}")
    return Path(source.location, source.subfolder or "", *parts)


@contextmanager
def origins(remote: Remote, source: Source, file: FileRef) -> Iterator[list[Origin]]:
    """Nearest first: hosts of the pool, then the source itself, or the router for what only it can read."""
    with httpx.Client(timeout=TIMEOUT, follow_redirects=True, verify=_certificates()) as client:
        asked = random.sample(remote.peers, min(len(remote.peers), MAX_PEERS))  # spreads the load
        peers = [Web(client, peer, file, _peer_address(peer, remote, file), PEER_TIMEOUT) for peer in asked]
        yield [*peers, _origin(client, remote, source, file)]


def peer_token(host_key: str | None) -> str:
    """What hosts of a pool show each other: proves the key without showing it."""
    return hmac.new((host_key or "").encode(), b"marquee blobs", hashlib.sha256).hexdigest()


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Costs 30 ms to make: once for all, not for every small file."""
    return httpx.create_ssl_context()


def _origin(client: httpx.Client, remote: Remote, source: Source, file: FileRef) -> Origin:
    if source.kind == "hub":
        return Hub(client, remote, source, file)
    if source.kind == "url" and urlsplit(source.location).scheme in BUCKET_SCHEMES:
        from loaders.buckets import Bucket

        return Bucket(source.location, _inner_path(source, file), file)
    if source.kind == "url":
        return Site(client, remote, source, file)
    if remote.router_url is None:
        raise WeightsMissingError(f"{file.path} is not at {source.location}, and there is no router to ask")
    headers = {"Authorization": f"Bearer {remote.host_key}"} if remote.host_key else {}
    return Web(client, remote.router_url, file, Address(_blob_url(remote.router_url, file), headers))


def _peer_address(peer: str, remote: Remote, file: FileRef) -> Address:
    return Address(_blob_url(peer, file), {"Authorization": f"Bearer {peer_token(remote.host_key)}"})


def _blob_url(base: str, file: FileRef) -> str:
    return f"{base.rstrip('/')}/blobs/{file.sha256}"


def _file_url(source: Source, file: FileRef) -> str:
    """The location is a folder's address, or the file's own (then its query may sign it)."""
    address = urlsplit(source.location)
    if address.path.endswith(f"/{quote(file.path)}"):
        return source.location
    return address._replace(path=f"{address.path.rstrip('/')}/{quote(_inner_path(source, file))}").geturl()


def _inner_path(source: Source, file: FileRef) -> str:
    return f"{source.subfolder}/{file.path}" if source.subfolder else file.path


class Web:
    """A file at an address that may understand ranges."""

    def __init__(
        self,
        client: httpx.Client,
        name: str,
        file: FileRef,
        address: Address | None = None,
        timeout: httpx.Timeout = TIMEOUT,
    ) -> None:
        self.name = name
        self._timeout = timeout
        self._client = client
        self._file = file
        self._known = address

    @contextmanager
    def open(self, start: int, stop: int) -> Iterator[Opened]:
        address = self.address()
        asked = {"Accept-Encoding": "identity", "Range": f"bytes={start}-{stop - 1}"}
        try:
            with self._client.stream(
                "GET", address.url, headers={**address.headers, **asked}, timeout=self._timeout
            ) as response:
                self._check(response.status_code, response.headers)
                yield Opened(_offset(response.status_code, response.headers), response.iter_raw())
        except httpx.HTTPError as error:
            raise SourceDownError(f"{self.name} does not deliver {self._file.path}: {error!r}") from error
        except httpx.InvalidURL as error:
            raise WeightsMissingError(f"{self.name} is not an address: {error}") from error

    def address(self) -> Address:
        assert self._known is not None
        return self._known

    def refused(self, status: int) -> Exception:
        return WeightsMissingError(f"{self.name} does not give {self._file.path} (status {status})")

    def _check(self, status: int, headers: httpx.Headers) -> None:
        path = self._file.path
        if status in OVERLOADED or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise SourceDownError(
                f"{self.name} answered {status} for {path}",
                retry_after_seconds=retry_after(headers),
            )
        if status in {401, 403, 404, 410}:
            raise self.refused(status)
        if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise WeightsDamagedError(
                f"{path} at {self.name} is shorter than its {self._file.size_bytes} bytes"
            )
        if status not in {200, 206}:
            raise SourceDownError(f"{self.name} answered {status} for {path}")
        total_bytes = _total_bytes(status, headers)
        if total_bytes is not None:
            check_size(self.name, self._file, total_bytes)


class Site(Web):
    """An address of a lab's choosing, asked only where it is public, on each redirect again: hosts stand inside."""

    def __init__(self, client: httpx.Client, remote: Remote, source: Source, file: FileRef) -> None:
        unsigned = urlsplit(source.location)._replace(query="", fragment="")  # a query may be a signature
        super().__init__(client, unsigned.geturl(), file, Address(_file_url(source, file)))
        self._allow_private = remote.allow_private

    @contextmanager
    def open(self, start: int, stop: int) -> Iterator[Opened]:
        with ExitStack() as stack:
            try:
                answer = stack.enter_context(self._asked({"Range": f"bytes={start}-{stop - 1}"}))
            except AddressError as error:
                raise WeightsMissingError(
                    f"{self._file.path} cannot be had from {self.name}: {error}"
                ) from error
            except outside.FAILURES as error:
                raise self._down(error) from error
            headers = httpx.Headers(list(answer.headers.items()))
            self._check(answer.status, headers)
            yield Opened(_offset(answer.status, headers), self._delivered(answer.chunks))

    def _asked(self, headers: Mapping[str, str]) -> AbstractContextManager[outside.Answer]:
        return outside.opened(
            self.address().url, may_be_private=lambda _: self._allow_private, headers=headers
        )

    def _delivered(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        try:
            yield from chunks
        except outside.FAILURES as error:
            raise self._down(error) from error

    def _down(self, error: Exception) -> SourceDownError:
        return SourceDownError(f"{self.name} does not deliver {self._file.path}: {error!r}")


class Hub(Web):
    """A file of a repository at a commit: found, signed for and refused by `huggingface_hub`, read in ranges here."""

    def __init__(self, client: httpx.Client, remote: Remote, source: Source, file: FileRef) -> None:
        super().__init__(client, f"{source.location} on the Hub", file)
        self._remote = remote
        self._source = source

    def address(self) -> Address:
        """Asked for once; again after the signed address was refused. Threads may ask twice: no harm."""
        known = self._known
        if known is None:
            from loaders.hub import resolve

            known = self._known = resolve(self._remote, self._source, self._file)
        return known

    def refused(self, status: int) -> Exception:
        self._known = None  # signed addresses expire; the next try says what is really the matter
        return SourceDownError(f"the address that the Hub gave for {self._file.path} answered {status}")


def check_size(name: str, file: FileRef, total_bytes: int) -> None:
    if total_bytes != file.size_bytes:
        raise WeightsDamagedError(
            f"{file.path} at {name} has {total_bytes} bytes; {file.size_bytes} were announced: it changed there"
        )


def _offset(status: int, headers: httpx.Headers) -> int:
    if status != httpx.codes.PARTIAL_CONTENT:
        return 0
    begins = headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
    return int(begins) if DIGITS.fullmatch(begins) else 0


def _total_bytes(status: int, headers: httpx.Headers) -> int | None:
    if status == httpx.codes.PARTIAL_CONTENT:
        total = headers.get("content-range", "").rpartition("/")[2]
        return int(total) if DIGITS.fullmatch(total) else None
    return None  # a whole answer that is too short or too long shows while it is read


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; the date form is rare and left to the ordinary backoff."""
    value = headers.get("retry-after", "")
    return float(value) if DIGITS.fullmatch(value) else None
