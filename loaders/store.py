"""The disk tier: files by the sha256 of their bytes, under `home/blobs/sha256/`.

IO. A blob is verified while it arrives and visible only when whole; a kill leaves a part that the next try
continues. A file that the host can already read stays where it is. What is verified is remembered by its stamp
(inode, size, times), so that a change makes it unknown again. Several threads and processes may share a home: one
of them fetches, and nothing that any of them holds is evicted. It refuses to know what the files mean.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from loaders import download, fetch, whole
from loaders.digests import Digests, Stamp, stamp
from loaders.errors import DiskFailedError, DiskFullError, NotHereError, WeightsDamagedError
from loaders.interest import Interest
from loaders.leases import Leases, Patience
from loaders.pace import Pace
from loaders.partial import MAP_SUFFIX, Partial, discard, named
from registry.catalog import FileRef, Source

T = TypeVar("T")
DIGEST = re.compile(r"[0-9a-f]{64}")
NOT_THE_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM})
SLOWEST_CHECK = 20e6  # bytes per second that somebody may take to check a file
ROOM = "0" * 64  # the turn for making room; no blob has this digest
ROOM_PATIENCE = Patience("room on this disk")


class _Note(msgspec.Struct, frozen=True, kw_only=True):
    """A verified file, and how it looked when it was verified. Its own mtime is when it was last wanted."""

    path: str
    stamp: Stamp


class Store:
    """Blobs of one home."""

    def __init__(
        self,
        home: Path,
        *,
        remote: fetch.Remote | None = None,
        budget_bytes: int | None = None,
        pace: Pace | None = None,
        terms: download.Terms | None = None,
    ) -> None:
        self._home = home
        self._remote = remote or fetch.Remote()
        self._budget_bytes = budget_bytes
        self._pace = pace or Pace()
        self._terms = terms or download.Terms()
        with named(str(home)):
            for folder in ("blobs/sha256", "verified", "partial", "locks", "digests"):
                (home / folder).mkdir(parents=True, exist_ok=True)
            self._leases = Leases(home / "locks")
        self.digests = Digests(home / "digests")

    def locate(self, sha256: str) -> Path | None:
        """Where the verified bytes are on this disk, if they are."""
        try:
            note = msgspec.json.decode(self._note(sha256).read_bytes(), type=_Note)
            path = Path(note.path)
            return path if stamp(path) == note.stamp else None
        except (OSError, msgspec.MsgspecError):
            return None

    def ensure(self, file: FileRef, source: Source, interest: Interest | None = None) -> Path:
        """The verified bytes, fetched when missing, and held until `drop` or `release`.

        Raises the named errors of `fetch`, `DiskFullError`, `DiskFailedError`, and `AbandonedError` soon after
        `interest` was given up.
        """
        interest = interest or Interest()
        with contextlib.suppress(NotHereError):
            return self.here(file)
        with self._leases.tried(file.sha256), self._leases.turn(file.sha256, interest, self._patience(file)):
            return (
                self.locate(file.sha256)
                or self._recovered(file, interest)
                or self._adopted(file, source, interest)
                or self._downloaded(file, source, interest)
            )

    def here(self, file: FileRef) -> Path:
        """The verified bytes, held as by `ensure`, from this disk alone. Raises `NotHereError`."""
        if self.locate(file.sha256) is not None:
            self._leases.hold(file.sha256)
        found = self.locate(file.sha256)  # once more: it may have been evicted before it was held
        if found is None:
            raise NotHereError(f"{file.path} is not on this disk")
        with contextlib.suppress(OSError):  # a disk that only reads has no order of eviction either
            os.utime(self._note(file.sha256))
        return found

    def release(self, sha256: str) -> None:
        """Not in use by this process any more: it may be evicted for something else."""
        self._leases.release(sha256)

    def drop(self, sha256: str) -> None:
        """Forgets a blob, unless another process holds it. Files that were only adopted are left alone."""
        self._leases.release(sha256)
        self._evict(sha256)

    def takes(self, files: Iterable[FileRef], source: Source) -> int:
        """Bytes of this home that they take, or would: none for a file that is read where its lab keeps it."""
        return sum(file.size_bytes for file in files if not _is_at_hand(file, source))

    def oldest_first(
        self, things: Iterable[tuple[T, Sequence[FileRef]]]
    ) -> list[tuple[T, Sequence[FileRef]]]:
        """Of things made of files those that are here whole, by when they were last wanted; held from now on."""
        found = []
        for thing, files in things:
            if all(self.locate(file.sha256) for file in files):
                for file in files:
                    self._leases.hold(file.sha256)
                wanted_at = max((self._wanted_at(file.sha256) for file in files), default=0.0)
                found.append((wanted_at, thing, files))
        return [(thing, files) for _, thing, files in sorted(found, key=lambda one: one[0])]

    def _wanted_at(self, sha256: str) -> float:
        """When it was asked for last; of what never came whole, when it grew."""
        for path in (self._note(sha256), self._part(sha256)):
            with contextlib.suppress(FileNotFoundError):
                return path.stat().st_mtime
        return 0.0

    def kept_bytes(self, files: Iterable[FileRef]) -> int:
        """Of those that are blobs of this home."""
        return sum(file.size_bytes for file in files if self._blob(file.sha256).exists())

    def used_bytes(self, *, besides: str | None = None) -> int:
        """Blobs and the room taken for those on their way. Looked at for each file that is fetched: one call a blob."""
        total_bytes = 0
        for entry in self._entries():
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                total_bytes += 0 if entry.name == besides else entry.stat().st_size
        return total_bytes

    def know_peers(self, addresses: Iterable[str]) -> None:
        """Hosts of the pool to ask first from now on."""
        self._remote = msgspec.structs.replace(self._remote, peers=tuple(addresses))

    def limit(self, budget_bytes: int) -> None:
        """Of all blobs and parts from now on; what nobody holds makes room for it."""
        self._budget_bytes = budget_bytes
        nothing = FileRef(path="nothing", size_bytes=0, sha256=ROOM)
        with self._leases.turn(ROOM, Interest(), ROOM_PATIENCE), contextlib.suppress(DiskFullError):
            self._fit(nothing, self._idle(ROOM))

    def close(self) -> None:
        """Gives up what this process holds."""
        self._leases.close()

    def _blob(self, sha256: str) -> Path:
        return self._home / "blobs" / "sha256" / sha256[:2] / sha256

    def _note(self, sha256: str) -> Path:
        return self._home / "verified" / sha256

    def _part(self, sha256: str) -> Path:
        return self._home / "partial" / sha256

    def _patience(self, file: FileRef) -> Patience:
        """With whoever has its turn: it shows that it fetches; of one that checks, nothing is to be seen meanwhile."""
        part = self._part(file.sha256)
        blocks = part.with_name(part.name + MAP_SUFFIX)
        return Patience(file.path, lambda: _changed_at(blocks), file.size_bytes / SLOWEST_CHECK)

    def _recovered(self, file: FileRef, interest: Interest) -> Path | None:
        """A blob that changed since, or that a kill left without its note: believed again only for its digest."""
        blob = self._blob(file.sha256)
        try:
            return self._verified(blob, file, interest)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in NOT_THE_FILES:
                raise DiskFailedError(f"{file.path} cannot be verified: {error.strerror}") from error
        except WeightsDamagedError:
            pass
        with named(file.path):
            blob.unlink(missing_ok=True)
        return None

    def _adopted(self, file: FileRef, source: Source, interest: Interest) -> Path | None:
        """Verifies a file this host can read and remembers it. None when there is no such file here."""
        if source.kind != "path":
            return None
        try:
            return self._verified(fetch.local_path(source, file).absolute(), file, interest)
        except OSError:
            return None

    def _verified(self, path: Path, file: FileRef, interest: Interest) -> Path:
        before = stamp(path)
        fetch.check_size(str(path.parent), file, path.stat().st_size)
        actual = self.digests.of(path, interest)
        if actual != file.sha256:
            raise WeightsDamagedError(
                f"{file.path} at {path.parent} has the digest {actual[:12]}…, not {file.sha256[:12]}…"
            )
        if stamp(path) != before:
            raise WeightsDamagedError(f"{file.path} changed while it was verified")
        with named(file.path):
            whole.write(self._note(file.sha256), msgspec.json.encode(_Note(path=str(path), stamp=before)))
        return path

    def _downloaded(self, file: FileRef, source: Source, interest: Interest) -> Path:
        with fetch.origins(self._remote, source, file) as origins:
            partial = self._reserved(file, interest)
            try:
                download.fill(partial, origins, file, self._terms, self._pace, interest)
                blob = self._blob(file.sha256)
                partial.publish(blob)
            except (WeightsDamagedError, DiskFullError):
                discard(partial.path)
                raise
            finally:
                partial.close()
        with named(file.path):
            note = _Note(path=str(blob.absolute()), stamp=stamp(blob))
            whole.write(self._note(file.sha256), msgspec.json.encode(note))
        return blob

    # room

    def _reserved(self, file: FileRef, interest: Interest) -> Partial:
        """The partial file with its room on disk, after evicting what nobody holds, longest unwanted first."""
        with self._leases.turn(ROOM, interest, ROOM_PATIENCE):
            idle = self._idle(file.sha256)
            self._fit(file, idle)
            while True:
                try:
                    part = self._part(file.sha256)
                    return Partial(part, file.size_bytes, self._terms.block_bytes, file.path)
                except DiskFullError:
                    discard(self._part(file.sha256))
                    if not any(self._evict(sha256) for sha256 in idle):
                        raise

    def _fit(self, file: FileRef, idle: Iterator[str]) -> None:
        if self._budget_bytes is None:
            return
        others = self.used_bytes(besides=file.sha256)
        while others + file.size_bytes > self._budget_bytes:
            freed = next((freed for freed in map(self._evict, idle) if freed), 0)
            if not freed:
                raise DiskFullError(
                    f"{file.path} needs {file.size_bytes} bytes; of {self._budget_bytes} on disk {others} are in use"
                )
            others -= freed

    def _entries(self) -> Iterator["os.DirEntry[str]"]:
        """Of blobs and parts; not what file systems and people leave in folders."""
        blobs = self._home / "blobs" / "sha256"
        for folder in (*(path for path in blobs.iterdir() if path.is_dir()), self._home / "partial"):
            with os.scandir(folder) as found:
                yield from (entry for entry in found if DIGEST.fullmatch(entry.name))

    def _idle(self, wanted: str) -> Iterator[str]:
        """Looked for when the first one is asked for: most files find room."""
        digests = {entry.name for entry in self._entries()} - {wanted}
        yield from sorted(digests, key=self._wanted_at)

    def _evict(self, sha256: str) -> int:
        """Bytes freed; 0 when somebody holds or fetches it."""
        with self._leases.unless_used(sha256) as unused:
            if not unused:
                return 0
            freed = 0
            for path in (self._blob(sha256), self._part(sha256)):
                try:
                    freed += path.stat().st_size
                    discard(path)
                except FileNotFoundError:
                    continue
            # The note stays: it may speak of an adopted file, and without its file it says nothing.
            return freed


def _changed_at(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _is_at_hand(file: FileRef, source: Source) -> bool:
    return source.kind == "path" and fetch.local_path(source, file).is_file()
