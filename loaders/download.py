"""Brings one blob into its partial file: ranged, parallel, resumed, verified while it arrives.

IO: one thread per connection writes segments, the calling thread computes the digest behind them. A connection
that ends early is continued where it stopped; an origin without ranges is read in one stream; an origin that fails
for good makes room for the next. It refuses to know where blobs live and who else wants one.
"""

import queue
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import msgspec
import structlog

from loaders.errors import AbandonedError, HostError, LoaderError, SourceDownError, WeightsDamagedError
from loaders.fetch import Opened, Origin
from loaders.interest import Interest
from loaders.pace import Pace
from loaders.partial import Partial, Segment
from registry import outside
from registry.catalog import FileRef

MAX_WAIT_SECONDS = 60.0  # longest obedience to Retry-After
LOGGED_FROM_BYTES = 64 << 20  # what is smaller is here before anybody looks

log = structlog.get_logger("marquee.store")


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How a download is cut up and how stubborn it is."""

    block_bytes: int = 4 << 20  # what a kill can lose per connection
    segment_bytes: int = 32 << 20  # asked for in one request
    connections: int = 8
    attempts: int = 5  # in a row without a block of progress
    backoff_seconds: float = 0.5
    slack_seconds: float = (
        outside.SLACK_SECONDS
    )  # of waiting that a request may cost beside what its bytes allow
    least_bytes_per_second: int = outside.LEAST_BYTES_PER_SECOND


class _Effort(NamedTuple):
    """How one blob is brought, and for whom."""

    terms: Terms
    pace: Pace
    interest: Interest


class NoRangesError(SourceDownError):
    """The origin only gives whole files."""


def fill(
    partial: Partial,
    origins: Sequence[Origin],
    file: FileRef,
    terms: Terms,
    pace: Pace,
    interest: Interest | None = None,
) -> None:
    """Returns when every byte is there and verified. Raises the last origin's error, or `AbandonedError`."""
    effort = _Effort(terms, pace, interest or Interest())
    with _logged(partial, origins[-1], file):
        _fill(partial, origins, file, effort)


@contextmanager
def _logged(partial: Partial, origin: Origin, file: FileRef) -> Iterator[None]:
    """For whoever looks at a host that does nothing for minutes."""
    if file.size_bytes < LOGGED_FROM_BYTES:
        yield
        return
    began, had_bytes = time.monotonic(), partial.motion().done_bytes
    known = log.bind(file=file.path, source=origin.name)
    known.info("fetching", size_bytes=file.size_bytes, here_bytes=had_bytes)
    try:
        yield
    except LoaderError as error:
        known.warning("not fetched", error=str(error), here_bytes=partial.motion().done_bytes)
        raise
    seconds = time.monotonic() - began
    known.info(
        "fetched", seconds=round(seconds, 1), bytes_per_second=round((file.size_bytes - had_bytes) / seconds)
    )


def _fill(partial: Partial, origins: Sequence[Origin], file: FileRef, effort: _Effort) -> None:
    short_cut = effort._replace(terms=msgspec.structs.replace(effort.terms, attempts=1))
    for origin in origins[:-1]:
        try:
            _fill_from(partial, origin, file, short_cut)
        except AbandonedError:
            raise
        except (LoaderError, OSError):
            continue  # a nearer origin is only a short cut
        return
    _fill_from(partial, origins[-1], file, effort)


def _fill_from(partial: Partial, origin: Origin, file: FileRef, effort: _Effort) -> None:
    """A wrong digest is tried once more from nothing: the wrong bytes may be an earlier try's or a bad cache's."""
    for _ in range(2):
        actual = _bring(partial, origin, effort)
        if actual == file.sha256:
            return
        partial.forget()
    raise WeightsDamagedError(
        f"{file.path} from {origin.name} has the digest {actual[:12]}…, not {file.sha256[:12]}…"
    )


def _bring(partial: Partial, origin: Origin, effort: _Effort) -> str:
    segments = list(partial.missing(effort.terms.segment_bytes))
    try:
        return _Crew(partial, origin, effort).bring(segments)
    except NoRangesError:
        rest = Segment(next(partial.missing(effort.terms.segment_bytes)).start, partial.size_bytes)
        return _Crew(partial, origin, effort, may_skip=True).bring([rest])


class _Crew:
    """Threads that bring segments of one blob from one origin. Used once.

    Daemon threads, so that a process that is told to stop does not wait for a download: it resumes.
    """

    def __init__(self, partial: Partial, origin: Origin, effort: _Effort, *, may_skip: bool = False) -> None:
        self._may_skip = may_skip  # read past what is known, where the origin only gives whole files
        self._partial = partial
        self._origin = origin
        self._terms, self._pace, self._interest = effort
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._todo: queue.SimpleQueue[Segment] = queue.SimpleQueue()

    def bring(self, segments: Sequence[Segment]) -> str:
        """The digest of the whole blob. Raises what made the first thread give up, or `AbandonedError`.

        A thread that waits for a silent origin is waited for, at most as long as it waits itself.
        """
        for segment in segments:
            self._todo.put(segment)
        threads: list[threading.Thread] = []
        try:
            for _ in range(min(self._terms.connections, len(segments))):
                thread = threading.Thread(target=self._work, name="download", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # where threads are counted; those that there are do it all
                    if not threads:
                        raise HostError(f"this process gets no more threads: {error}") from error
                    break
                threads.append(thread)
            digest = self._partial.digest(carry_on=self._is_wanted)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        if digest is None:
            self._interest.check()
            raise self._failure or AssertionError("stopped without a failure")
        return digest

    def _is_wanted(self) -> bool:
        return not self._stop.is_set() and not self._interest.is_given_up

    def _work(self) -> None:
        try:
            while self._is_wanted():
                self._bring(self._todo.get_nowait())
        except queue.Empty:
            return
        except BaseException as error:  # noqa: BLE001 (handed to the thread that waits)
            self._failure = self._failure or error
            self._stop.set()
            self._partial.wake()

    def _bring(self, segment: Segment) -> None:
        position, failures = segment.start, 0
        while position < segment.stop and self._is_wanted():
            reached, error = self._stream(position, segment.stop)
            self._interest.moved()
            failures = 0 if reached - position >= self._terms.block_bytes else failures + 1
            position = reached
            if position < segment.stop and self._is_wanted():
                error = error or SourceDownError(f"{self._origin.name} stopped after {position} bytes")
                if failures >= self._terms.attempts:
                    raise error
                self._stop.wait(self._wait_seconds(error, failures))

    def _stream(self, position: int, stop: int) -> tuple[int, SourceDownError | None]:
        """How far it came, and what ended it early where that was an error."""
        try:
            with self._origin.open(position, stop) as opened:
                for chunk in self._from(position, opened):
                    self._pace.take(len(chunk), self._stop)
                    if not self._is_wanted():
                        break
                    position = self._partial.write(position, chunk[: stop - position])
                    self._interest.moved(self._partial.motion())
                    if position >= stop:
                        break
        except NoRangesError:
            raise
        except SourceDownError as error:
            return position, error
        return position, None

    def _from(self, position: int, opened: Opened) -> Iterator[bytes]:
        skip_bytes = position - opened.offset
        if skip_bytes < 0 or (skip_bytes and not self._may_skip):
            raise NoRangesError(f"{self._origin.name} cannot begin in the middle")
        for chunk in self._timely(opened.chunks):
            yield chunk[skip_bytes:]
            skip_bytes = max(skip_bytes - len(chunk), 0)

    def _timely(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Gives up who sends a byte now and then. Our own pauses (cap, disk) are not the origin's."""
        waited_seconds, received_bytes = 0.0, 0
        began = time.monotonic()
        for chunk in chunks:
            waited_seconds += time.monotonic() - began
            received_bytes += len(chunk)
            if (
                waited_seconds
                > self._terms.slack_seconds + received_bytes / self._terms.least_bytes_per_second
            ):
                raise SourceDownError(
                    f"{self._origin.name} sent {received_bytes} bytes in {waited_seconds:.0f} s"
                )
            yield chunk
            began = time.monotonic()

    def _wait_seconds(self, error: SourceDownError, failures: int) -> float:
        if error.retry_after_seconds is not None:
            return min(error.retry_after_seconds, MAX_WAIT_SECONDS)
        exponential: float = self._terms.backoff_seconds * 2 ** max(failures - 1, 0)
        return exponential * random.uniform(0.5, 1.5)  # noqa: S311 (spreads the tries of many hosts)
