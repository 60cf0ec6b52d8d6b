"""Host memory that is used again."""

import errno
import mmap
import threading

import pytest

from loaders.buffers import HUGE_BYTES, POOLED_FROM_BYTES, Buffers

SIZE = 8 * HUGE_BYTES


def test_memory_comes_back_and_is_used_again() -> None:
    buffers = Buffers()
    first = buffers.take(SIZE)
    address = first.data_ptr()
    assert (address % 4096, first.numel(), buffers.waiting_bytes()) == (0, SIZE, 0)
    view = first[100:]
    del first
    assert buffers.waiting_bytes() == 0, "a view still looks at it"
    del view
    assert buffers.waiting_bytes() == SIZE
    assert buffers.take(SIZE - 100).data_ptr() == address


def test_what_fits_nothing_waiting_gets_fresh_memory_after_the_rest_went_back() -> None:
    buffers = Buffers()
    buffers.take(SIZE)
    assert buffers.waiting_bytes() == SIZE
    larger = buffers.take(2 * SIZE)
    assert (larger.numel(), buffers.waiting_bytes()) == (2 * SIZE, 0)


def test_the_smallest_that_fits_is_chosen() -> None:
    buffers = Buffers()
    made = [buffers.take(size) for size in (SIZE, SIZE + HUGE_BYTES)]
    addresses = [tensor.data_ptr() for tensor in made]
    del made
    kept = buffers.take(SIZE)
    assert kept.data_ptr() == addresses[0]
    assert buffers.take(SIZE).data_ptr() == addresses[1], "a little larger will do"


def test_small_ones_are_not_kept() -> None:
    buffers = Buffers()
    small = buffers.take(POOLED_FROM_BYTES - 1)
    assert small.data_ptr() % 4096 == 0
    del small
    assert buffers.waiting_bytes() == 0


def test_given_back_means_gone() -> None:
    buffers = Buffers()
    buffers.take(SIZE)
    with buffers.scratch(4096) as scratch:
        scratch[:4] = b"mark"
    buffers.give_back()
    assert buffers.waiting_bytes() == 0


def test_the_garbage_collector_may_bring_memory_back_at_any_moment() -> None:
    """Also while this thread holds the lock: runs leave cycles behind, and nobody chooses when those are looked for."""
    buffers = Buffers()
    tensor = buffers.take(SIZE)

    def collect() -> None:
        nonlocal tensor
        with buffers._lock:
            del tensor

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(2)
    assert not thread.is_alive()
    assert buffers.waiting_bytes() == SIZE


def test_a_kernel_without_huge_pages_gives_ordinary_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(mmap.mmap):
        def madvise(self, option: int, *place: int) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(mmap, "mmap", Plain)
    assert Buffers().take(SIZE).numel() == SIZE
