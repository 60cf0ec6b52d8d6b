"""The shelf with several fetchers: what two want comes once, a failed fetch is gone on with, budgets hold."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from loaders import books
from loaders.errors import AbandonedError, DiskFullError, NoRoomError, NotHereError, SourceDownError
from loaders.interest import Interest
from loaders.protocol import Held, Residency
from loaders.residency import Shelf
from registry.catalog import Digest


class Weights:
    """An item of ten bytes that comes when the test says so."""

    def __init__(self, name: str) -> None:
        self.digest = self.reported = Digest(name)
        self.disk_bytes = 10
        self.aside_bytes = 0
        self.is_on_disk = False
        self.may_come = threading.Event()
        self.fetches = 0
        self.error: Exception | None = None

    def fetch(self, interest: Interest) -> None:
        if self.is_on_disk:
            return
        self.fetches += 1
        while not self.may_come.wait(0.01):
            interest.check()
        if self.error is not None:
            self.error, error = None, self.error
            raise error
        self.is_on_disk = True

    def measure(self) -> int:
        if not self.is_on_disk:
            raise NotHereError(self.digest)
        return 10

    def aside(self) -> int:
        return self.aside_bytes

    def load(self, interest: Interest) -> str:
        self.measure()
        return f"weights of {self.digest}"

    def load_onward(self, interest: Interest) -> tuple[str, str | None]:
        return self.load(interest), None

    def copy(self, payload: Any, interest: Interest) -> Any:
        return payload


def held(shelf: Shelf, name: str, reported: str | None = None) -> Weights:
    """On the device, and nobody uses it."""
    item = Weights(name)
    item.reported = Digest(reported or name)
    item.may_come.set()
    shelf.fetch([item], Interest())()
    shelf.acquire([item], Interest())
    shelf.release([item.digest])
    return item


class Started:
    """A call on a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._outcome: Any = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome = self._call()
        except Exception as error:  # noqa: BLE001
            self._outcome = error

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def outcome(self) -> Any:
        self._thread.join(10)
        assert self.is_over
        return self._outcome


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def told() -> list[Residency]:
    return []


@pytest.fixture
def shelf(told: list[Residency]) -> Shelf:
    budgets: dict[Any, int] = {"disk": 20, "device": 20}
    return Shelf(budgets, on_change=told.append, drop_files=lambda digest, staying: None)


def test_weights_that_are_not_here_are_not_waited_for(shelf: Shelf) -> None:
    with pytest.raises(NotHereError):
        shelf.acquire([Weights("a")], Interest())
    shelf.check_integrity()
    assert shelf.held() == ()


def test_what_two_want_comes_once_and_is_told_once(shelf: Shelf, told: list[Residency]) -> None:
    one = Weights("a")
    fetches = [Started(lambda: shelf.fetch([one], Interest())) for _ in range(3)]
    until(lambda: one.fetches == 1)
    one.may_come.set()
    releases = [fetch.outcome() for fetch in fetches]
    assert (one.fetches, told) == (
        1,
        [Residency(added=(Held(digest=one.digest, tier="disk", size_bytes=10),))],
    )
    for release in releases:
        release()
        release()  # once is enough, twice does no harm
    shelf.check_integrity()
    assert shelf.tiers["disk"].pinned == frozenset()
    assert shelf.acquire([one], Interest()) == ["weights of a"]


@pytest.mark.parametrize("why", ["given up", "failed"])
def test_a_fetch_that_ends_is_gone_on_with_by_who_waits_for_it(shelf: Shelf, why: str) -> None:
    one, interest = Weights("a"), Interest()
    first = Started(lambda: shelf.fetch([one], interest))
    until(lambda: one.fetches == 1)
    second = Started(lambda: shelf.fetch([one], Interest()))
    time.sleep(0.05)
    if why == "failed":
        one.error = SourceDownError("no answer")
        one.may_come.set()
    else:
        interest.give_up()
    assert isinstance(first.outcome(), SourceDownError if why == "failed" else AbandonedError)
    shelf.check_integrity()
    one.may_come.set()
    second.outcome()()
    assert (one.fetches, [held.digest for held in shelf.held()]) == (2, ["a"])


def test_what_never_came_takes_no_room(shelf: Shelf) -> None:
    one, other, interest = Weights("a"), Weights("b"), Interest()
    one.may_come.set()
    fetch = Started(lambda: shelf.fetch([one, other], interest))
    until(lambda: other.fetches == 1)
    interest.give_up()
    assert isinstance(fetch.outcome(), AbandonedError)
    shelf.check_integrity()
    assert (list(shelf.tiers["disk"]), shelf.tiers["disk"].used_bytes) == (["a"], 10)


def test_fetches_side_by_side_keep_to_the_disks_budget_and_wait_for_each_other(shelf: Shelf) -> None:
    items = [Weights(name) for name in "abc"]
    fetches = [Started(lambda item=item: shelf.fetch([item], Interest())) for item in items]
    until(lambda: sum(item.fetches for item in items) == 2)
    time.sleep(0.05)
    assert (shelf.tiers["disk"].used_bytes, sum(item.fetches for item in items)) == (20, 2)
    for item in items:
        item.may_come.set()
    until(lambda: sum(fetch.is_over for fetch in fetches) == 2)
    next(fetch for fetch in fetches if fetch.is_over).outcome()()
    for fetch in fetches:
        fetch.outcome()()
    shelf.check_integrity()
    assert (shelf.tiers["disk"].used_bytes, sum(item.is_on_disk for item in items)) == (20, 3)


def test_who_waits_for_room_may_stop_waiting_and_who_waits_for_nobody_is_refused(shelf: Shelf) -> None:
    one, other = Weights("a"), Weights("b")
    for item in (one, other):
        item.may_come.set()
        shelf.fetch([item], Interest())  # held for ever
    interest = Interest()
    third = Started(lambda: shelf.fetch([Weights("c")], interest))
    time.sleep(0.05)
    assert not third.is_over
    interest.give_up()
    assert isinstance(third.outcome(), AbandonedError)
    with pytest.raises(NoRoomError):
        shelf.fetch([one, other, Weights("c")], Interest())
    shelf.check_integrity()


def test_a_run_is_waited_for_as_long_as_it_takes_and_a_hung_download_is_not(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clip that took more than ten minutes had the next request of its host fail, three times and for good."""
    monkeypatch.setattr(books, "DISK_SECONDS", 0.0)
    running = [held(shelf, name) for name in "ab"]
    shelf.acquire(running, Interest())
    other = Weights("c")
    other.may_come.set()
    shelf.fetch([other], Interest())()
    waiting = Started(lambda: shelf.acquire([other], Interest()))
    time.sleep(0.05)
    assert not waiting.is_over
    shelf.release([running[0].digest])
    assert waiting.outcome() == ["weights of c"]
    hung = [Weights(name) for name in "de"]
    for item in hung:
        item.may_come.set()
        shelf.fetch([item], Interest())  # held for ever
    with pytest.raises(NoRoomError):
        shelf.fetch([Weights("f")], Interest())
    shelf.check_integrity()


def test_files_that_somebody_deleted_are_fetched_again(shelf: Shelf, told: list[Residency]) -> None:
    one = Weights("a")
    one.may_come.set()
    shelf.fetch([one], Interest())()
    one.is_on_disk = False
    with pytest.raises(NotHereError):
        shelf.acquire([one], Interest())
    shelf.fetch([one], Interest())()
    assert shelf.acquire([one], Interest()) == ["weights of a"]
    shelf.check_integrity()
    assert len(told) == 2


def test_what_is_kept_stays_where_something_else_makes_room(shelf: Shelf) -> None:
    kept = held(shelf, "kept")
    shelf.keep([kept.digest], 1000.0)
    for name in "abc":
        held(shelf, name)
        assert set(shelf.tiers["device"]) == set(shelf.tiers["disk"]) == {"kept", name}
    shelf.keep([Digest("nowhere")], 1000.0)
    shelf.tiers["device"].lapse(time.monotonic() + 1001)
    held(shelf, "d")
    assert (set(shelf.tiers["device"]), set(shelf.tiers["disk"])) == ({"c", "d"}, {"kept", "d"})
    shelf.check_integrity()


def test_what_the_router_drops_goes_first_in_whatever_form_it_is_held(shelf: Shelf) -> None:
    held(shelf, "old")
    held(shelf, "cast copy", reported="known")
    shelf.demote([Digest("known")])
    held(shelf, "new")
    assert set(shelf.tiers["device"]) == {"old", "new"}


def test_room_is_made_for_what_a_load_takes_aside_and_given_back(shelf: Shelf) -> None:
    held(shelf, "idle")
    one, device = Weights("converted"), shelf.tiers["device"]
    one.aside_bytes = 10
    one.may_come.set()
    shelf.fetch([one], Interest())()
    load, used = one.load, []

    def watched(interest: Interest) -> str:
        used.append((device.used_bytes, set(device.pinned) > {"converted"}))
        return load(interest)

    one.load = watched  # type: ignore[method-assign]
    shelf.acquire([one], Interest())
    assert (used, set(device), device.used_bytes) == ([(20, True)], {"converted"}, 10)
    shelf.check_integrity()


def test_a_load_that_takes_more_aside_than_there_is_is_refused_and_leaves_nothing(shelf: Shelf) -> None:
    one = Weights("converted")
    one.aside_bytes = 11
    one.may_come.set()
    shelf.fetch([one], Interest())()
    with pytest.raises(NoRoomError):
        shelf.acquire([one], Interest())
    shelf.check_integrity()
    assert shelf.tiers["device"].used_bytes == 0


def test_on_a_disk_that_others_filled_what_is_idle_makes_room(shelf: Shelf) -> None:
    """Within its budget, but the disk has less: until the host let go of its own, each new version was `disk_full`."""
    idle, used = held(shelf, "idle"), Weights("used")
    used.may_come.set()
    shelf.fetch([used], Interest())
    one = Weights("new")
    one.disk_bytes = 0
    one.may_come.set()
    one.error = DiskFullError("no room on disk")
    shelf.fetch([one], Interest())()
    assert (one.fetches, set(shelf.tiers["disk"])) == (2, {"used", "new"})
    shelf.check_integrity()
    other = Weights("other")
    other.disk_bytes = 0
    other.may_come.set()
    other.error = DiskFullError("no room on disk")
    shelf.demote([idle.digest])
    with pytest.raises(DiskFullError):
        shelf.fetch([other], Interest())
    shelf.check_integrity()


def test_a_router_hears_of_weights_in_two_forms_when_the_last_of_them_leaves(
    shelf: Shelf, told: list[Residency]
) -> None:
    for name in ("as stored", "cast"):
        held(shelf, name, reported="known")
    told.clear()
    for left in ("as stored", "cast"):
        assert shelf.evict_one("device")
        shelf.check_integrity()
        assert left not in shelf.tiers["device"]
    assert told == [Residency(removed=(Held(digest=Digest("known"), tier="device", size_bytes=10),))]


def test_who_waits_for_a_fetch_that_hangs_is_told(shelf: Shelf) -> None:
    """A mount that is gone keeps its thread for ever; those who wanted the same waited as long."""
    one, interest, other = Weights("a"), Interest(), Interest()
    over = threading.Event()
    one.fetch = lambda interest: over.wait(10)  # type: ignore[method-assign, assign]
    first = Started(lambda: shelf.fetch([one], interest))
    until(lambda: bool(shelf._flights._under_way))
    interest._moved_at -= 1000
    second = Started(lambda: shelf.fetch([one], other))
    other._moved_at -= 2000
    until(lambda: 900 < other.silent_seconds() < 1100)  # as long as what it waits for
    assert not second.is_over
    interest.give_up()
    assert isinstance(second.outcome(), SourceDownError)
    over.set()
    first.outcome()()
    shelf.check_integrity()


def test_a_fetch_holds_files_and_nothing_nearer(shelf: Shelf) -> None:
    """It waits for the mover, and the mover may be waiting for room: a request stood still for ten minutes."""
    one = held(shelf, "a")
    release = shelf.fetch([one], Interest())
    pinned = {tier: set(cache.pinned) for tier, cache in shelf.tiers.items()}
    assert pinned == {"disk": {"a"}, "device": set()}
    release()
    shelf.check_integrity()


def test_with_memory_between_disk_and_device_loads_take_their_room_there(told: list[Residency]) -> None:
    """As on a host with a GPU."""
    budgets: dict[Any, int] = {"disk": 40, "memory": 30, "device": 20}
    shelf = Shelf(budgets, on_change=told.append, drop_files=lambda digest, staying: None)
    one, used = Weights("converted"), []
    one.aside_bytes = 20
    one.may_come.set()
    one.load = lambda interest: used.append({t: c.used_bytes for t, c in shelf.tiers.items()}) or "w"  # type: ignore[func-returns-value, method-assign, assign]
    for name in ("a", "b"):
        held(shelf, name)
    shelf.fetch([one], Interest())()
    assert shelf.acquire([one], Interest()) == ["w"]
    assert used == [{"disk": 30, "memory": 30, "device": 20}]
    assert {tier: set(cache) for tier, cache in shelf.tiers.items()} == {
        "disk": {"a", "b", "converted"}, "memory": {"converted"}, "device": {"b", "converted"},
    }  # fmt: skip
    shelf.release([one.digest])
    shelf.evict_idle()
    assert shelf.acquire([one], Interest()) == ["w"]  # a copy: nothing is read again
    assert len(used) == 1
    shelf.check_integrity()
