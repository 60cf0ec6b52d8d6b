"""A few threads for work that may wait for others: so many at once, the rest in turn.

A thread lives as long as there is work for it. One that hangs can be written off: then another takes its place. They
are daemons, so that a process which is told to stop does not wait for a download.
"""

import collections
import contextlib
import queue
import threading
from collections.abc import Callable, Hashable, Sequence


class Fetchers:
    """Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._at_work: set[Hashable] = set()
        self._waiting: collections.deque[tuple[Hashable, Callable[[], None]]] = collections.deque()
        self._lock = threading.Lock()

    def send(self, key: Hashable, work: Callable[[], None]) -> None:
        """`work` raises nothing. Raises `RuntimeError` when this process gets no more threads."""
        with self._lock:
            if len(self._at_work) >= self._limit:
                self._waiting.append((key, work))
                return
            self._start(key, work)

    def lose(self, key: Hashable) -> bool:
        """Writes off the thread that works at it; False when none does."""
        with self._lock:
            if key not in self._at_work:
                return False
            self._at_work.discard(key)
            if self._waiting:
                with contextlib.suppress(RuntimeError):  # no more threads: then in the next one's turn
                    self._start(*self._waiting[0])
                    self._waiting.popleft()
            return True

    def _start(self, key: Hashable, work: Callable[[], None]) -> None:
        threading.Thread(target=self._work, args=(key, work), name="fetcher", daemon=True).start()
        self._at_work.add(key)

    def _work(self, key: Hashable, work: Callable[[], None]) -> None:
        while True:
            work()
            with self._lock:
                if key not in self._at_work:
                    return  # written off meanwhile
                self._at_work.discard(key)
                if not self._waiting:
                    return
                key, work = self._waiting.popleft()
                self._at_work.add(key)


def side_by_side(calls: Sequence[Callable[[], object]], limit: int) -> None:
    """All of them, so many at once, on this thread and daemons. Raises what the first to fail raises; no other begins then."""
    todo: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
    for call in calls:
        todo.put(call)
    failures: list[BaseException] = []

    def work() -> None:
        with contextlib.suppress(queue.Empty):
            while not failures:
                try:
                    todo.get_nowait()()
                except queue.Empty:
                    raise
                except BaseException as error:  # noqa: BLE001 (handed to the thread that waits)
                    failures.append(error)

    threads = [threading.Thread(target=work, name="fetcher", daemon=True) for _ in calls[1:limit]]
    for thread in threads:
        with contextlib.suppress(RuntimeError):  # no more threads: those that there are do it all
            thread.start()
    work()
    for thread in threads:
        if thread.ident is not None:
            thread.join()
    if failures:
        raise failures[0]
