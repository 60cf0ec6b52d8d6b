"""Fast safetensors reading: tensors of one component, out of checked files, into one aligned arena in host memory.

IO, no network. What the page cache holds is read by parallel `preadv` straight into place; the rest by parallel
O_DIRECT through aligned scratch buffers, which measured twice as fast as the page cache's own readahead. Dtypes are
cast on the way, block by block. A file that changes or ends under the reader is refused.
"""

import ctypes
import functools
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from loaders import allowance
from loaders.blocks import BLOCK_BYTES, Block, Piece, cut
from loaders.device import PAGE_BYTES, Arena, Device
from loaders.errors import WeightsDamagedError
from loaders.headers import Header, read_header
from loaders.layout import Layout

if TYPE_CHECKING:
    import torch

WARM_THREADS = 4
COLD_THREADS = 16
SCRATCH_BYTES = 2 << 20  # one huge page: larger ones are cold again when they are copied out of
SCRATCH_BLOCK_BYTES = SCRATCH_BYTES - 2 * PAGE_BYTES  # a block's ends are rounded outwards to pages
LOOKS, LOOK_BYTES = 32, 256 << 10  # samples of the page cache, spread over a file
WARM_SHARE = 0.9  # of a file's pages in the page cache, from which on it is read through it

OnBlock = Callable[[Block], None]
OnFilled = Callable[[Arena, int], None]


class _Shard(msgspec.Struct, frozen=True):
    """One open file. `direct` is past the page cache; None where it is warm or the file system does not do that."""

    name: str
    plain: int
    direct: int | None


def read_headers(paths: Sequence[Path]) -> tuple[Header, ...]:
    """Raises `WeightsDamagedError`."""
    return tuple(read_header(path) for path in paths)


def read(
    paths: Sequence[Path],
    layout: Layout,
    device: Device,
    *,
    on_block: OnBlock | None = None,
    on_filled: OnFilled | None = None,
) -> Arena:
    """The arena in host memory, filled. `on_block` is told of each block, from several threads.

    `on_filled` is told, in this thread, up to where all is in place while more is still read.
    Raises `WeightsDamagedError` when the files are not those that the layout was made for.
    """
    arena = Arena(device.host_buffer(layout.size_bytes), layout)
    with ExitStack() as stack:
        stack.enter_context(_unchanged(paths))
        _check_headers(paths, layout)
        shards = [stack.enter_context(_opened(path)) for path in paths]
        is_cold = any(shard.direct is not None for shard in shards)
        pool = stack.enter_context(ThreadPoolExecutor(COLD_THREADS if is_cold else WARM_THREADS))
        # As many copy at once as there are cores for us; more only wait for each other.
        copiers = allowance.cores() if is_cold else WARM_THREADS
        reader = _Reader(shards, arena, device, copiers=copiers)

        def bring(block: Block) -> int:
            reader.bring(block)
            if on_block is not None:
                on_block(block)
            return block.filled

        into_scratch = is_cold or any(place.is_cast for place in layout.places)
        for stop in pool.map(bring, cut(layout, SCRATCH_BLOCK_BYTES if into_scratch else BLOCK_BYTES)):
            if on_filled is not None:
                on_filled(arena, stop)
    return arena


class _Reader:
    """Brings blocks of open files to their places. Used by several threads."""

    def __init__(self, shards: Sequence[_Shard], arena: Arena, device: Device, *, copiers: int) -> None:
        self._shards = shards
        self._arena = arena
        self._device = device
        self._target = arena.storage.numpy().data
        self._copying = threading.BoundedSemaphore(copiers)

    def bring(self, block: Block) -> None:
        shard = self._shards[block.shard]
        if shard.direct is None and not block.is_cast:
            self._read_into_place(shard, block)
            return
        with self._device.buffers.scratch(SCRATCH_BYTES) as scratch:
            raw = np.frombuffer(scratch, dtype=np.uint8)
            begins = self._read_direct(shard, block, raw)
            if begins is None:
                _fill(shard, block.start, [raw.data[: block.stop - block.start]])
                begins = block.start
            with self._copying:
                self._place_all(block, raw, begins)

    def _place_all(self, block: Block, raw: "np.ndarray[Any, Any]", begins: int) -> None:
        for piece in block.pieces:
            self._place(piece, raw[piece.start - begins : piece.start - begins + piece.size_bytes])

    def _read_into_place(self, shard: _Shard, block: Block) -> None:
        targets = [self._target[piece.offset : piece.offset + piece.size_bytes] for piece in block.pieces]
        _fill(shard, block.start, targets)

    def _read_direct(self, shard: _Shard, block: Block, raw: "np.ndarray[Any, Any]") -> int | None:
        """The file offset of the buffer's first byte. None when the plain way has to do it."""
        if shard.direct is None:
            return None
        begins = block.start // PAGE_BYTES * PAGE_BYTES
        wanted = block.stop - begins
        view = raw.data[: -(-wanted // PAGE_BYTES) * PAGE_BYTES]
        done = 0
        try:
            while done < wanted:
                count = os.preadv(shard.direct, [view[done:]], begins + done)
                done += count
                if count == 0 or (count % PAGE_BYTES and done < wanted):
                    return None  # an end or an odd stop in the middle: the plain way says what it is
        except OSError:
            return None
        return begins

    def _place(self, piece: Piece, raw: "np.ndarray[Any, Any]") -> None:
        if piece.cast is None:
            np.copyto(np.frombuffer(self._target, np.uint8, piece.size_bytes, piece.offset), raw)
            return
        source = _typed(raw, piece.cast.source.dtype)
        view = self._arena.views[piece.cast.name].view(-1)
        first = (piece.start - piece.cast.source.start) // source.element_size()
        view[first : first + source.numel()].copy_(source)


def _typed(raw: "np.ndarray[Any, Any]", dtype: str) -> "torch.Tensor":
    import torch

    kind = getattr(torch, dtype)
    if raw.ctypes.data % kind.itemsize:
        raw = raw.copy()  # headers may have any length
    return torch.from_numpy(raw).view(kind)


def _fill(shard: _Shard, start: int, targets: list[memoryview]) -> None:
    """Like `preadv`, until every target is full."""
    while targets:
        count = os.preadv(shard.plain, targets, start)
        if count == 0:
            raise WeightsDamagedError(f"{shard.name} ended while it was read")
        start += count
        while targets and count >= len(targets[0]):
            count -= len(targets.pop(0))
        if count:
            targets[0] = targets[0][count:]


def cached_share(path: Path) -> float:
    """About how much of a file the page cache holds, without making it read any; 1.0 where the system does not tell."""
    size_bytes = path.stat().st_size
    if not size_bytes:
        return 1.0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        bytes_of_map = np.frombuffer(mapped, dtype=np.uint8)
        shares = [_cached(bytes_of_map[start : start + LOOK_BYTES]) for start in _looks(size_bytes)]
        del bytes_of_map  # the map cannot be closed under a view
    return 1.0 if None in shares else float(np.mean([share for share in shares if share is not None]))


def _looks(size_bytes: int) -> range:
    """Where to look: asking for every page of a large file would take as long as reading a tenth of it."""
    step = max(LOOK_BYTES, size_bytes // LOOKS // mmap.PAGESIZE * mmap.PAGESIZE)
    return range(0, size_bytes, step)


def _cached(look: "np.ndarray[Any, Any]") -> float | None:
    pages = np.zeros(-(-look.size // mmap.PAGESIZE), dtype=np.uint8)
    failed = _libc().mincore(
        ctypes.c_void_p(look.ctypes.data), ctypes.c_size_t(look.size), ctypes.c_void_p(pages.ctypes.data)
    )
    return None if failed else float((pages & 1).mean())


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


@contextmanager
def _opened(path: Path) -> Iterator[_Shard]:
    with ExitStack() as stack:
        plain = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, plain)
        direct = None
        if cached_share(path) < WARM_SHARE:
            try:
                direct = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
                stack.callback(os.close, direct)
            except OSError:
                direct = None  # a file system that has no such thing
        yield _Shard(path.name, plain, direct)


def _check_headers(paths: Sequence[Path], layout: Layout) -> None:
    headers = read_headers(paths)
    for place in layout.places:
        if headers[place.shard].tensors.get(place.name) != place.source:
            raise WeightsDamagedError(
                f"{paths[place.shard].name} is not the file that it was: {place.name} differs"
            )


@contextmanager
def _unchanged(paths: Sequence[Path]) -> Iterator[None]:
    """Raises `WeightsDamagedError` when a file is another one afterwards."""

    def stamps() -> list[Any]:
        try:
            return [(s.st_ino, s.st_size, s.st_mtime_ns) for s in map(os.stat, paths)]
        except OSError as error:
            raise WeightsDamagedError(f"a weight file cannot be read: {error}") from error

    before = stamps()
    yield
    if stamps() != before:
        raise WeightsDamagedError("a weight file changed while it was read")
