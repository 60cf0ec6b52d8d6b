"""Resumable uploads: files announced with size and sha256 arrive in chunks, and are believed once they match. IO.

How much arrived is the length of the part file, so nothing is lost when a process dies and nothing is held in
memory. A pickle is refused at its first chunk; a file that is complete but wrong is deleted and can be sent again.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from io import FileIO
from pathlib import Path, PurePosixPath

import msgspec
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession

from registry import folders, tables, weights
from registry.catalog import Caller, FileRef, Record
from registry.desk import may_see
from registry.errors import (
    DigestMismatchError,
    InvalidRequestError,
    StorageError,
    UnknownSubjectError,
    UploadError,
    WeightsError,
)

MAX_FILES = 2000
MAX_FILE_BYTES = 256 << 30
SHA256 = re.compile(r"[0-9a-f]{64}")
PART = ".part"
MOST_NAME_BYTES = 240  # of a file or folder; with `.part` a file system's 255


class UploadBody(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    files: tuple[FileRef, ...]


class Progress(Record, frozen=True, kw_only=True):
    """One announced file and how much of it is here."""

    path: str
    size_bytes: int
    sha256: str
    received_bytes: int
    verified: bool


class Upload(Record, frozen=True, kw_only=True):
    id: str
    files: tuple[Progress, ...]
    complete: bool


def folder_of(home: Path, upload_id: str) -> Path:
    return home.resolve() / "uploads" / upload_id


async def create(session: AsyncSession, caller: Caller, body: UploadBody) -> str:
    for file in body.files:
        _check(file)
    paths = {file.path for file in body.files}
    if not 1 <= len(body.files) <= MAX_FILES or len(paths) < len(body.files):
        raise InvalidRequestError("files", f"from 1 to {MAX_FILES} files with different paths")
    if inside := sorted(_folders(paths) & {name for path in paths for name in (path, path + PART)}):
        raise InvalidRequestError("files.path", f"{inside[0]!r} would be a file and a folder")
    upload_id = secrets.token_hex(12)
    values = {"id": upload_id, "organization": caller.organization, "files": msgspec.to_builtins(body.files)}
    await session.execute(sqlalchemy.insert(tables.uploads).values(**values))
    return upload_id


def _folders(paths: Iterable[str]) -> set[str]:
    return {str(folder) for path in paths for folder in PurePosixPath(path).parents}


def _check(file: FileRef) -> None:
    path = PurePosixPath(file.path)
    plain = path.as_posix() == file.path and not path.is_absolute() and ".." not in path.parts
    fits = all(len(part.encode()) <= MOST_NAME_BYTES for part in path.parts)
    if not plain or "\0" in file.path or len(file.path) > 500 or not fits:
        raise InvalidRequestError("files.path", f"{file.path[:80]!r} is not a plain relative path")
    if path.suffix not in folders.PUBLISHED_SUFFIXES:
        known = ", ".join(sorted(folders.PUBLISHED_SUFFIXES))
        raise InvalidRequestError("files.path", f"{file.path} is none of {known}")
    if not 0 < file.size_bytes <= MAX_FILE_BYTES:
        raise InvalidRequestError("files.size_bytes", f"{file.path}: from 1 to {MAX_FILE_BYTES} bytes")
    if not SHA256.fullmatch(file.sha256):
        raise InvalidRequestError("files.sha256", f"{file.path}: 64 hexadecimal digits")


async def announced(session: AsyncSession, caller: Caller, upload_id: str) -> tuple[FileRef, ...]:
    """Raises `UnknownSubjectError`, also for another organization's."""
    query = sqlalchemy.select(tables.uploads).where(tables.uploads.c.id == upload_id)
    row = (await session.execute(query)).mappings().one_or_none()
    if row is None or not may_see(caller, row["organization"]):
        raise UnknownSubjectError("upload", upload_id)
    return msgspec.convert(row["files"], tuple[FileRef, ...])


def progress(home: Path, upload_id: str, files: Sequence[FileRef]) -> Upload:
    seen = tuple([_progress(folder_of(home, upload_id), file) for file in files])
    return Upload(id=upload_id, files=seen, complete=all(file.verified for file in seen))


def _progress(folder: Path, file: FileRef) -> Progress:
    done = folder / file.path
    part = _part(folder, file.path)
    received = file.size_bytes if done.exists() else part.stat().st_size if part.exists() else 0
    return Progress(
        path=file.path,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        received_bytes=received,
        verified=done.exists(),
    )


def _part(folder: Path, path: str) -> Path:
    return folder / (path + PART)


async def receive(
    home: Path, upload_id: str, file: FileRef, offset: int, chunks: AsyncIterator[bytes]
) -> Progress:
    """Appends what comes.

    Raises `UploadError` with where to go on, `WeightsError` for what is not believed, `StorageError`.
    """
    try:
        return await _receive(folder_of(home, upload_id), file, offset, chunks)
    except OSError as error:
        raise StorageError(file.path, error.strerror or str(error)) from error


async def _receive(folder: Path, file: FileRef, offset: int, chunks: AsyncIterator[bytes]) -> Progress:
    part = _part(folder, file.path)
    if (folder / file.path).exists():
        return _progress(folder, file)
    await asyncio.to_thread(part.parent.mkdir, parents=True, exist_ok=True)
    with _alone(part) as stream:
        here = stream.seek(0, os.SEEK_END)
        if offset != here:
            raise UploadError(f"{file.path} goes on at byte {here}, not {offset}", here)
        try:
            here = await _append(stream, file, here, chunks)
            if here == file.size_bytes:
                await asyncio.to_thread(_believe, part, folder / file.path, file)
        except WeightsError:
            part.unlink(missing_ok=True)
            raise
    return _progress(folder, file)


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[FileIO]:
    with part.open("ab", buffering=0) as stream:  # nothing waits to be written when the disk is full
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UploadError("another request is writing this file", part.stat().st_size) from None
        yield stream


async def _append(stream: FileIO, file: FileRef, here: int, chunks: AsyncIterator[bytes]) -> int:
    async for chunk in chunks:
        if here == 0 and chunk and file.path.endswith(".safetensors") and len(chunk) >= weights.LENGTH_BYTES:
            weights.header_length(chunk[: weights.SNIFF_BYTES])
        if here + len(chunk) > file.size_bytes:
            raise UploadError(f"{file.path} was announced with {file.size_bytes} bytes", here)
        await asyncio.to_thread(_write, stream, chunk)
        here += len(chunk)
    return here


def _write(stream: FileIO, chunk: bytes) -> None:
    """A disk that is nearly full takes a part first."""
    left = memoryview(chunk)
    while left:
        left = left[stream.write(left) :]


def _believe(part: Path, done: Path, file: FileRef) -> None:
    actual = folders.sha256_of(part)
    if actual != file.sha256:
        raise DigestMismatchError(file.path, file.sha256, actual)
    if file.path.endswith(".safetensors"):
        folders.read_index(part)
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    part.rename(done)
