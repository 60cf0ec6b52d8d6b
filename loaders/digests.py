"""What sha256 a file on this machine has, computed once for as long as it looks the same.

IO. A file is known by its path and stamp (inode, size, times), so that a change makes it unknown. What was computed is
kept under a folder of its own: a start with models of many GB does not read them all for their names. It refuses to
know what the files mean.
"""

import contextlib
import hashlib
import os
from pathlib import Path

import msgspec

from loaders import whole
from loaders.errors import WeightsDamagedError
from loaders.interest import Interest
from loaders.partial import digest_of_file

Stamp = tuple[int, int, int, int]
KEPT_FROM_BYTES = 1 << 20  # smaller files are read as fast as what is known of them


def stamp(path: Path) -> Stamp:
    """Inode, size, mtime, ctime. Raises `OSError`."""
    status = path.stat()
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class _Known(msgspec.Struct, frozen=True):
    path: str
    stamp: Stamp
    sha256: str


class Digests:
    """Of files anywhere; what is known lies in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, path: Path, interest: Interest) -> str:
        """Raises `OSError`, `AbandonedError`, and `WeightsDamagedError` where the file changes meanwhile."""
        before = stamp(path)
        name = self._folder / hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            known = msgspec.json.decode(name.read_bytes(), type=_Known)
            if known.stamp == before:
                return known.sha256
        digest = digest_of_file(path, interest)
        if stamp(path) != before:
            raise WeightsDamagedError(f"{path.name} changed while it was verified")
        if before[1] >= KEPT_FROM_BYTES:
            with contextlib.suppress(OSError, UnicodeError):  # then it is computed again
                known = _Known(str(path.absolute()), before, digest)
                whole.write(name, msgspec.json.encode(known))
        return digest
