"""What the Hub says of a file: its signed address, or by name why there is none. IO through `huggingface_hub` alone."""

import re
from urllib.parse import urlsplit

from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers

from loaders.errors import SourceDownError, WeightsDamagedError, WeightsGatedError, WeightsMissingError
from loaders.fetch import Address, Remote, check_size, retry_after
from registry.catalog import FileRef, Source

SHA256 = re.compile(r"[0-9a-f]{64}")  # what the Hub gives as the ETag of large files; small ones have git's
REFUSED = frozenset({401, 403})


def resolve(remote: Remote, source: Source, file: FileRef) -> Address:
    """Raises `WeightsGatedError`, `WeightsMissingError`, `WeightsDamagedError` and `SourceDownError`."""
    try:
        url = hf_hub_url(
            source.location,
            file.path,
            subfolder=source.subfolder,
            revision=source.revision,
            endpoint=remote.hub_endpoint,
        )
        found = get_hf_file_metadata(
            url, token=_token(remote), endpoint=remote.hub_endpoint, library_name="marquee"
        )
    except Exception as error:
        raise _translated(error, source, file) from error
    if found.size is not None:
        check_size(source.location, file, found.size)
    if found.etag and SHA256.fullmatch(found.etag) and found.etag != file.sha256:
        raise WeightsDamagedError(
            f"{source.location} has another {file.path} than was announced: {found.etag[:12]}…"
        )
    same_place = urlsplit(found.location)[:2] == urlsplit(url)[:2]  # the token never leaves the Hub
    return Address(found.location, build_hf_headers(token=_token(remote)) if same_place else {})


def _token(remote: Remote) -> str | bool | None:
    from huggingface_hub import get_token

    return remote.hub_token or get_token() or False


def _translated(error: Exception, source: Source, file: FileRef) -> Exception:
    repo, where = source.location, f"{source.location} at {source.revision or 'main'}"
    for theirs, ours, message in (
        (
            GatedRepoError,
            WeightsGatedError,
            f"{repo} is gated: accept its licence on the Hub and give this host a token that may read it",
        ),
        (RevisionNotFoundError, WeightsMissingError, f"the Hub has no revision {source.revision} of {repo}"),
        (
            RepositoryNotFoundError,
            WeightsMissingError,
            f"the Hub has no {repo}, or it is private and this host's token may not read it",
        ),
        (EntryNotFoundError, WeightsMissingError, f"{where} has no {file.path}"),
        (HFValidationError, WeightsMissingError, f"{repo!r} is no repository's name"),
    ):
        if isinstance(error, theirs):
            return ours(message)
    if not isinstance(error, HfHubHTTPError):
        return SourceDownError(f"the Hub cannot be reached for {where}: {error!r}")
    status = error.response.status_code
    if status in REFUSED:
        return WeightsGatedError(f"the Hub does not let this host read {where}: {error.server_message}")
    return SourceDownError(
        f"the Hub answered {status} for {file.path} of {where}",
        retry_after_seconds=retry_after(error.response.headers),
    )
