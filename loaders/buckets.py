"""Files in object stores (S3 and whatever speaks it, Google, Azure), through `obstore`: the extra `s3`.

IO. Credentials, region and endpoint are the library's business: it reads the usual environment (AWS_…) and the
machine's role. Imported only when a version's files lie in a bucket.
"""

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from loaders.errors import HostError, SourceDownError, WeightsGatedError, WeightsMissingError
from loaders.fetch import Opened, check_size
from registry.catalog import FileRef

CHUNK_BYTES = 1 << 20
SILENT_SECONDS = 30.0
LONGEST_SECONDS = 3600.0  # of one request; a slow line or a cap has segments take minutes


class Bucket:
    """One file of a bucket: `s3://bucket/prefix` and a path below it."""

    def __init__(self, location: str, path: str, file: FileRef) -> None:
        self.name = location
        self._file = file
        address = urlsplit(location)
        self._key = posixpath.join(address.path.strip("/"), path)
        self._store = _store(f"{address.scheme}://{address.netloc}")

    @contextmanager
    def open(self, start: int, stop: int) -> Iterator[Opened]:
        import obstore
        from obstore import exceptions

        try:
            found = obstore.get(self._store, self._key, options={"range": (start, stop)})
            check_size(self.name, self._file, found.meta["size"])
            yield Opened(found.range[0], (bytes(chunk) for chunk in found.stream(CHUNK_BYTES)))
        except (FileNotFoundError, exceptions.NotFoundError) as error:
            raise WeightsMissingError(f"{self.name} has no {self._file.path}") from error
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise WeightsGatedError(f"{self.name} does not let this host read {self._file.path}") from error
        except exceptions.BaseError as error:
            raise SourceDownError(f"{self.name} does not deliver {self._file.path}: {error}") from error


def _store(root: str) -> Any:
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise HostError(f"reading {root} needs another package: pip install 'marquee[s3]'") from error
    return from_url(
        root,
        client_options={
            "allow_http": True,  # an endpoint of one's own may be
            "read_timeout": timedelta(seconds=SILENT_SECONDS),
            "timeout": timedelta(seconds=LONGEST_SECONDS),
        },
        retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=30)},  # `download` tries again
    )
