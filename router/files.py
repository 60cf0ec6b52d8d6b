"""The file store: outputs and uploads under unguessable ids in `home/files`, a folder a day. IO, blocking.

An id says its day and its media type, so serving a file asks no database, and a day is dropped by removing its
folder. Files never change once they have an id. It refuses to be a CDN: one machine's disk, streamed.
"""

import contextlib
import hashlib
import re
import secrets
import shutil
from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from loaders.protocol import FILE_ID
from router.errors import UnknownFileError

ID = re.compile(FILE_ID)
SUFFIXES = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "video/mp4": "mp4",
    "video/webm": "webm",
    "audio/wav": "wav",
    "audio/mpeg": "mp3",
    "application/json": "json",
    "application/zip": "zip",
    "text/plain": "txt",
    "application/x-safetensors": "safetensors",
}
WEIGHTS = "application/x-safetensors"
MEDIA_TYPES = {suffix: media_type for media_type, suffix in SUFFIXES.items()}
OPAQUE = "application/octet-stream"  # whatever a browser should not interpret, HTML and SVG among them


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A file that can be served."""

    id: str
    path: Path
    size_bytes: int

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES.get(self.path.suffix[1:], OPAQUE)

    @property
    def is_opaque(self) -> bool:
        return self.media_type == OPAQUE


class FileStore:
    """Files under one root folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._drafts = root / "drafts"  # of every process that shares the home
        self._drafts.mkdir(parents=True, exist_ok=True)

    def draft(self) -> "Draft":
        return Draft(self, self._drafts / secrets.token_hex(16))

    def put(self, content: bytes, media_type: str, now: float) -> str:
        """Store at once; returns the id."""
        draft = self.draft()
        draft.write(content)
        return draft.keep(media_type, now)

    def find(self, file_id: str) -> Stored:
        """Raises `UnknownFileError`."""
        path = self.path(file_id)
        try:
            size_bytes = path.stat().st_size
        except OSError as error:
            raise UnknownFileError(file_id) from error
        return Stored(id=file_id, path=path, size_bytes=size_bytes)

    def renew(self, file_id: str, now: float) -> str:
        """An id under which the same file lies in today's folder, and so stays as long as what is made today.

        Raises `UnknownFileError`.
        """
        found, today = self.find(file_id), f"{datetime.fromtimestamp(now, UTC):%Y%m%d}"
        if file_id.startswith(today):
            return file_id
        fresh_id = f"{today}-{secrets.token_hex(16)}{found.path.suffix}"
        path = self.path(fresh_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(found.path)
        return fresh_id

    def drop(self, file_id: str) -> None:
        """What is gone already is gone."""
        self.path(file_id).unlink(missing_ok=True)

    def drop_all(self, file_ids: Iterable[str]) -> None:
        for file_id in file_ids:
            self.drop(file_id)

    def drop_before(self, day: date) -> int:
        """Remove the folders of older days, and drafts that killed processes left; returns how many days."""
        for draft in self._drafts.iterdir():
            with contextlib.suppress(FileNotFoundError):  # it was kept a moment ago
                if datetime.fromtimestamp(draft.stat().st_mtime, UTC).date() < day:
                    draft.unlink()
        old = [f for f in self._root.iterdir() if f.name.isdigit() and f.name < f"{day:%Y%m%d}"]
        for folder in old:
            shutil.rmtree(folder, ignore_errors=True)
        return len(old)

    def place(self, media_type: str, now: float) -> tuple[str, Path]:
        """A fresh id and where its file shall lie."""
        suffix = SUFFIXES.get(media_type.partition(";")[0].strip().lower(), "bin")
        file_id = f"{datetime.fromtimestamp(now, UTC):%Y%m%d}-{secrets.token_hex(16)}.{suffix}"
        path = self.path(file_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        return file_id, path

    def path(self, file_id: str) -> Path:
        """Where it lies, or will. Raises `UnknownFileError`."""
        match = ID.fullmatch(file_id)
        if match is None:
            raise UnknownFileError(file_id)
        return self._root / match[1] / match[2][:2] / f"{match[2]}.{match[3]}"


class Draft:
    """A file that is being written. Nobody can see it until `keep` gives it an id."""

    def __init__(self, store: FileStore, path: Path) -> None:
        self._store = store
        self._path = path
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, content: bytes) -> None:
        if self._file is None:
            self._file = self._path.open("wb")
        self._file.write(content)
        self._hash.update(content)
        self.size_bytes += len(content)

    def close(self) -> Path:
        """All is written; where it lies until it is kept."""
        if self._file is None:
            self._file = self._path.open("wb")
        self._file.close()
        return self._path

    def keep(self, media_type: str, now: float, file_id: str | None = None) -> str:
        """Under a fresh id, or under one that `place` gave; what lies there already stays."""
        self.close()
        if file_id is None:
            file_id, path = self._store.place(media_type, now)
            self._path.replace(path)
        else:
            with contextlib.suppress(FileExistsError):
                self._store.path(file_id).hardlink_to(self._path)
        return file_id

    def discard(self) -> None:
        """What was not kept goes."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk: what was not written yet is not wanted either
                self._file.close()
            self._path.unlink(missing_ok=True)
