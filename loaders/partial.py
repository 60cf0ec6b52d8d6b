"""The part of a blob that has arrived: a file of its final size and a map beside it with one byte per block.

IO on the disk alone. The map is written after its block, so a kill at any moment loses at most the blocks under
way; what power loss may have torn, the digest finds. Disk space is taken before the first byte is asked for.
"""

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from loaders.errors import DiskFailedError, DiskFullError
from loaders.interest import Interest
from loaders.motion import Motion

ARRIVED = b"\1"
DIGEST_BYTES = 1 << 20  # read at a time
MAP_SUFFIX = ".blocks"
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
CANNOT_RESERVE = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


class Segment(msgspec.Struct, frozen=True):
    """Missing bytes that are asked for in one request; `start` is a block's."""

    start: int
    stop: int


class Partial:
    """One blob on its way. Threads write different segments; one thread reads what has arrived."""

    def __init__(self, path: Path, size_bytes: int, block_bytes: int, label: str) -> None:
        """Takes the room on disk. Raises `DiskFullError` and `DiskFailedError`."""
        self.path = path
        self.size_bytes = size_bytes
        self._label = label
        self._block_bytes = block_bytes
        self._map_path = path.with_name(path.name + MAP_SUFFIX)
        count = -(-size_bytes // block_bytes)
        with named(label):
            arrived = self._read_map(count)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                _reserve(self._file, size_bytes)
                self._map = _sized(self._map_path, count)
            except OSError:
                os.close(self._file)
                raise
        self._arrived = bytearray(arrived)
        self._changed = threading.Condition()

    def missing(self, segment_bytes: int) -> Iterator[Segment]:
        start = 0
        while start < self.size_bytes:
            stop = start
            while stop < self.size_bytes and stop - start < segment_bytes and not self._has(stop):
                stop = min(stop + self._block_bytes, self.size_bytes)
            if stop > start:
                yield Segment(start, stop)
            start = max(stop, start + self._block_bytes) if stop == start else stop

    def write(self, position: int, data: bytes) -> int:
        """Returns the position after it. Blocks count as arrived when their last byte is written.

        What arrived before stays as it is: its digest may have been taken already.
        """
        with named(self._label):
            view = memoryview(data)
            while view:
                room = self._block_bytes - position % self._block_bytes
                piece = view[:room]
                written = len(piece) if self._has(position) else os.pwrite(self._file, piece, position)
                view = view[written:]
                position += written
                if position % self._block_bytes == 0 or position == self.size_bytes:
                    self._mark((position - 1) // self._block_bytes)
        return position

    def digest(self, *, carry_on: Callable[[], bool]) -> str | None:
        """sha256 of the whole, computed while it arrives. None when `carry_on` said no before it was whole."""
        digest = hashlib.sha256()
        position = 0
        while position < self.size_bytes:
            with self._changed:
                while not self._has(position):
                    if not carry_on():
                        return None
                    self._changed.wait(0.5)
            with named(self._label):
                data = os.pread(self._file, min(self._block_bytes, self.size_bytes - position), position)
            if not data:
                raise DiskFailedError(f"{self._label} lost bytes on this disk")
            digest.update(data)
            position += len(data)
        return digest.hexdigest()

    def wake(self) -> None:
        """Makes `digest` ask `carry_on` now."""
        with self._changed:
            self._changed.notify_all()

    def publish(self, blob: Path) -> None:
        """Visible under its name, all at once, and only after it is on the disk."""
        with named(self._label):
            os.fsync(self._file)
            blob.parent.mkdir(parents=True, exist_ok=True)
            self.path.replace(blob)
            self._map_path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Nothing has arrived."""
        with self._changed, named(self._label):
            os.ftruncate(self._map, 0)
            os.ftruncate(self._map, len(self._arrived))
            self._arrived = bytearray(len(self._arrived))

    def close(self) -> None:
        os.close(self._file)
        os.close(self._map)

    def motion(self) -> Motion:
        """What has arrived, in whole blocks."""
        done_bytes = min(self._arrived.count(ARRIVED) * self._block_bytes, self.size_bytes)
        return Motion(kind="fetch", name=self._label, done_bytes=done_bytes, size_bytes=self.size_bytes)

    def _has(self, position: int) -> bool:
        return self._arrived[position // self._block_bytes] == ARRIVED[0]

    def _mark(self, block: int) -> None:
        os.pwrite(self._map, ARRIVED, block)
        with self._changed:
            self._arrived[block] = ARRIVED[0]
            self._changed.notify_all()

    def _read_map(self, count: int) -> bytes:
        """Nothing has arrived when file and map do not fit each other or this size."""
        try:
            known = self._map_path.read_bytes()
            if len(known) == count and self.path.stat().st_size == self.size_bytes:
                return known
        except FileNotFoundError:
            pass
        discard(self.path)
        return bytes(count)


def digest_of_file(path: Path, interest: Interest) -> str:
    """sha256 of what is there already. Raises `AbandonedError` when nobody waits for it any more."""
    digest, buffer, done_bytes = hashlib.sha256(), bytearray(DIGEST_BYTES), 0
    with path.open("rb", buffering=0) as file:
        size_bytes, name = os.fstat(file.fileno()).st_size, "/".join(path.parts[-2:])
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            done_bytes += count
            interest.moved(Motion(kind="check", name=name, done_bytes=done_bytes, size_bytes=size_bytes))
            interest.check()
    return digest.hexdigest()


def discard(path: Path) -> None:
    """The map goes first: bytes without a map are never believed."""
    path.with_name(path.name + MAP_SUFFIX).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


@contextmanager
def named(what: str) -> Iterator[None]:
    """The disk's errors under our names."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFullError(f"no room on disk for {what}: {error.strerror}") from error
        raise DiskFailedError(f"the disk fails at {what}: {error}") from error


def _sized(path: Path, size_bytes: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.ftruncate(descriptor, size_bytes)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _reserve(descriptor: int, size_bytes: int) -> None:
    try:
        if size_bytes:
            os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        if error.errno not in CANNOT_RESERVE:
            raise
        os.ftruncate(descriptor, size_bytes)
