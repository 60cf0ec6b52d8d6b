"""Where bytes come from: opens a file of a version's source as a stream, at an offset.

IO, no disk of its own. Foreign errors are translated here: what the source lacks is
`WeightsMissingError`, what it refuses `WeightsGatedError`, what does not answer `SourceDownError`. It believes
nothing: digests are checked by `store`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec

from loaders.errors import SourceDownError, WeightsGatedError, WeightsMissingError
from registry.catalog import FileRef, Source

CHUNK_BYTES = 1 << 20
TIMEOUT = httpx.Timeout(30.0, connect=10.0)


class Opened(msgspec.Struct, frozen=True):
    """A stream and where it really starts: 0 when the source cannot continue in the middle."""

    offset: int
    chunks: Iterator[bytes]


class Remote(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a host may ask beyond its own disk."""

    hub_endpoint: str | None = None  # None: the library's own default
    hub_token: str | None = None
    router_url: str | None = None
    host_key: str | None = None


def local_path(source: Source, file: FileRef) -> Path:
    root = Path(source.location)
    return root / source.subfolder / file.path if source.subfolder else root / file.path


@contextmanager
def opened(remote: Remote, source: Source, file: FileRef, offset: int) -> Iterator[Opened]:
    """Raises the named errors above, also in the middle of the stream."""
    try:
        with httpx.Client(timeout=TIMEOUT, follow_redirects=True) as client:
            url, headers = _address(remote, source, file)
            if offset:
                headers["Range"] = f"bytes={offset}-"
            with client.stream("GET", url, headers=headers) as response:
                _check(response, source, file)
                starts_at = offset if response.status_code == httpx.codes.PARTIAL_CONTENT else 0
                yield Opened(starts_at, response.iter_raw(CHUNK_BYTES))
    except httpx.HTTPError as error:
        raise SourceDownError(f"{source.location} does not deliver {file.path}: {error}") from error


def _address(remote: Remote, source: Source, file: FileRef) -> tuple[str, dict[str, str]]:
    if source.kind == "hub":
        return _hub_address(remote, source, file)
    if source.kind == "url":
        return f"{source.location.rstrip('/')}/{file.path}", {}
    if remote.router_url is None:
        raise WeightsMissingError(f"{file.path} is not at {source.location}, and there is no router to ask")
    headers = {"Authorization": f"Bearer {remote.host_key}"} if remote.host_key else {}
    return f"{remote.router_url.rstrip('/')}/blobs/{file.sha256}", headers


def _hub_address(remote: Remote, source: Source, file: FileRef) -> tuple[str, dict[str, str]]:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(
        source.location,
        file.path,
        subfolder=source.subfolder,
        revision=source.revision,
        endpoint=remote.hub_endpoint,
    )
    headers = build_hf_headers(token=remote.hub_token or False, library_name="marquee")
    return url, {**headers, "Accept-Encoding": "identity"}


def _check(response: httpx.Response, source: Source, file: FileRef) -> None:
    status = response.status_code
    if status in {401, 403} and source.kind == "hub":
        raise WeightsGatedError(
            f"the Hub does not let this host read {file.path} of {source.location}:"
            " accept its licence and set a token, or check the name"
        )
    if status in {401, 403, 404, 410}:
        raise WeightsMissingError(f"{source.location} has no {file.path} (status {status})")
    if not response.is_success:
        raise SourceDownError(f"{source.location} answered {status} for {file.path}")
