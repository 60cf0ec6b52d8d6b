"""The LoRAs that a call names: the catalogue's, and those a customer brings by address or repository. IO.

A customer's own file is fetched once, checked like a lab's (size, safetensors only, no private addresses, does it fit
the base), kept under its digest and known to that organization alone. The Hub is asked without the operator's token,
so that nobody reads a private repository through us.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from weakref import WeakValueDictionary

import msgspec
import structlog

from registry import adapter_files, brought, folders, hub, outside, reading, weights, windows
from registry.brought import Wish
from registry.catalog import Adapter, AdapterManifest, Caller, FileRef, Source, Version
from registry.database import Database
from registry.errors import AddressError, CatalogError, GatedError, HubError, MisfitError, WeightsError
from registry.reading import Place
from router.catalogue import Catalogue
from router.errors import UnknownFileError
from router.files import FileStore, Stored

FRESH = timedelta(hours=1)  # then the address is read again: it may lead to something else
REFUSED_SECONDS = (
    30.0  # a refusal is remembered so long, so that a broken address is not read with every call
)
FETCH_SECONDS = 120.0
MOST_OWN = 8  # of one call
AT_ONCE = 16  # fetched at a time, in threads of their own: strangers' servers may drip
AT_ONE_ORGANIZATION = 3  # of them
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
SUFFIX = ".safetensors"
CHUNK_BYTES = 1 << 20
ORPHANED_SECONDS = 86_400.0  # a file without a row may be on its way to get one

Answer = AdapterManifest | str  # or why not
Refusal = CatalogError | WeightsError

log = structlog.get_logger("marquee.loras")


class Loras:
    """`max_bytes` 0: customers bring none."""

    def __init__(
        self, db: Database, catalogue: Catalogue, place: Place, files: FileStore, max_bytes: int
    ) -> None:
        self._db = db
        self._catalogue = catalogue
        self._max_bytes = max_bytes
        self._files = files
        self.folder = place.home.resolve() / "loras"
        anonymous = hub.Endpoint(url=place.endpoint.url)
        self._place = msgspec.structs.replace(place, endpoint=anonymous)
        self._base_place = place  # the base's own configs may well lie where only the operator may read
        self._fetching: dict[Wish, asyncio.Task[AdapterManifest]] = {}
        self._refused: dict[Wish, tuple[float, Refusal]] = {}
        self._threads = ThreadPoolExecutor(AT_ONCE, "lora")
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._closed = threading.Event()

    async def find(
        self, caller: Caller, wanted: Iterable[Mapping[str, Any]], version: Version, lot: float
    ) -> Sequence[Answer]:
        """One answer for each that is wanted, in order."""
        answers: list[Answer] = []
        own = 0
        for item in wanted:
            path = str(item.get("path", ""))
            answer = self._listed(path, caller, lot)
            if answer is None:
                own += 1
                weight_name = str(item.get("weight_name") or "")
                answer = await self._own(caller, path, weight_name, version, over=own > MOST_OWN)
            answers.append(answer)
        return answers

    def _listed(self, path: str, caller: Caller, lot: float) -> Answer | None:
        """None for what the catalogue does not show this caller, whatever the reason."""
        match self._catalogue.now.adapter(path, caller, self._catalogue.clock(), lot):
            case windows.Gone(successor=successor):
                return f"{path} was retired" + (f"; {successor} took its place" if successor else "")
            case None:
                return None
            case adapter:
                return adapter.manifest

    async def _own(
        self, caller: Caller, path: str, weight_name: str, version: Version, *, over: bool
    ) -> Answer:
        is_address = path.startswith(("http://", "https://"))
        if not self._max_bytes or not (is_address or REPOSITORY.fullmatch(path)):
            return f"no LoRA is called {path[:200]!r}{self._meant(path, caller, version)}"
        if over:
            return f"more than {MOST_OWN} of one's own in one call"
        wish = Wish(
            organization=caller.organization,
            path=path,
            weight_name=weight_name,
            architecture=version.manifest.architecture,
        )
        try:
            manifest = await self._fetched(wish, version)
        except GatedError:
            return f"{path} is gated on the Hub, and is read here without an account: send its file (POST /v1/files)"
        except HubError as error:
            meant = self._meant(path, caller, version)
            return f"no LoRA is called {path!r}{meant}, here or on the Hub: {error}"
        except (CatalogError, WeightsError) as error:
            return str(error)
        self._catalogue.brought[manifest.digest] = manifest
        return manifest

    def _meant(self, path: str, caller: Caller, version: Version) -> str:
        """The LoRA for this base that was probably misspelt, where the caller may use it, as words behind it."""
        now, clock = self._catalogue.now, self._catalogue.clock()
        for name in now.adapter_names.near(path):
            match now.adapter(name, caller, clock):
                case Adapter(manifest=found) if found.architecture == version.manifest.architecture:
                    return f" (did you mean {name!r}?)"
        return ""

    async def _fetched(self, wish: Wish, version: Version) -> AdapterManifest:
        """Once for all who ask at the same time. Raises `CatalogError`s, `WeightsError`s."""
        until, refusal = self._refused.get(wish, (0.0, None))
        if refusal is not None and time.monotonic() < until:
            raise refusal.with_traceback(None)
        known = await brought.find(self._db, wish, FRESH)
        if known is not None and (self.folder / known.weights.path).exists():
            return known
        task = self._fetching.get(wish)
        if task is None:
            task = self._fetching[wish] = asyncio.create_task(self._fetch(wish, version))
            task.add_done_callback(lambda _: self._fetching.pop(wish, None))
        return await asyncio.shield(task)

    async def _fetch(self, wish: Wish, version: Version) -> AdapterManifest:
        turn = self._turns.get(wish.organization) or asyncio.Semaphore(AT_ONE_ORGANIZATION)
        self._turns[wish.organization] = turn
        try:
            async with turn:
                loop = asyncio.get_running_loop()
                file = await loop.run_in_executor(self._threads, self._download, wish)
            question = await asyncio.to_thread(self._question, file, version)
            verdict = await self._place.examine(question)
            if verdict.error is not None:
                raise MisfitError(verdict.error, verdict.message or verdict.error)
        except (CatalogError, WeightsError) as error:
            self._refuse(wish, error)
            raise
        manifest = AdapterManifest(
            source=Source(kind="path", location=str(self.folder)),
            weights=file,
            base=version.variant,
            architecture=version.manifest.architecture,
        )
        manifest = reading.described(manifest, verdict)
        await brought.keep(self._db, wish, manifest)
        log.info("a LoRA was brought", organization=wish.organization, digest=manifest.digest)
        return manifest

    def _refuse(self, wish: Wish, refusal: Refusal) -> None:
        now = time.monotonic()
        self._refused = {one: kept for one, kept in self._refused.items() if kept[0] > now}
        self._refused[wish] = (now + REFUSED_SECONDS, refusal)

    def _question(self, file: FileRef, version: Version) -> Any:
        return reading.adapter_question(
            self._base_place, folders.Folder(self.folder), file.path, version.manifest
        )

    # bytes

    def _download(self, wish: Wish) -> FileRef:
        """Blocks. Whole and checked, or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"{secrets.token_hex(8)}.part"
        try:
            digest = self._save(wish, part)
            folders.read_index(part)
            done = self.folder / (digest + SUFFIX)
            part.replace(done)
            return FileRef(path=done.name, size_bytes=done.stat().st_size, sha256=digest)
        except outside.FAILURES as error:
            where = urlsplit(wish.path).hostname or "the Hub"
            raise AddressError(f"{where} does not deliver: {error or type(error).__name__}") from error
        finally:
            part.unlink(missing_ok=True)

    def _save(self, wish: Wish, part: Path) -> str:
        if wish.path.startswith(("http://", "https://")):
            return self._from_address(wish, part)
        repository = hub.Repository(self._place.endpoint, Source(kind="hub", location=wish.path))
        name = adapter_files.adapter_file(repository, wish.weight_name or None)
        self._check_size(repository.size_of(name))
        with repository.opened(name) as chunks:
            return self._write(part, chunks)

    def _from_address(self, wish: Wish, part: Path) -> str:
        name = unquote(urlsplit(wish.path).path.rpartition("/")[2])
        if Path(name).suffix not in {SUFFIX, ""}:
            raise AddressError(f"{name} is no {SUFFIX} file")
        if (upload := self._upload(wish.path)) is not None:
            with upload.path.open("rb") as file:
                return self._write(part, iter(lambda: file.read(CHUNK_BYTES), b""))
        with outside.opened(wish.path, may_be_private=lambda _: self._place.allow_private) as answer:
            if answer.status != 200:
                raise AddressError(f"the file cannot be fetched: its server answers {answer.status}")
            declared = answer.headers.get(b"content-length", b"")
            self._check_size(int(declared) if declared.isdigit() else 0)
            return self._write(part, answer.chunks)

    def _upload(self, address: str) -> Stored | None:
        """A file of our own store, whatever name the caller knows us by; its id cannot be guessed."""
        folder, _, file_id = urlsplit(address).path.rpartition("/")
        with contextlib.suppress(UnknownFileError):
            return self._files.find(file_id) if folder == "/files" else None
        return None

    def close(self) -> None:
        """What is being fetched is not waited for."""
        self._closed.set()

    def _write(self, part: Path, chunks: Iterator[bytes]) -> str:
        deadline = time.monotonic() + FETCH_SECONDS
        digest, size = hashlib.sha256(), 0
        with part.open("wb") as file:
            for chunk in chunks:
                if size == 0 and len(chunk) >= weights.LENGTH_BYTES:
                    weights.header_length(chunk[: weights.SNIFF_BYTES])
                size += len(chunk)
                self._check_size(size)
                if self._closed.is_set():
                    raise AddressError("the gateway stops")
                if time.monotonic() > deadline:
                    raise AddressError(f"the file did not arrive within {FETCH_SECONDS:.0f} seconds")
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise AddressError(f"the file is larger than {self._max_bytes >> 20} MiB")

    def blob(self, sha256: str) -> Path:
        """Where a brought file lies, if it does; hosts that cannot read the folder ask for it."""
        return self.folder / (sha256 + SUFFIX)

    async def keep_house(self, older_than: timedelta) -> None:
        """Forgets what nobody brought in so long, and the files that no row names any more."""
        left = await brought.forget(self._db, older_than)
        await asyncio.to_thread(self._drop_files, left)

    def _drop_files(self, kept: frozenset[str]) -> None:
        for file in self.folder.glob("*") if self.folder.exists() else ():
            old = time.time() - file.stat().st_mtime > ORPHANED_SECONDS
            if old and file.name.removesuffix(SUFFIX) not in kept:
                file.unlink(missing_ok=True)
