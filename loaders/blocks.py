"""How files are cut up for reading: contiguous blocks, and where each piece of one goes in the arena. Pure."""

from collections.abc import Iterator, Sequence

import msgspec

from loaders.layout import ITEM_BYTES, Layout, Place

BLOCK_BYTES = 8 << 20
MAX_PIECES = 512  # of one block; the system takes 1,024 in one call


class Piece(msgspec.Struct, frozen=True):
    """A run of a file's bytes that lies in the arena as in the file, or is cast on the way (then with its place)."""

    start: int  # in the file
    size_bytes: int
    offset: int  # in the arena
    cast: Place | None = None
    tensors: int = 0  # that end in it


class Block(msgspec.Struct, frozen=True):
    """Bytes of one shard that are read together."""

    shard: int
    pieces: tuple[Piece, ...]

    @property
    def start(self) -> int:
        return self.pieces[0].start

    @property
    def stop(self) -> int:
        return self.pieces[-1].start + self.pieces[-1].size_bytes

    @property
    def size_bytes(self) -> int:
        return self.stop - self.start

    @property
    def tensors(self) -> int:
        """That end in it."""
        return sum(piece.tensors for piece in self.pieces)

    @property
    def filled(self) -> int:
        """Where in the arena it ends."""
        last = self.pieces[-1]
        if last.cast is None:
            return last.offset + last.size_bytes
        stored, kept = ITEM_BYTES[last.cast.source.dtype], ITEM_BYTES[last.cast.dtype]
        return last.offset + last.size_bytes // stored * kept

    @property
    def is_cast(self) -> bool:
        return any(piece.cast is not None for piece in self.pieces)


def cut(layout: Layout, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """In file order, which is the arena's; bytes that nobody wants are not read."""
    pieces: list[Piece] = []
    shard = room = 0
    for place in layout.places:
        for piece in _chopped(place, block_bytes):
            follows = (
                bool(pieces)
                and place.shard == shard
                and pieces[-1].start + pieces[-1].size_bytes == piece.start
            )
            if pieces and not (follows and piece.size_bytes <= room and len(pieces) < MAX_PIECES):
                yield Block(shard, tuple(pieces))
                pieces = []
            if not pieces:
                shard, room = place.shard, block_bytes
            _append(pieces, piece)
            room -= piece.size_bytes
    if pieces:
        yield Block(shard, tuple(pieces))


def _chopped(place: Place, block_bytes: int) -> Iterator[Piece]:
    """Never inside an element."""
    stored, kept = ITEM_BYTES[place.source.dtype], ITEM_BYTES[place.dtype]
    step = block_bytes // stored * stored
    for skip in range(0, place.source.size_bytes, step):
        yield Piece(
            place.source.start + skip,
            min(step, place.source.size_bytes - skip),
            place.offset + skip // stored * kept,
            place if place.is_cast else None,
            int(skip + step >= place.source.size_bytes),
        )


def _append(pieces: list[Piece], piece: Piece) -> None:
    """Neighbours in the file that are neighbours in the arena become one."""
    last: Sequence[Piece] = pieces[-1:]
    if last and last[0].cast is None is piece.cast and last[0].offset + last[0].size_bytes == piece.offset:
        pieces[-1] = Piece(
            last[0].start,
            last[0].size_bytes + piece.size_bytes,
            last[0].offset,
            tensors=last[0].tensors + piece.tensors,
        )
    else:
        pieces.append(piece)
