"""Weights on their way from host memory to an accelerator: in chunks, few at a time, while the rest is still read.

IO through `accelerator`, on the mover thread alone. What is sent lands later, so each chunk's source is held until it
has landed: its memory is not used again, unpinned or returned before. Few at a time, because copies that are queued
cannot be called back: a request would wait for all of a prewarm, and small copies of the run for all of a model.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from loaders.accelerator import Accelerator, Mark

if TYPE_CHECKING:
    import torch

CHUNK_BYTES = 32 << 20  # a divisor of what is pinned at a time: no copy is out of two pinned parts
Pin = Callable[[int, int], None]  # address, bytes
MOST_UNDER_WAY = 4  # chunks; at 50 GB/s a queue of 2.7 ms


class Lane:
    """The mover's one way to its accelerator. `pin` is asked for all that is about to cross."""

    def __init__(self, accelerator: Accelerator, pin: Pin) -> None:
        self._accelerator = accelerator
        self._pin = pin
        self._under_way: deque[tuple[Mark, torch.Tensor]] = deque()  # oldest first, with their sources

    def landing(self, size_bytes: int) -> "torch.Tensor":
        return self._accelerator.landing(size_bytes)

    def send(self, source: "torch.Tensor", target: "torch.Tensor") -> Mark:
        while len(self._under_way) >= MOST_UNDER_WAY:
            self._wait_for_oldest()
        self._pin(source.data_ptr(), source.nbytes)
        mark = self._accelerator.send(source, target)
        self._under_way.append((mark, source))
        return mark

    def settle(self) -> None:
        """Waits until all has landed: before host memory is taken, or what has left the accounts is still in use."""
        while self._under_way:
            self._wait_for_oldest()

    def _wait_for_oldest(self) -> None:
        """One that failed stays: what it was copied from is never touched again."""
        self._under_way[0][0].synchronize()
        self._under_way.popleft()


class Crossing:
    """One piece of host memory, uint8, and its copy to be. The room is taken at once, so that lacking it costs no read."""

    def __init__(self, lane: Lane, size_bytes: int) -> None:
        self.target = lane.landing(size_bytes)
        self.mark: Mark | None = None  # behind the last chunk that was sent
        self._lane = lane
        self._sent = 0

    def advance(self, source: "torch.Tensor", stop: int) -> None:
        """All before `stop` is in place: whole chunks of it leave."""
        while stop - self._sent >= CHUNK_BYTES:
            self._send(source, self._sent + CHUNK_BYTES)

    def finish(self, source: "torch.Tensor", moved: Callable[[], None] = lambda: None) -> None:
        """All is in place. `moved` is called before each chunk, and may raise."""
        size_bytes = self.target.numel()
        while self._sent < size_bytes:
            moved()
            self._send(source, min(self._sent + CHUNK_BYTES, size_bytes))

    def _send(self, source: "torch.Tensor", stop: int) -> None:
        self.mark = self._lane.send(source[self._sent : stop], self.target[self._sent : stop])
        self._sent = stop
