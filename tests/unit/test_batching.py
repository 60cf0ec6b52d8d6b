"""What arrives during a flush goes together in the next; a poisoned item fails alone."""

import asyncio
from collections.abc import Sequence

import pytest

from router import batching
from router.batching import Batcher


async def test_items_of_one_moment_share_a_flush() -> None:
    flushes: list[Sequence[int]] = []

    async def flush(items: Sequence[int]) -> Sequence[int]:
        flushes.append(items)
        await asyncio.sleep(0.01)
        return [item * 10 for item in items]

    batcher = Batcher(flush)
    first = asyncio.gather(*(batcher.add(n) for n in (1, 2)))
    await asyncio.sleep(0.001)
    second = asyncio.gather(*(batcher.add(n) for n in (3, 4)))
    assert (await first, await second) == ([10, 20], [30, 40])
    assert flushes == [[1, 2], [3, 4]]


async def test_a_poisoned_item_fails_alone() -> None:
    async def flush(items: Sequence[int]) -> Sequence[int]:
        if 2 in items:
            raise ValueError("two")
        return list(items)

    batcher = Batcher(flush)
    answers = await asyncio.gather(*(batcher.add(n) for n in (1, 2, 3)), return_exceptions=True)
    assert [answers[0], str(answers[1]), answers[2]] == [1, "two", 3]


async def test_heavy_items_share_a_flush_as_far_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "FLUSH_BYTES", 10)
    flushes: list[Sequence[int]] = []

    async def flush(items: Sequence[int]) -> Sequence[int]:
        flushes.append(items)
        return items

    batcher = Batcher(flush, weight=lambda item: item)
    await asyncio.gather(*(batcher.add(n) for n in (4, 6, 1, 30, 2)))
    assert flushes == [[4, 6], [1], [30], [2]]


async def test_items_of_one_key_go_one_after_the_other() -> None:
    flushes: list[Sequence[str]] = []

    async def flush(items: Sequence[str]) -> Sequence[str]:
        flushes.append(items)
        return items

    batcher = Batcher(flush, key=lambda item: item[0])
    await asyncio.gather(*(batcher.add(item) for item in ("a1", "b1", "a2", "c1", "a3", "b2")))
    assert flushes == [["a1", "b1", "c1"], ["a2", "b2"], ["a3"]]


async def test_a_closed_batcher_ends_what_waits() -> None:
    async def flush(items: Sequence[int]) -> Sequence[int]:
        await asyncio.Event().wait()
        return list(items)

    batcher = Batcher(flush)
    future = batcher.add(1)
    await asyncio.sleep(0)
    await batcher.close()
    with pytest.raises(asyncio.CancelledError):
        await future
