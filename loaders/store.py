"""The disk tier: files by the sha256 of their bytes, under `home/blobs/sha256/`.

IO. A blob is verified while it arrives and visible only when whole (atomic rename); a kill leaves a part that the
next try continues. Two processes that want one blob wait for each other on a file lock. A file that the host can
already read stays where it is: it is verified once and remembered by its stamp (inode, size, times), so that a
change makes it unknown again. It refuses to know what the files mean.
"""

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from loaders import fetch
from loaders.errors import DiskFullError, SourceDownError, WeightsDamagedError
from registry.catalog import FileRef, Source

ATTEMPTS = 4
BACKOFF_SECONDS = 0.5


class _Reference(msgspec.Struct, frozen=True, kw_only=True):
    """A verified file that is not ours, and how it looked when it was verified."""

    path: str
    stamp: tuple[int, int, int, int]


class Store:
    """Blobs of one home. Safe to use from several threads and processes."""

    def __init__(self, home: Path, *, remote: fetch.Remote | None = None) -> None:
        self._home = home
        self._remote = remote or fetch.Remote()
        for folder in ("blobs/sha256", "references", "partial", "locks"):
            (home / folder).mkdir(parents=True, exist_ok=True)

    def locate(self, sha256: str) -> Path | None:
        """Where the verified bytes are on this disk, if they are."""
        blob = self._blob(sha256)
        return blob if blob.exists() else self._referenced(sha256)

    def ensure(self, file: FileRef, source: Source) -> Path:
        """The verified bytes, fetched when missing. Raises the named errors of `fetch` and this module."""
        found = self.locate(file.sha256)
        if found is not None:
            return found
        with self._single_flight(file.sha256):
            found = self.locate(file.sha256) or self._adopt(file, source)
            return found or self._download(file, source)

    def drop(self, sha256: str) -> None:
        """Forgets a blob; referenced files are left alone."""
        self._blob(sha256).unlink(missing_ok=True)

    def used_bytes(self) -> int:
        return sum(path.stat().st_size for path in (self._home / "blobs").rglob("*") if path.is_file())

    def _blob(self, sha256: str) -> Path:
        return self._home / "blobs" / "sha256" / sha256[:2] / sha256

    def _referenced(self, sha256: str) -> Path | None:
        try:
            note = msgspec.json.decode((self._home / "references" / sha256).read_bytes(), type=_Reference)
            path = Path(note.path)
            return path if _stamp(path) == note.stamp else None
        except (OSError, msgspec.MsgspecError):
            return None

    def _adopt(self, file: FileRef, source: Source) -> Path | None:
        """Verifies a file this host can read and remembers it. None when there is no such file here."""
        if source.kind != "path":
            return None
        path = fetch.local_path(source, file).absolute()
        try:
            before = _stamp(path)
            _check_digest(_digest_of(path), path.stat().st_size, file)
            if _stamp(path) != before:
                raise WeightsDamagedError(f"{file.path} changed while it was verified")
        except OSError:
            return None
        note = msgspec.json.encode(_Reference(path=str(path), stamp=before))
        _write_whole(self._home / "references" / file.sha256, note)
        return path

    def _download(self, file: FileRef, source: Source) -> Path:
        part = self._home / "partial" / file.sha256
        for attempt in range(ATTEMPTS):
            try:
                self._continue_download(part, file, source)
                break
            except SourceDownError:
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(BACKOFF_SECONDS * 2**attempt)
        blob = self._blob(file.sha256)
        blob.parent.mkdir(parents=True, exist_ok=True)
        part.replace(blob)
        return blob

    def _continue_download(self, part: Path, file: FileRef, source: Source) -> None:
        have_bytes = part.stat().st_size if part.exists() else 0
        if have_bytes > file.size_bytes:
            part.unlink()
            have_bytes = 0
        try:
            if have_bytes < file.size_bytes or not file.size_bytes:
                self._stream(part, file, source, have_bytes)
            _check_digest(_digest_of(part), part.stat().st_size, file)
        except WeightsDamagedError:
            part.unlink(missing_ok=True)
            raise
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise DiskFullError(f"no room on disk for {file.path} ({file.size_bytes} bytes)") from error
            raise

    def _stream(self, part: Path, file: FileRef, source: Source, have_bytes: int) -> None:
        with (
            fetch.opened(self._remote, source, file, have_bytes) as stream,
            part.open("r+b" if part.exists() else "wb") as out,
        ):
            out.truncate(stream.offset)
            out.seek(stream.offset)
            written = stream.offset
            for chunk in stream.chunks:
                written += len(chunk)
                if written > file.size_bytes:
                    raise WeightsDamagedError(f"{file.path} is longer than its {file.size_bytes} bytes")
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
        if written < file.size_bytes:
            raise SourceDownError(f"{source.location} stopped {file.path} after {written} bytes")

    @contextmanager
    def _single_flight(self, sha256: str) -> Iterator[None]:
        with (self._home / "locks" / sha256).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _stamp(path: Path) -> tuple[int, int, int, int]:
    status = path.stat()
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_digest(actual: str, size_bytes: int, file: FileRef) -> None:
    if actual != file.sha256:
        raise WeightsDamagedError(
            f"{file.path} has the digest {actual[:12]}… ({size_bytes} bytes), not {file.sha256[:12]}…"
            f" ({file.size_bytes} bytes)"
        )


def _write_whole(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)
