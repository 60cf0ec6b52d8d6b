"""Who uses and who fetches which blob, known to every process on the machine.

IO. Record locks on one file per purpose, one byte per blob (its digest is the offset): the kernel drops them when a
process dies, however it dies, and a thousand of them cost one open file. Linux only (open-file-description locks).
It refuses to know where blobs are.
"""

import fcntl
import os
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from loaders.errors import SourceDownError
from loaders.interest import Interest

FLOCK = "hhqqi4x"  # type, whence, start, length, pid
FIRST_LOOK_SECONDS, LOOK_SECONDS = 0.002, 0.1  # between two tries of somebody who may stop waiting
SILENT_SECONDS = 300.0  # that who has the turn may show nothing
OFFSET_DIGITS = 15  # 60 bits of the digest: offsets are signed 64-bit numbers


class Patience(msgspec.Struct, frozen=True):
    """With another thread or process, which may be stopped, or hang in a mount that is gone."""

    what: str
    sign: Callable[[], object] = lambda: None  # another answer shows that it moves
    more_seconds: float = 0.0  # for what can show nothing
    seconds: float = SILENT_SECONDS


class Leases:
    """Shared leases for users, exclusive turns for whoever fetches or evicts."""

    def __init__(self, folder: Path) -> None:
        self._uses = folder / "uses"
        self._turns = folder / "turns"
        self._turns.touch()
        self._mine = _open(self._uses)
        self._trying: Counter[str] = Counter()  # threads of this process that bring a blob, or wait for it
        self._lock = threading.Lock()

    def hold(self, sha256: str) -> None:
        """From now on nobody evicts it, until `release` or the end of this process. Idempotent."""
        _lock(self._mine, fcntl.F_RDLCK, sha256, wait=True)  # for who evicts it at this moment

    @contextmanager
    def tried(self, sha256: str) -> Iterator[None]:
        """Held from now on, unless the block fails and no other thread of this process is trying the same."""
        with self._lock:
            self._trying[sha256] += 1
            self.hold(sha256)
        try:
            yield
        except BaseException:
            with self._lock:
                if self._trying[sha256] == 1:
                    _lock(self._mine, fcntl.F_UNLCK, sha256)
            raise
        finally:
            with self._lock:
                self._trying[sha256] -= 1
                if not self._trying[sha256]:
                    del self._trying[sha256]

    def release(self, sha256: str) -> None:
        """Not while a thread of this process brings it for somebody else."""
        with self._lock:
            if sha256 not in self._trying:
                _lock(self._mine, fcntl.F_UNLCK, sha256)

    @contextmanager
    def unless_used(self, sha256: str) -> Iterator[bool]:
        """True while nobody uses it, this process included; nobody can begin to inside the block."""
        with _opened(self._uses) as descriptor:
            yield _lock(descriptor, fcntl.F_WRLCK, sha256)

    @contextmanager
    def turn(self, sha256: str, interest: Interest, patience: Patience) -> Iterator[None]:
        """One at a time, over threads and processes. Waits, or raises `AbandonedError`, or `SourceDownError` where the
        other shows nothing for too long.
        """
        with _opened(self._turns) as descriptor:
            look_seconds, seen, since = FIRST_LOOK_SECONDS, patience.sign(), time.monotonic()
            while not _lock(descriptor, fcntl.F_WRLCK, sha256):
                interest.pause(look_seconds)
                interest.check()
                look_seconds = min(look_seconds * 2, LOOK_SECONDS)
                if (sign := patience.sign()) != seen:
                    seen, since = sign, time.monotonic()
                _check_patience(patience, time.monotonic() - since)
            yield

    def close(self) -> None:
        """Gives up every lease. Once is enough."""
        if self._mine == -1:
            return
        mine, self._mine = self._mine, -1  # whoever comes later must not lock a file that got its number
        os.close(mine)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A description of its own, so that threads of one process exclude each other as well."""
    descriptor = _open(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _check_patience(patience: Patience, silent_seconds: float) -> None:
    if silent_seconds > patience.seconds + patience.more_seconds:
        raise SourceDownError(
            f"another process or thread of this machine has been at {patience.what} for {silent_seconds:.0f} seconds and"
            " shows no progress: it hangs, or was stopped"
        )


def _lock(descriptor: int, kind: int, sha256: str, *, wait: bool = False) -> bool:
    start = int(sha256[:OFFSET_DIGITS], 16)
    request = struct.pack(FLOCK, kind, os.SEEK_SET, start, 1, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, request)
    except BlockingIOError:
        return False
    return True
