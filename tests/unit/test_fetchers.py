"""Calls side by side: never more than so many at once, all of them, and the first failure is who waits for them's."""

import functools
import threading
import time

import pytest

from loaders.errors import SourceDownError
from loaders.fetchers import side_by_side


def test_all_are_made_and_so_many_at_once() -> None:
    now, most, done, lock = 0, 0, [], threading.Lock()

    def call(number: int) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
            done.append(number)

    side_by_side([functools.partial(call, number) for number in range(20)], 4)
    assert (sorted(done), most) == (list(range(20)), 4)
    side_by_side([], 4)


def test_the_first_failure_is_raised_and_nothing_begins_after_it() -> None:
    begun: list[int] = []

    def call(number: int) -> None:
        begun.append(number)
        time.sleep(0.02)
        if number == 1:
            raise SourceDownError("gone")

    with pytest.raises(SourceDownError, match="gone"):
        side_by_side([functools.partial(call, number) for number in range(20)], 2)
    assert len(begun) < 6


@pytest.mark.parametrize("started", [0, 2])
def test_a_process_that_gets_few_threads_makes_them_with_those(
    monkeypatch: pytest.MonkeyPatch, started: int
) -> None:
    real, left, done = threading.Thread.start, [started], []

    def start(thread: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    side_by_side([functools.partial(done.append, number) for number in range(20)], 8)
    assert sorted(done) == list(range(20))
