"""Which cards a visitor sees: search words, a task, one page of the rest. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from registry.catalog import Variant

PAGE_CARDS = 24


class Task(msgspec.Struct, frozen=True):
    """A task that the catalogue has, and how many variants of the search do it."""

    name: str
    count: int


class Shelf(msgspec.Struct, frozen=True, kw_only=True):
    """One page of search results; `number` counts from 1."""

    variants: tuple[Variant, ...]
    total: int
    number: int
    pages: int
    tasks: tuple[Task, ...]


def shelf(variants: Iterable[Variant], *, query: str = "", task: str = "", number: int = 1) -> Shelf:
    """Task counts are those of the search without the task filter, so that switching tasks keeps its promise."""
    found = search(variants, query)
    counts = Counter(variant.task for variant in found)
    chosen = [variant for variant in found if task in {"", variant.task}]
    pages = max(1, -(-len(chosen) // PAGE_CARDS))
    number = min(max(1, number), pages)
    return Shelf(
        variants=tuple(chosen[(number - 1) * PAGE_CARDS : number * PAGE_CARDS]),
        total=len(chosen),
        number=number,
        pages=pages,
        tasks=tuple(Task(name, count) for name, count in sorted(counts.items(), key=lambda i: (-i[1], i[0]))),
    )


def search(variants: Iterable[Variant], query: str) -> Sequence[Variant]:
    """Every word must be found somewhere; names count more than tags, tags more than descriptions."""
    words = query.lower().split()
    ranked = [(_rank(variant, words), variant) for variant in variants]
    return [variant for rank, variant in sorted(ranked, key=lambda pair: pair[0] or 0) if rank is not None]


def _rank(variant: Variant, words: Sequence[str]) -> int | None:
    """Smaller is better; None where a word is missing. Equal ranks keep the catalogue's own order."""
    places = (
        f"{variant.slug} {variant.name or ''}".lower(),
        f"{variant.task} {variant.model} {' '.join(variant.tags)}".lower(),
        (variant.description or "").lower(),
    )
    ranks = [next((rank for rank, place in enumerate(places) if word in place), None) for word in words]
    found = [rank for rank in ranks if rank is not None]
    return sum(found) if len(found) == len(ranks) else None
