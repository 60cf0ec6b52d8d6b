"""The mover: prepares orders one step at a time on one thread, and has everything that others may delay done elsewhere.

Threads, no IO of its own. An order is a generator: what runs between two of its yields runs on the mover thread, and
what it yields is an errand (a download, a stranger's picture), done by one of a few fetchers while the mover turns to
other orders. So an order that has all it needs never waits for one that has not. Requests come before prewarms, and
in the order in which they were put; who comes back from an errand takes its old place. A prewarm that is on the mover
is told when a request comes. It refuses to know weights.
"""

import itertools
import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog

from loaders.errors import AbandonedError, HostError, SourceDownError
from loaders.fetchers import Fetchers
from loaders.interest import Interest

log = structlog.get_logger("marquee.mover")

REQUESTS_AT_ONCE = 8  # errands; hosts are given fewer requests than that
PREWARMS_AT_ONCE = 2
SILENT_SECONDS = (
    300.0  # an errand that shows no progress for so long is given up; sources have closer limits of their own
)
LOOK_SECONDS = 5.0  # between two looks at them
FIRST, REQUEST, PREWARM = range(3)  # whose turn is before whose


def leave_it(result: Any) -> None:
    """For errands whose result holds nothing."""


@dataclass(eq=False, frozen=True)
class Errand:
    """Something to be done on another thread. `undo` gets a result that came when nobody waited any more."""

    work: Callable[[], Any]
    undo: Callable[[Any], None] = leave_it


Steps = Generator[Errand, Any, None]
Answer = Callable[[Steps], Errand]  # goes on with the steps


class Order:
    """One on its way. Whoever goes on with its steps holds its lock; `errand` is what they wait for."""

    def __init__(self, steps: Steps, interest: Interest, place: tuple[int, int]) -> None:
        self.steps = steps
        self.interest = interest
        self.place = place  # prewarms after requests, then by age
        self.errand: Errand | None = None
        self.lock = threading.Lock()

    @property
    def is_urgent(self) -> bool:
        return self.place[0] == REQUEST


class _Turn(NamedTuple):
    """Something for the mover thread to do: the smallest first. `order` is None when it shall end."""

    place: tuple[int, int]
    number: int  # no two are alike, so that nothing behind it is compared
    order: Order | None
    act: Callable[[Order], None]


class Mover:
    """Put orders in; `run` on the mover thread carries them out until `close`."""

    def __init__(self, *, silent_seconds: float = SILENT_SECONDS, look_seconds: float = LOOK_SECONDS) -> None:
        self._silent_seconds = silent_seconds
        self._look_seconds = look_seconds
        self._turns: queue.PriorityQueue[_Turn] = queue.PriorityQueue()
        self._count = itertools.count()
        self._fetchers = {True: Fetchers(REQUESTS_AT_ONCE), False: Fetchers(PREWARMS_AT_ONCE)}
        self._open: dict[Order, None] = {}
        self._lock = threading.Lock()
        self._now: Order | None = None

    def put(self, steps: Steps, interest: Interest, *, is_urgent: bool = True) -> Order:
        """From now on it is carried out. Steps end by themselves, and raise nothing."""
        order = Order(steps, interest, (REQUEST if is_urgent else PREWARM, next(self._count)))
        with self._lock:
            self._open[order] = None
        self._turn(order, order.place, self._begin)
        return order

    def give_up(self, order: Order, error: BaseException) -> None:
        """Nobody waits for it: where it waits for an errand, its steps hear `error` now, on this thread.

        On the mover, or before they begin, they see by their interest that nobody waits; and who is just being sent on
        an errand hears it next.
        """
        order.interest.give_up()
        if order.lock.acquire(blocking=False):
            try:
                self._interrupt(order, error)
            finally:
                order.lock.release()
        else:
            self._turn(order, (FIRST, 0), lambda order: self._interrupt(order, error))

    def give_up_prewarms(self, error: BaseException) -> None:
        with self._lock:
            prewarms = [order for order in self._open if not order.is_urgent]
        for order in prewarms:
            self.give_up(order, error)

    def close(self) -> None:
        """Ends after the step in progress; errands are given up."""
        with self._lock:
            for order in self._open:
                order.interest.give_up()
        self._turns.put(_Turn((FIRST, 0), next(self._count), None, lambda order: None))

    def stalled_seconds(self) -> tuple[Order, float] | None:
        """What the mover thread itself works on, and for how long without a sign of progress."""
        order = self._now
        return None if order is None else (order, order.interest.silent_seconds())

    # the mover thread

    def run(self) -> None:
        while True:
            try:
                turn = self._turns.get(timeout=self._look_seconds)
            except queue.Empty:
                self._give_up_silent()
                continue
            if turn.order is None:
                return
            self._take(turn.order, turn.act)
            self._give_up_silent()

    def _take(self, order: Order, act: Callable[[Order], None]) -> None:
        with order.lock:
            self._now = order
            try:
                act(order)
            except BaseException:  # this thread has to live for the other orders
                log.exception("an order's end failed")
            finally:
                self._now = None

    def _turn(self, order: Order, place: tuple[int, int], act: Callable[[Order], None]) -> None:
        now = self._now
        if order.is_urgent and now is not None and not now.is_urgent:
            now.interest.step_aside()
        self._turns.put(_Turn(place, next(self._count), order, act))

    def _begin(self, order: Order) -> None:
        self._go_on(order, next)

    def _interrupt(self, order: Order, error: BaseException) -> None:
        if order.errand is not None:  # else it has not begun, or is over
            self._go_on(order, _thrown(error))

    def _resume(self, order: Order, errand: Errand, answer: Answer, undo: Callable[[], None]) -> None:
        if order.errand is errand:
            self._go_on(order, answer)
        else:
            undo()

    def _go_on(self, order: Order, answer: Answer) -> None:
        order.errand = None
        order.interest.moved()
        try:
            order.errand = answer(order.steps)
        except StopIteration:
            pass
        except (
            BaseException
        ):  # they were to raise nothing, and who goes on with them has others to look after
            log.exception("an order failed without a word")
        if order.errand is None:
            with self._lock:
                self._open.pop(order, None)
        else:
            self._send(order, order.errand)

    def _send(self, order: Order, errand: Errand) -> None:
        try:
            self._fetchers[order.is_urgent].send(errand, lambda: self._run_errand(order, errand))
        except RuntimeError as error:  # no more threads
            failure = HostError(f"nothing can be fetched: {error}")
            self._turn(order, order.place, lambda order: self._interrupt(order, failure))

    def _run_errand(self, order: Order, errand: Errand) -> None:
        """On a fetcher."""
        order.interest.moved()
        try:
            if order.interest.is_given_up:
                raise AbandonedError("nobody waits for it any more")  # noqa: TRY301
            result = errand.work()
        except BaseException as error:  # noqa: BLE001 (handed to the steps)
            self._come_back(order, errand, _thrown(error), lambda: None)
        else:
            self._come_back(order, errand, _sent(result), lambda: errand.undo(result))

    def _come_back(self, order: Order, errand: Errand, answer: Answer, undo: Callable[[], None]) -> None:
        self._turn(order, order.place, lambda order: self._resume(order, errand, answer, undo))

    def _give_up_silent(self) -> None:
        """Whatever a fetcher hangs in, its order gets an answer, and others a fetcher."""
        with self._lock:
            orders = tuple(self._open)
        for order in orders:
            silent_seconds = order.interest.silent_seconds()
            if order.errand is None or silent_seconds < self._silent_seconds:
                continue
            if self._fetchers[order.is_urgent].lose(order.errand):
                error = SourceDownError(f"what was asked for sent nothing for {silent_seconds:.0f} seconds")
                self.give_up(order, error)


def _thrown(error: BaseException) -> Answer:
    return lambda steps: steps.throw(error)


def _sent(result: Any) -> Answer:
    return lambda steps: steps.send(result)
