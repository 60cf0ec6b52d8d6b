"""The mover: who has all it needs does not wait for who has not; who is given up hears it at once; nothing hangs it."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from loaders.errors import AbandonedError, CancelledError, SourceDownError
from loaders.interest import Interest
from loaders.mover import PREWARMS_AT_ONCE, REQUESTS_AT_ONCE, Errand, Mover, Steps


class Diary:
    """What happened, in order; tests wait for it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        self.lines.append(line)

    def until(self, *lines: str) -> None:
        deadline = time.monotonic() + 10
        while not set(lines) <= set(self.lines):
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.005)


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What errands wait for."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def start() -> Iterator[Callable[..., Mover]]:
    made: list[tuple[Mover, threading.Thread]] = []

    def call(**options: Any) -> Mover:
        mover = Mover(**options)
        made.append((mover, threading.Thread(target=mover.run)))
        made[-1][1].start()
        return mover

    yield call
    for mover, thread in made:
        mover.close()
        thread.join(10)
        assert not thread.is_alive()


def steps(diary: Diary, name: str, *errands: Errand) -> Steps:
    try:
        diary.write(f"{name} begins")
        for errand in errands:
            diary.write(f"{name} gets {yield errand}")
    except GeneratorExit:
        raise
    except BaseException as error:  # noqa: BLE001
        diary.write(f"{name} hears {type(error).__name__}")
        return
    diary.write(f"{name} ends")


def waiting(diary: Diary, gate: threading.Event, name: str = "errand") -> Errand:
    def work() -> str:
        diary.write(f"{name} begins")
        gate.wait(10)
        return name

    return Errand(work, lambda result: diary.write(f"{result} undone"))


def test_who_has_all_it_needs_overtakes_who_fetches(
    start: Callable[..., Mover], diary: Diary, gate: threading.Event
) -> None:
    mover = start()
    mover.put(steps(diary, "cold", waiting(diary, gate)), Interest())
    diary.until("errand begins")
    mover.put(steps(diary, "warm"), Interest())
    diary.until("warm ends")
    gate.set()
    diary.until("cold ends")
    assert diary.lines == [
        "cold begins", "errand begins", "warm begins", "warm ends", "cold gets errand", "cold ends",
    ]  # fmt: skip


def test_who_comes_back_takes_its_old_place_and_requests_come_before_prewarms(
    diary: Diary, gate: threading.Event
) -> None:
    mover = Mover()
    mover.put(steps(diary, "prewarm"), Interest(), is_urgent=False)
    mover.put(steps(diary, "first", waiting(diary, gate)), Interest())

    def second() -> Steps:
        diary.write("second begins")
        mover.put(steps(diary, "third"), Interest())
        gate.set()
        time.sleep(0.2)  # for the errand to come back
        yield from ()

    mover.put(second(), Interest())
    thread = threading.Thread(target=mover.run)
    thread.start()
    diary.until("prewarm ends")
    mover.close()
    thread.join()
    assert [line for line in diary.lines if "errand" not in line] == [
        "first begins", "second begins", "first ends", "third begins", "third ends", "prewarm begins", "prewarm ends",
    ]  # fmt: skip


def test_who_is_given_up_hears_it_while_its_errand_hangs_and_the_late_result_is_undone(
    start: Callable[..., Mover], diary: Diary, gate: threading.Event
) -> None:
    mover, interest = start(), Interest()
    order = mover.put(steps(diary, "cold", waiting(diary, gate)), interest)
    diary.until("errand begins")
    mover.give_up(order, CancelledError("enough"))
    diary.until("cold hears CancelledError")
    assert interest.is_given_up
    mover.give_up(order, CancelledError("once more changes nothing"))
    gate.set()
    diary.until("errand undone")
    assert diary.lines == ["cold begins", "errand begins", "cold hears CancelledError", "errand undone"]


def test_who_is_given_up_hears_it_while_the_mover_is_busy_with_another(
    start: Callable[..., Mover], diary: Diary, gate: threading.Event
) -> None:
    def long_load() -> Steps:
        diary.write("loading")
        gate.wait(10)
        yield from ()

    mover = start()
    order = mover.put(steps(diary, "cold", waiting(diary, gate)), Interest())
    diary.until("errand begins")
    busy = mover.put(long_load(), Interest())
    diary.until("loading")
    mover.give_up(order, CancelledError("enough"))
    assert diary.lines[-1] == "cold hears CancelledError"  # at once, and on this thread
    mover.give_up(busy, CancelledError("it sees that itself"))
    assert busy.interest.is_given_up


def test_an_errand_that_fails_is_heard_by_its_steps(start: Callable[..., Mover], diary: Diary) -> None:
    def work() -> None:
        raise SourceDownError("nobody there")

    start().put(steps(diary, "cold", Errand(work)), Interest())
    diary.until("cold hears SourceDownError")


def test_an_order_that_was_given_up_before_its_errand_began_fetches_nothing(
    start: Callable[..., Mover], diary: Diary
) -> None:
    mover, interest = start(), Interest()
    interest.give_up()
    mover.put(steps(diary, "late", Errand(lambda: diary.write("fetched"))), interest)
    diary.until("late hears AbandonedError")
    assert "fetched" not in diary.lines


def test_silence_is_an_error_and_another_gets_the_fetcher(
    start: Callable[..., Mover], diary: Diary, gate: threading.Event
) -> None:
    mover = start(silent_seconds=0.3, look_seconds=0.02)
    for number in range(REQUESTS_AT_ONCE):
        mover.put(steps(diary, f"hung {number}", waiting(diary, gate)), Interest())
    mover.put(steps(diary, "next", Errand(lambda: "bytes")), Interest())
    diary.until("next gets bytes", *(f"hung {n} hears SourceDownError" for n in range(REQUESTS_AT_ONCE)))


def test_prewarms_that_hang_leave_the_fetchers_of_requests_alone(
    start: Callable[..., Mover], diary: Diary, gate: threading.Event
) -> None:
    mover = start()
    for number in range(PREWARMS_AT_ONCE + 1):
        errand = waiting(diary, gate, f"errand {number}")
        mover.put(steps(diary, f"prewarm {number}", errand), Interest(), is_urgent=False)
    diary.until(*(f"errand {number} begins" for number in range(PREWARMS_AT_ONCE)))
    mover.put(steps(diary, "request", Errand(lambda: "bytes")), Interest())
    diary.until("request ends")
    assert f"errand {PREWARMS_AT_ONCE} begins" not in diary.lines
    mover.give_up_prewarms(AbandonedError("draining"))
    diary.until(*(f"prewarm {number} hears AbandonedError" for number in range(PREWARMS_AT_ONCE + 1)))


def test_steps_that_raise_leave_the_next_order_alone(start: Callable[..., Mover], diary: Diary) -> None:
    def broken() -> Steps:
        yield from ()
        raise SystemExit(2)

    mover = start()
    mover.put(broken(), Interest())
    mover.put(steps(diary, "next"), Interest())
    diary.until("next ends")


def test_a_late_result_that_cannot_be_undone_leaves_the_next_order_alone(
    start: Callable[..., Mover], diary: Diary, gate: threading.Event
) -> None:
    def undo(result: Any) -> None:
        diary.write("undoing")
        raise SystemExit(2)

    mover = start()
    work = waiting(diary, gate).work
    order = mover.put(steps(diary, "cold", Errand(work, undo)), Interest())
    diary.until("errand begins")
    mover.give_up(order, CancelledError("enough"))
    gate.set()
    diary.until("undoing")
    mover.put(steps(diary, "next"), Interest())
    diary.until("next ends")


def test_it_says_what_it_works_on_and_for_how_long(
    start: Callable[..., Mover], diary: Diary, gate: threading.Event
) -> None:
    def stuck() -> Steps:
        diary.write("stuck")
        gate.wait(10)
        yield from ()

    mover, interest = start(), Interest()
    assert mover.stalled_seconds() is None
    order = mover.put(stuck(), interest)
    diary.until("stuck")
    interest._moved_at -= 1000
    stalled = mover.stalled_seconds()
    assert stalled is not None
    assert (stalled[0], stalled[1] >= 1000) == (order, True)
