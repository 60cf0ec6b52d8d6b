"""Manifests of repositories on the Hub, without fetching their weights: file lists, digests, safetensors headers. IO.

The Hub's client does the talking; what it says is checked as far as headers go. Bytes are verified by whoever
fetches them.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from registry import adapter_files, folders, weights
from registry.catalog import AdapterManifest, Digest, FileRef, Manifest, Record, Slug, Source
from registry.errors import FolderError, GatedError, HubError, HubSilentError, TruncatedError, WeightsError

TIMEOUT_SECONDS = 30.0
OVERLOADED = frozenset({408, 425, 429})


class Endpoint(Record, frozen=True, kw_only=True):
    """Which Hub, as whom. None: the client library's own default."""

    url: str | None = None
    token: str | None = None


class Repository:
    """One repository at one commit, as a `folders.Tree`. Raises `HubError`."""

    def __init__(self, endpoint: Endpoint, source: Source, counted: folders.Counted | None = None) -> None:
        self.name = source.location
        self._endpoint = endpoint
        self._counted = counted or folders.Counted()
        self._prefix = f"{source.subfolder}/" if source.subfolder else ""
        info = _info(endpoint, source)
        self.commit: str = info.sha
        self._files = {
            sibling.rfilename.removeprefix(self._prefix): sibling
            for sibling in info.siblings or ()
            if sibling.rfilename.startswith(self._prefix)
        }

    def paths(self) -> Sequence[str]:
        return sorted(self._files)

    def read(self, path: str) -> bytes:
        if path not in self._files:
            raise FolderError(self.name, f"{path} is missing")
        if (self._files[path].size or 0) > folders.MAX_JSON_BYTES:
            raise FolderError(self.name, f"{path} is too large")
        return self._get(path)

    def ref(self, path: str) -> FileRef:
        """Large files are named by the Hub with their sha256; small ones are read and hashed."""
        file = self._files[path]
        if file.lfs is not None:
            return FileRef(path=path, size_bytes=file.size, sha256=file.lfs.sha256)
        content = self.read(path)
        return FileRef(path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())

    def index(self, path: str) -> weights.Index:
        try:
            start = self._get(path, 0, weights.SNIFF_BYTES)
            length = weights.header_length(start)
            end = weights.LENGTH_BYTES + length
            whole = start if len(start) >= end else self._get(path, 0, end)
            if len(whole) < end:
                raise TruncatedError("the file ends inside its header")
            return weights.check(whole[weights.LENGTH_BYTES : end], self._files[path].size)
        except WeightsError as error:
            error.add_note(path)
            raise

    def size_of(self, path: str) -> int:
        return int(self._files[path].size or 0)

    @contextlib.contextmanager
    def opened(self, path: str, begin: int = 0, end: int | None = None) -> Iterator[Iterator[bytes]]:
        """A file's bytes as they come."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(self.name, self._prefix + path, revision=self.commit, endpoint=self._endpoint.url)
        headers = build_hf_headers(token=self._endpoint.token or False, library_name="marquee")
        headers["Accept-Encoding"] = "identity"
        if end is not None:
            headers["Range"] = f"bytes={begin}-{end - 1}"
        try:
            with httpx.stream(
                "GET", url, headers=headers, follow_redirects=True, timeout=TIMEOUT_SECONDS
            ) as answer:
                self._check(answer, path)
                yield answer.iter_bytes()
        except httpx.HTTPError as error:
            raise HubSilentError(self.name, f"the Hub does not deliver {path}: {error}") from error

    def _check(self, answer: httpx.Response, path: str) -> None:
        if answer.status_code in {401, 403}:
            raise GatedError(self.name)
        if not answer.is_success:
            kind = HubSilentError if answer.status_code in OVERLOADED or answer.is_server_error else HubError
            raise kind(self.name, f"the Hub answered {answer.status_code} for {path}")

    def _get(self, path: str, begin: int = 0, end: int | None = None) -> bytes:
        with self.opened(path, begin, end) as chunks:
            content = b"".join(chunks)
        self._counted.bytes += len(content)
        return content


def _info(endpoint: Endpoint, source: Source) -> Any:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    api = HfApi(endpoint=endpoint.url, token=endpoint.token or False)
    try:
        return api.model_info(
            source.location, revision=source.revision, files_metadata=True, timeout=TIMEOUT_SECONDS
        )
    except HFValidationError as error:
        raise HubError(source.location, "no name of a repository, which is owner/repo") from error
    except GatedRepoError as error:
        raise GatedError(source.location) from error
    except RevisionNotFoundError as error:
        raise HubError(source.location, f"it has no revision {source.revision}") from error
    except RepositoryNotFoundError as error:
        raise HubError(source.location, "the Hub knows no such repository, or it wants a token") from error
    except Exception as error:  # whichever HTTP library the client is built on has errors of its own
        reason = str(error).strip().splitlines()
        raise HubSilentError(
            source.location,
            f"the Hub does not answer ({reason[0] if reason else repr(error)}); check the name, that this machine reaches"
            " the Hub, and MARQUEE_HUB_ENDPOINT",
        ) from error


def read_pipeline(endpoint: Endpoint, source: Source) -> Manifest:
    """A pipeline's manifest, its source pinned to the commit it was read at. Raises `HubError`, `WeightsError`."""
    tree = Repository(endpoint, source)
    return folders.read_tree(tree, pinned(source, tree))


def read_adapter(
    endpoint: Endpoint, source: Source, weight_name: str | None, base: Slug, architecture: Digest
) -> AdapterManifest:
    """A LoRA's manifest. Without a file name the repository must hold exactly one safetensors file."""
    tree = Repository(endpoint, source)
    file = adapter_files.adapter_file(tree, weight_name)
    return adapter_files.adapter_of(tree, pinned(source, tree), file, base, architecture)


def pinned(source: Source, tree: Repository) -> Source:
    """The source at the commit it was read at."""
    return Source(kind="hub", location=source.location, revision=tree.commit, subfolder=source.subfolder)
