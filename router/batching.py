"""Group commit: what arrives while one flush is under way goes together in the next. No delay is added. IO by proxy."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from psycopg_pool import PoolClosed

from registry.database import LOST
from router.errors import QueueUnavailableError

Item = TypeVar("Item")
Items = TypeVar("Items")
Result = TypeVar("Result")

RETRY_PAUSE_SECONDS = 0.2
FLUSH_LIMIT = 1000  # items; bounds one transaction's time
FLUSH_BYTES = 16 << 20  # about, of items that have a weight; bounds the memory that one statement takes


class Batcher(Generic[Item, Result]):
    """`flush` gets the items in order and answers with as many results.

    A flush that fails is repeated in halves, so that one poisoned item fails alone; after an error of kind `fatal`
    that would be of no use, and all its items fail with it. Two items of one `key` never share a flush: the later
    one has to find what the earlier one did. `weight`: an item's bytes, where it can have many.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        fatal: tuple[type[Exception], ...] = (),
        key: Callable[[Item], object] | None = None,
        weight: Callable[[Item], int] | None = None,
    ) -> None:
        self._flush = flush
        self._key = key
        self._weight = weight
        self._fatal = fatal
        self._pending: list[tuple[Item, asyncio.Future[Result]]] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, item: Item) -> asyncio.Future[Result]:
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._pending.append((item, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return future

    async def drain(self) -> None:
        """Returns when everything added so far is flushed."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def close(self) -> None:
        """Ends at once; whoever still waits is cancelled. A flush under way may or may not have happened."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for _, future in self._pending:
            future.cancel()
        self._pending.clear()

    async def _run(self) -> None:
        while self._pending:
            await self._settle(self._next())

    def _next(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        count = self._count()
        batch, rest = self._pending[:count], self._pending[count:]
        if self._key is not None:
            first: dict[object, tuple[Item, asyncio.Future[Result]]] = {}
            again = [entry for entry in batch if first.setdefault(self._key(entry[0]), entry) is not entry]
            batch, rest = list(first.values()), again + rest
        self._pending = rest
        return batch

    def _count(self) -> int:
        """How many of those that come first go together; one, however heavy."""
        if self._weight is None:
            return FLUSH_LIMIT
        left = FLUSH_BYTES
        for count, (item, _) in enumerate(self._pending[:FLUSH_LIMIT]):
            left -= self._weight(item)
            if left < 0:
                return max(1, count)
        return FLUSH_LIMIT

    async def _settle(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._flush([item for item, _ in batch])
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001  handed to whoever waits
            if len(batch) > 1 and not isinstance(error, self._fatal):
                middle = len(batch) // 2
                await self._settle(batch[:middle])
                await self._settle(batch[middle:])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)


def patiently(
    flush: Callable[[Items, bool], Awaitable[Result]], patience_seconds: float | None = None
) -> Callable[[Items], Awaitable[Result]]:
    """Repeat `flush` while the database is away, telling it so; after `patience_seconds`, `QueueUnavailableError`."""

    async def patient(items: Items) -> Result:
        loop = asyncio.get_running_loop()
        give_up_at = None if patience_seconds is None else loop.time() + patience_seconds
        repeated = False
        while True:
            try:
                return await flush(items, repeated)
            except PoolClosed as error:
                raise QueueUnavailableError("this process is stopping") from error
            except LOST as error:
                if give_up_at is not None and loop.time() > give_up_at:
                    raise QueueUnavailableError("the database does not answer") from error
                repeated = True
                await asyncio.sleep(RETRY_PAUSE_SECONDS)

    return patient
