"""A download that nobody waits for any more: it stops, what arrived is kept, and the next who wants it goes on."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loaders.errors import AbandonedError, HostError, NotHereError
from loaders.interest import Interest
from loaders.pace import Pace
from registry.catalog import Source
from tests.hub import Hub
from tests.stores import OPEN, TERMS, WEIGHTS, Stores, local_hub, ref

FILE = ref(WEIGHTS)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with local_hub() as server:
        yield server


@pytest.fixture
def open_store(tmp_path: Path, hub: Hub) -> Iterator[Stores]:
    stores = Stores(tmp_path, hub)
    yield stores
    stores.close()


class Waiting:
    """A call on a thread of its own, and what came of it."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self.outcome: Any = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.outcome = self._call()
        except AbandonedError as error:
            self.outcome = error

    def result(self) -> Any:
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self.outcome


def arrived(home: Path) -> int:
    try:
        return (home / "partial" / f"{FILE.sha256}.blocks").read_bytes().count(1)
    except FileNotFoundError:
        return 0


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_download_that_is_given_up_stops_and_goes_on_where_it_was(
    open_store: Stores, hub: Hub, tmp_path: Path
) -> None:
    interest = Interest()
    slow = open_store(pace=Pace(1 << 19))
    waiting = Waiting(lambda: slow.ensure(FILE, OPEN, interest))
    until(lambda: arrived(tmp_path / "home") >= 4)
    interest.give_up()
    assert isinstance(waiting.result(), AbandonedError)
    kept, asked = arrived(tmp_path / "home"), len(hub.requests)
    assert (4 <= kept < 16, slow.locate(FILE.sha256)) == (True, None)
    time.sleep(0.3)
    assert (arrived(tmp_path / "home"), len(hub.requests)) == (kept, asked)
    assert open_store().ensure(FILE, OPEN).read_bytes() == WEIGHTS
    ranges = [asked.removeprefix("bytes=").split("-") for _, _, asked in hub.requests[asked:] if asked]
    fetched = sum(int(stop) - int(start) + 1 for start, stop in ranges)
    assert fetched == len(WEIGHTS) - kept * TERMS.block_bytes


def test_who_waits_for_anothers_download_may_stop_waiting(open_store: Stores, tmp_path: Path) -> None:
    first, second = Interest(), Interest()
    slow = open_store(pace=Pace(1 << 19))
    fetching = Waiting(lambda: slow.ensure(FILE, OPEN, first))
    until(lambda: arrived(tmp_path / "home") >= 1)
    other = open_store()
    waiting = Waiting(lambda: other.ensure(FILE, OPEN, second))
    second.give_up()
    assert isinstance(waiting.result(), AbandonedError)
    third = Waiting(lambda: other.ensure(FILE, OPEN, Interest()))
    first.give_up()
    assert isinstance(fetching.result(), AbandonedError)
    assert third.result().read_bytes() == WEIGHTS


def test_the_check_of_a_local_file_can_be_given_up(open_store: Stores, tmp_path: Path) -> None:
    (tmp_path / FILE.path).parent.mkdir()
    (tmp_path / FILE.path).write_bytes(WEIGHTS)
    interest = Interest()
    interest.give_up()
    source = Source(kind="path", location=str(tmp_path))
    with pytest.raises(AbandonedError):
        open_store().ensure(FILE, source, interest)
    assert open_store().ensure(FILE, source).read_bytes() == WEIGHTS


def test_what_moves_is_not_silent(open_store: Stores) -> None:
    interest = Interest()
    interest._moved_at -= 1000
    assert interest.silent_seconds() > 999
    open_store().ensure(FILE, OPEN, interest)
    assert interest.silent_seconds() < 100


@pytest.mark.parametrize("how", ["a look", "a wait that is given up", "a drop"])
def test_who_comes_in_vain_leaves_a_download_under_way_its_room(
    open_store: Stores, tmp_path: Path, how: str
) -> None:
    """Leases are one per process: what another thread gave back was everybody's, and the part could be evicted."""
    slow, interest = open_store(pace=Pace(1 << 20)), Interest()
    fetching = Waiting(lambda: slow.ensure(FILE, OPEN))
    until(lambda: arrived(tmp_path / "home") >= 1)
    if how == "a look":
        with pytest.raises(NotHereError):
            slow.here(FILE)
    elif how == "a drop":
        slow.drop(FILE.sha256)
    else:
        waiting = Waiting(lambda: slow.ensure(FILE, OPEN, interest))
        time.sleep(0.1)
        interest.give_up()
        assert isinstance(waiting.result(), AbandonedError)
    assert open_store()._evict(FILE.sha256) == 0
    assert fetching.result().read_bytes() == WEIGHTS
    assert open_store()._evict(FILE.sha256) == 0
    slow.release(FILE.sha256)
    assert open_store()._evict(FILE.sha256) == len(WEIGHTS)


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_process_that_gets_few_threads_downloads_with_those_or_says_so(
    open_store: Stores, monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    store, left, real = open_store(), [allowed], threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "download":
            if not left[0]:
                raise RuntimeError("can't start new thread")
            left[0] -= 1
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    if allowed:
        assert store.ensure(FILE, OPEN).read_bytes() == WEIGHTS
    else:
        with pytest.raises(HostError, match="no more threads"):
            store.ensure(FILE, OPEN)
