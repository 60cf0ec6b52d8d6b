"""The part of a blob that has arrived: what is marked is not written over, so the digest is of what is on the disk."""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from loaders import download, fetch
from loaders.download import Terms
from loaders.errors import SourceDownError, WeightsDamagedError
from loaders.pace import Pace
from loaders.partial import Partial
from registry.catalog import FileRef

BLOCK = 1 << 16
DATA = os.urandom(4 * BLOCK)
FILE = FileRef(path="w.safetensors", size_bytes=len(DATA), sha256=hashlib.sha256(DATA).hexdigest())
TERMS = Terms(block_bytes=BLOCK, segment_bytes=BLOCK, connections=2, attempts=2, backoff_seconds=0.01)


class WholeOnly:
    """An origin that gives files whole, and these with other bytes where the host has the right ones already."""

    name = "a site"

    @contextlib.contextmanager
    def open(self, start: int, stop: int) -> Iterator[fetch.Opened]:
        yield fetch.Opened(0, self._chunks())

    def _chunks(self) -> Iterator[bytes]:
        yield DATA[: 2 * BLOCK]
        time.sleep(0.2)  # the digest has read the third block as it was
        yield b"?" * BLOCK + DATA[3 * BLOCK :]


class Trickle:
    """An origin that gives a byte now and then."""

    name = "a peer"

    @contextlib.contextmanager
    def open(self, start: int, stop: int) -> Iterator[fetch.Opened]:
        yield fetch.Opened(start, self._chunks(start, stop))

    def _chunks(self, start: int, stop: int) -> Iterator[bytes]:
        for position in range(start, min(stop, start + 100)):
            time.sleep(0.02)
            yield DATA[position : position + 1]
        yield DATA[start + 100 : stop]


class Whole(Trickle):
    """One that gives all at once."""

    def _chunks(self, start: int, stop: int) -> Iterator[bytes]:
        yield DATA[start:stop]


@pytest.fixture
def partial(tmp_path: Path) -> Iterator[Partial]:
    made = Partial(tmp_path / "part", len(DATA), BLOCK, "w.safetensors")
    yield made
    made.close()


def test_an_origin_without_ranges_cannot_change_what_was_verified_before(partial: Partial) -> None:
    partial.write(0, DATA[:BLOCK])
    partial.write(2 * BLOCK, DATA[2 * BLOCK : 3 * BLOCK])
    download.fill(partial, [WholeOnly()], FILE, TERMS, Pace())
    assert partial.path.read_bytes() == DATA


def test_what_it_gives_from_nothing_is_refused(partial: Partial) -> None:
    with pytest.raises(WeightsDamagedError):
        download.fill(partial, [WholeOnly()], FILE, TERMS, Pace())


def test_an_origin_that_gives_a_byte_now_and_then_is_given_up(partial: Partial) -> None:
    terms = msgspec.structs.replace(TERMS, slack_seconds=0.1)
    with pytest.raises(SourceDownError, match="a peer sent"):
        download.fill(partial, [Trickle()], FILE, terms, Pace())


def test_threads_that_could_be_started_bring_all_of_it(
    partial: Partial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container with few threads; none writes on afterwards, when the file's number may be another's."""
    real, started = threading.Thread.start, list[threading.Thread]()

    def start(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    download.fill(partial, [Whole()], FILE, TERMS, Pace())
    assert list(partial.missing(BLOCK)) == []
    assert [thread.is_alive() for thread in started] == [False]
