"""Which cards a visitor sees: search words, a task, one page of the rest. Pure.

Texts are lowered once for all searches; a word is looked for in all of them at once, in C.
"""

import bisect
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import msgspec

from registry.catalog import Variant
from router import spelling

PAGE_CARDS = 24
BETWEEN = "\x1f"  # of a variant's texts; no search has it
WORD = re.compile(r"[^\W_]{3,}")


class Task(msgspec.Struct, frozen=True):
    """A task that the catalogue has, and how many variants of the search do it."""

    name: str
    count: int


class Shelf(msgspec.Struct, frozen=True, kw_only=True):
    """One page of search results; `number` counts from 1. `meant`: what was searched for instead of the query."""

    variants: tuple[Variant, ...]
    total: int
    number: int
    pages: int
    tasks: tuple[Task, ...]
    meant: str = ""


class Index:
    """The variants that one visitor may see, in the gallery's order."""

    def __init__(self, variants: Iterable[Variant]) -> None:
        self.variants = tuple(variants)
        self._places = [_places(variant) for variant in self.variants]
        texts = [BETWEEN.join(places) + "\n" for places in self._places]
        self._text = "".join(texts)
        self._starts = [0, *itertools.accumulate(map(len, texts))]

    def shelf(self, query: str = "", task: str = "", number: int = 1) -> Shelf:
        """Task counts are those of the search without the task filter, so that switching tasks keeps its promise."""
        words = query.lower().replace(BETWEEN, " ").split()
        found, meant = self._search(words), ""
        if not found and (mended := self._mended(words)) is not None and (found := self._search(mended)):
            meant = " ".join(mended)
        counts = Counter(variant.task for variant in found)
        chosen = [variant for variant in found if task in {"", variant.task}]
        pages = max(1, -(-len(chosen) // PAGE_CARDS))
        number = min(max(1, number), pages)
        return Shelf(
            variants=tuple(chosen[(number - 1) * PAGE_CARDS : number * PAGE_CARDS]),
            total=len(chosen),
            number=number,
            pages=pages,
            tasks=tuple(
                Task(name, count) for name, count in sorted(counts.items(), key=lambda i: (-i[1], i[0]))
            ),
            meant=meant,
        )

    def _search(self, words: Sequence[str]) -> Sequence[Variant]:
        """Every word must be found somewhere; names count more than tags, tags more than descriptions."""
        if not words:
            return self.variants
        ranked = ((_rank(self._places[at], words), at) for at in self._having(max(words, key=len)))
        return [self.variants[at] for _, at in sorted((rank, at) for rank, at in ranked if rank is not None)]

    def _having(self, word: str) -> Iterator[int]:
        """Positions of the variants whose texts have it."""
        place = 0
        while (place := self._text.find(word, place)) >= 0:
            at = bisect.bisect_right(self._starts, place) - 1
            yield at
            place = self._starts[at + 1]

    def _mended(self, words: Sequence[str]) -> list[str] | None:
        """Words that occur nowhere become the likeliest one that does; None where there is none, or no such word."""
        mended = [word if word in self._text else spelling.nearest(word, self._vocabulary) for word in words]
        whole = [word for word in mended if word is not None]
        return whole if len(whole) == len(words) and whole != list(words) else None

    @cached_property
    def _vocabulary(self) -> spelling.Lengths:
        """The words of names, tags and tasks, by length."""
        found = {word for names, facets, _ in self._places for word in WORD.findall(f"{names} {facets}")}
        return spelling.by_length(found)


def _places(variant: Variant) -> tuple[str, str, str]:
    return (
        f"{variant.slug} {variant.name or ''}".lower(),
        f"{variant.task} {variant.model} {' '.join(variant.tags)}".lower(),
        (variant.description or "").lower(),
    )


def _rank(places: Sequence[str], words: Sequence[str]) -> int | None:
    """Smaller is better; None where a word is missing. Equal ranks keep the catalogue's own order."""
    ranks = [next((rank for rank, place in enumerate(places) if word in place), None) for word in words]
    found = [rank for rank in ranks if rank is not None]
    return sum(found) if len(found) == len(ranks) else None
