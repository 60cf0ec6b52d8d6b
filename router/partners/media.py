"""Brings what a partner made into our own file store, so that links live as long as our records. IO.

A partner's answer is believed as little as a caller's input: every address, after each redirection too, has to be
public (or the partner's own, which the operator named), and the connection goes to the address that was checked.
Sizes and seconds are bounded. No key travels with it.
"""

import asyncio
import base64
import binascii
import mimetypes
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import httpx

from registry.outside import are_public
from registry.settings import PartnerAccount
from router.files import OPAQUE, Draft, FileStore
from router.partners import patience, sizes
from router.partners.errors import OutputLostError
from router.partners.places import Named, named, replaced
from router.requests import Place, Record, StoredFile

MAX_BYTES = 2 << 30  # of one file
MAX_FILES = 200
MAX_RESULT_BYTES = 8 << 30  # of all its files
AT_ONCE = 4  # files of one result
CHUNK_BYTES = 1 << 20
MAX_REDIRECTS = 5
FILE_SECONDS = 900.0
TIMEOUT = httpx.Timeout(30.0, connect=10.0)


class Brought(Record, frozen=True, kw_only=True):
    """A result whose files are ours."""

    result: Any  # an empty string where an address stood
    files: tuple[StoredFile, ...]
    places: tuple[Place, ...]


class Room:
    """What one result may still take of the disk, shared by the files that come at the same time."""

    def __init__(self, size_bytes: int) -> None:
        self._left = self._all = size_bytes

    def take(self, size_bytes: int) -> None:
        """Raises `OutputLostError`."""
        self._left -= size_bytes
        if self._left < 0:
            raise OutputLostError(f"the result's files are larger than {self._all >> 20} MiB together")

    def give_back(self, size_bytes: int) -> None:
        self._left += size_bytes


class Media:
    """One provider's outputs; made once per process, `close` at the end."""

    def __init__(self, account: PartnerAccount, store: FileStore, max_bytes: int = MAX_BYTES) -> None:
        self._allow_private = account.allow_private
        self._home = _origin(account.url)
        self._store = store
        self._max_bytes = max_bytes
        self._client = httpx.AsyncClient(
            timeout=TIMEOUT,
            trust_env=False,
            headers={"accept-encoding": "identity", "user-agent": "marquee"},
            limits=httpx.Limits(max_connections=64),
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def bring(self, result: Any, now: float) -> Brought:
        """Raises `OutputLostError`: then nothing is kept."""
        result = replaced(result, {})  # without NULs, in keys as well
        wanted = named(result)
        if len(wanted) > MAX_FILES:
            raise OutputLostError(f"the result names {len(wanted)} files, more than {MAX_FILES}")
        gate, room = asyncio.Semaphore(AT_ONCE), Room(MAX_RESULT_BYTES)

        async def one(item: Named) -> tuple[Draft, str]:
            async with gate:
                return await self._patiently(item, room)

        tasks = [asyncio.create_task(one(item)) for item in wanted]
        try:
            drafts = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            for done in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(done, tuple):
                    done[0].discard()
            raise
        files = [
            await asyncio.to_thread(_keep, draft, kind, item, now)
            for item, (draft, kind) in zip(wanted, drafts, strict=True)
        ]
        paths = {path: "" for item in wanted for path in item.paths}
        return Brought(
            result=replaced(result, paths),
            files=tuple(files),
            places=tuple(Place(path=p, file=n) for n, item in enumerate(wanted) for p in item.paths),
        )

    async def _patiently(self, item: Named, room: Room) -> tuple[Draft, str]:
        tries = 0
        while True:
            tries += 1
            draft = self._store.draft()
            try:
                async with asyncio.timeout(FILE_SECONDS):
                    return draft, await self._fetch(item, draft, room)
            except (httpx.InvalidURL, ValueError) as error:
                draft.discard()
                raise OutputLostError("a file has an address that is none") from error
            except (httpx.TransportError, TimeoutError, OSError) as error:
                draft.discard()
                room.give_back(draft.size_bytes)
                pause = patience.pause(tries, None, most=patience.OUTPUT_TRIES)
                if pause is None:
                    raise OutputLostError(
                        f"a file cannot be fetched: {error or type(error).__name__}"
                    ) from error
                await asyncio.sleep(pause)
            except BaseException:
                draft.discard()
                raise

    async def _fetch(self, item: Named, draft: Draft, room: Room) -> str:
        """Its media type. Raises `httpx.TransportError` where another try may help."""
        said = item.beside.get("content_type")
        told = said if isinstance(said, str) and "/" in said else None
        if item.address[:5].lower() == "data:":
            kind, content = await asyncio.to_thread(_decoded, item.address, self._max_bytes)
            await _write(draft, content)
            return kind
        url = httpx.URL(item.address)
        for _ in range(MAX_REDIRECTS + 1):
            request = await self._request(url)
            response = await self._client.send(request, stream=True)
            try:
                if response.has_redirect_location:
                    url = url.join(response.headers["location"])
                    continue
                _check(response, self._max_bytes)
                await self._receive(response, draft, room)
                return _kind(response.headers.get("content-type"), told, url.path)
            finally:
                await response.aclose()
        raise OutputLostError(f"a file cannot be fetched: more than {MAX_REDIRECTS} redirections")

    async def _request(self, url: httpx.URL) -> httpx.Request:
        if url.scheme not in {"http", "https"} or not url.host or url.userinfo:
            raise OutputLostError("a file has an address that is not called")
        if self._allow_private or _origin(str(url)) == self._home:
            return self._client.build_request("GET", url)
        # The checked address itself is called, so that a second answer of the name server changes nothing.
        port = url.port or (443 if url.scheme == "https" else 80)
        found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=1)
        addresses = [str(item[4][0]).partition("%")[0] for item in found]
        if not are_public(addresses):
            raise OutputLostError(f"a file lies at a private address: {url.host}")
        return self._client.build_request(
            "GET",
            url.copy_with(host=addresses[0]),
            headers={"host": url.netloc.decode()},
            extensions={"sni_hostname": url.host},
        )

    async def _receive(self, response: httpx.Response, draft: Draft, room: Room) -> None:
        async for chunk in response.aiter_bytes(CHUNK_BYTES):
            if draft.size_bytes + len(chunk) > self._max_bytes:
                raise OutputLostError(_too_large(self._max_bytes))
            await _write(draft, chunk)
            room.take(len(chunk))


async def _write(draft: Draft, content: bytes) -> None:
    """Also when cancelled it ends with the write: a thread must not write into what is discarded."""
    writing = asyncio.get_running_loop().run_in_executor(None, draft.write, content)
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing])
        raise


def _check(response: httpx.Response, max_bytes: int) -> None:
    if response.status_code >= 500 or response.status_code == 429:
        raise httpx.ReadError(f"its server answers {response.status_code}")
    if response.status_code != 200:
        raise OutputLostError(f"a file cannot be fetched: its server answers {response.status_code}")
    declared = response.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise OutputLostError(_too_large(max_bytes))


def _keep(draft: Draft, kind: str, item: Named, now: float) -> StoredFile:
    size_bytes, sha256 = draft.size_bytes, draft.sha256
    measured = sizes.measure(draft.close(), kind)
    told = sizes.told(item.beside)
    return StoredFile(
        id=draft.keep(kind, now),
        content_type=kind,
        size_bytes=size_bytes,
        sha256=sha256,
        width=measured.width or told.width,
        height=measured.height or told.height,
        frames=measured.frames,
        seconds=measured.seconds or told.seconds,
    )


def _kind(header: str | None, told: str | None, path: str) -> str:
    """What the server says, unless it says nothing; then what the answer or the name says."""
    served = (header or "").partition(";")[0].strip().lower()
    if served and served not in {OPAQUE, "binary/octet-stream"}:
        return served
    guess = told or mimetypes.guess_type(path)[0] or OPAQUE
    return guess.partition(";")[0].strip().lower()


def _decoded(uri: str, max_bytes: int) -> tuple[str, bytes]:
    head, _, body = uri[len("data:") :].partition(",")
    kind, *parameters = head.split(";")
    if len(body) > max_bytes * 4 // 3 + 4:
        raise OutputLostError(_too_large(max_bytes))
    if "base64" not in parameters:
        return kind.lower(), unquote_to_bytes(body)
    try:
        return kind.lower(), base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise OutputLostError("a file's data URI is not base64") from error


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), port


def _too_large(max_bytes: int) -> str:
    return f"a file is larger than {max_bytes >> 20} MiB"
