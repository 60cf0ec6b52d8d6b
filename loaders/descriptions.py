"""The versions and adapters that this host was told of, kept on disk so that a restart is no amnesia.

IO under `home/descriptions/`. It refuses to know where weights are.
"""

import contextlib
import os
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog
from msgspec.structs import replace

from loaders import whole
from loaders.errors import HostError
from loaders.protocol import DescribeAdapter, DescribeVersion
from registry.catalog import AdapterManifest, Digest, FileRef, Manifest

log = structlog.get_logger("marquee.descriptions")

MOST_KEPT = 20_000  # over a restart

Description = DescribeVersion | DescribeAdapter


class Descriptions:
    """By digest. Written whole, so a kill leaves the old or the new one."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "descriptions"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[Digest, Description] = {}
        self._files: dict[Digest, tuple[FileRef, ...]] = {}  # of components and adapters
        self._users: dict[str, set[Digest]] = {}  # of files, by sha256
        for path in self._latest():
            try:
                found = msgspec.msgpack.decode(path.read_bytes(), type=Description)
            except msgspec.MsgspecError:  # written by another release: the router describes it again
                path.unlink()
                continue
            self._know(found)

    def add(self, description: Description) -> None:
        description = self._of_one_architecture(description)
        if self._known.get(description.digest) == description:
            return
        if description.digest != description.manifest.digest:  # it becomes a file's name, and an assignment's
            log.warning("a description is not of what it says", digest=description.digest)
            return
        self._know(description)
        try:
            whole.write(self._path(description.digest), msgspec.msgpack.encode(description))
        except OSError as error:  # after a restart the router describes it again
            log.warning("a description is not kept", error=str(error))

    def _of_one_architecture(self, description: Description) -> Description:
        """One LoRA file may be published for bases of two architectures. What is parsed of it bears its name alone for
        the architecture that it was described with first, and must not be taken for what is parsed for another.
        """
        known = self._known.get(description.digest)
        if not isinstance(known, DescribeAdapter) or not isinstance(description, DescribeAdapter):
            return description
        first = known.manifest.architecture
        return replace(description, manifest=replace(description.manifest, architecture=first))

    def known(self) -> tuple[Digest, ...]:
        return tuple(self._known)

    def version(self, digest: Digest) -> tuple[Manifest, Mapping[str, Any]]:
        """Raises `HostError` when the router never described it."""
        found = self._used(digest)
        if not isinstance(found, DescribeVersion):
            raise HostError(f"the version {digest} was not described to this host")
        return found.manifest, found.defaults

    def adapter(self, digest: Digest) -> AdapterManifest:
        """Raises `HostError` when the router never described it."""
        found = self._used(digest)
        if not isinstance(found, DescribeAdapter):
            raise HostError(f"the adapter {digest} was not described to this host")
        return found.manifest

    def weight_files(self) -> tuple[tuple[Digest, tuple[FileRef, ...]], ...]:
        """Every component and adapter with its weight files; what two versions share comes once."""
        return tuple(self._files.items())

    def files_of(self, digest: Digest, staying: Container[Digest]) -> Iterator[FileRef]:
        """A component's or adapter's, but for those that something of what stays is made of too."""
        for file in self._files.get(digest, ()):
            if not any(user in staying for user in tuple(self._users[file.sha256])):
                yield file

    def _path(self, digest: Digest) -> Path:
        return self._folder / f"{digest.removeprefix('sha256:')}.msgpack"

    def _used(self, digest: Digest) -> Description | None:
        found = self._known.get(digest)
        if found is not None:
            with contextlib.suppress(OSError):
                os.utime(self._path(digest))
        return found

    def _latest(self) -> list[Path]:
        """Used or described last; the rest is forgotten, and described again where it is wanted."""
        by_age = sorted(
            self._folder.glob("*.msgpack"), key=lambda path: (path.stat().st_mtime, path.name), reverse=True
        )
        for path in by_age[MOST_KEPT:]:
            path.unlink(missing_ok=True)
        return by_age[:MOST_KEPT]

    def _know(self, description: Description) -> None:
        self._known[description.digest] = description
        for digest, files in _weights(description):
            if digest not in self._files:
                for file in files:
                    self._users.setdefault(file.sha256, set()).add(digest)
                self._files[digest] = files


def _weights(found: Description) -> tuple[tuple[Digest, tuple[FileRef, ...]], ...]:
    if isinstance(found, DescribeAdapter):
        return ((found.manifest.digest, (found.manifest.weights,)),)
    return tuple((component.digest, component.weights) for component in found.manifest.components)
