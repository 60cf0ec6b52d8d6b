"""Fast safetensors reading: tensors of one component, out of checked files, into one aligned arena in host memory.

IO, no network. Warm files (in the page cache) are read by parallel `pread` straight into place; cold ones by
parallel O_DIRECT through page-aligned bounce buffers, which measured twice as fast as the page cache's own
readahead. A file that changes or ends under the reader is refused.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from loaders.device import PAGE_BYTES, Arena, Device
from loaders.errors import WeightsDamagedError
from loaders.headers import Header, TensorAt, read_header
from loaders.layout import Layout, Place

if TYPE_CHECKING:
    import torch

BLOCK_BYTES = 8 << 20
WARM_THREADS = 4
COLD_THREADS = 16
WARM_SAMPLES = 8  # pages asked about, evenly spread, before a file is called cold

OnBytes = Callable[[int], None]


class _Span(msgspec.Struct, frozen=True):
    """A run of bytes of one shard and where it goes in the arena."""

    shard: int
    start: int
    size_bytes: int
    offset: int


def read_headers(paths: Sequence[Path]) -> tuple[Header, ...]:
    """Raises `WeightsDamagedError`."""
    return tuple(read_header(path) for path in paths)


def read(paths: Sequence[Path], layout: Layout, device: Device, *, on_bytes: OnBytes | None = None) -> Arena:
    """The arena in host memory, filled. `on_bytes` is told of each block, from several threads."""
    arena = Arena(device.host_buffer(layout.size_bytes), layout)
    with _unchanged(paths):
        cold = [not is_cached(path) for path in paths]
        with ThreadPoolExecutor(COLD_THREADS if any(cold) else WARM_THREADS) as pool:
            jobs = [
                pool.submit(_read_span, paths[span.shard], span, arena, cold[span.shard])
                for span in spans(layout)
            ]
            jobs += [
                pool.submit(_read_cast, paths[place.shard], place, arena)
                for place in layout.places
                if place.is_cast
            ]
            for job in jobs:
                count = job.result()
                if on_bytes is not None:
                    on_bytes(count)
    return arena


def is_cached(path: Path) -> bool:
    """Asks the page cache about a few pages without making it read them."""
    nowait = getattr(os, "RWF_NOWAIT", None)
    size_bytes = path.stat().st_size
    if nowait is None or size_bytes < BLOCK_BYTES:
        return True
    page = bytearray(PAGE_BYTES)
    with path.open("rb", buffering=0) as file:
        for sample in range(WARM_SAMPLES):
            try:
                os.preadv(file.fileno(), [page], sample * (size_bytes - PAGE_BYTES) // WARM_SAMPLES, nowait)
            except BlockingIOError:
                return False
            except OSError:  # a file system without RWF_NOWAIT
                return True
    return True


def spans(layout: Layout) -> Iterator[_Span]:
    """Tensors that lie in the arena as in the file are read together, up to a block."""
    start = size_bytes = offset = 0
    shard = -1
    for place in layout.places:
        if place.is_cast:
            continue
        follows = place.source.start - start == place.offset - offset == size_bytes and place.shard == shard
        if not follows:
            yield from _blocks(shard, start, size_bytes, offset)
            shard, start, size_bytes, offset = place.shard, place.source.start, 0, place.offset
        size_bytes += place.source.size_bytes
    yield from _blocks(shard, start, size_bytes, offset)


def _blocks(shard: int, start: int, size_bytes: int, offset: int) -> Iterator[_Span]:
    for skip in range(0, size_bytes, BLOCK_BYTES):
        yield _Span(shard, start + skip, min(BLOCK_BYTES, size_bytes - skip), offset + skip)


def _read_span(path: Path, span: _Span, arena: Arena, cold: bool) -> int:  # noqa: FBT001 (a pool's argument)
    target = memoryview(arena.storage.numpy())[span.offset : span.offset + span.size_bytes]
    if not (cold and _read_direct(path, span.start, target)):
        with path.open("rb", buffering=0) as file:
            _fill(file.fileno(), span.start, target, path)
    return span.size_bytes


def _fill(descriptor: int, start: int, target: memoryview, path: Path) -> None:
    done = 0
    while done < len(target):
        count = os.preadv(descriptor, [target[done:]], start + done)
        if count == 0:
            raise WeightsDamagedError(f"{path.name} ended while it was read")
        done += count


def _read_direct(path: Path, start: int, target: memoryview) -> bool:
    """Past the page cache. False where the file system does not do that."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        return False
    try:
        skip = start % PAGE_BYTES
        length = -(-(skip + len(target)) // PAGE_BYTES) * PAGE_BYTES
        with _bounce(length) as bounce:
            done = 0
            while done < skip + len(target):
                count = os.preadv(descriptor, [bounce[done:length]], start - skip + done)
                if count == 0:
                    raise WeightsDamagedError(f"{path.name} ended while it was read")
                done += count
                if count % PAGE_BYTES and done < skip + len(target):
                    return False  # a short read in the middle: let the plain way sort it out
            target[:] = bounce[skip : skip + len(target)]
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


@contextmanager
def _bounce(size_bytes: int) -> Iterator[memoryview]:
    """A page-aligned scratch buffer. mmap aligns by itself."""
    import mmap

    scratch = mmap.mmap(-1, size_bytes)
    view = memoryview(scratch)
    try:
        yield view
    finally:
        view.release()
        with suppress(BufferError):
            scratch.close()


def _read_cast(path: Path, place: Place, arena: Arena) -> int:
    import torch

    raw = torch.empty(place.source.size_bytes, dtype=torch.uint8)
    with path.open("rb", buffering=0) as file:
        _fill(file.fileno(), place.source.start, memoryview(raw.numpy()), path)
    arena.views[place.name].copy_(_typed(raw, place.source))
    return place.source.size_bytes


def _typed(raw: "torch.Tensor", source: TensorAt) -> "torch.Tensor":
    import torch

    return raw.view(getattr(torch, source.dtype)).view(source.shape)


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
