"""What a router was told is here, tier by tier, under the digests that it knows.

Not thread-safe: `books` calls it under its lock, so that what came and went is told in that order. A cast copy of a
component is the same component to a router, so it is told of one digest for several of ours.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Container, Iterator

from loaders.protocol import Held, Residency, Tier
from registry.catalog import Digest

OnChange = Callable[[Residency], None]
DropFiles = Callable[[Digest, Container[Digest]], None]  # what leaves the disk, and what stays there


class Announced:
    """`on_change` is told of every arrival and departure."""

    def __init__(self, on_change: OnChange, drop_files: DropFiles) -> None:
        self._known: dict[tuple[Tier, Digest], Digest] = {}
        self._forms: defaultdict[Tier, Counter[Digest]] = defaultdict(
            Counter
        )  # how many of ours are one of the router's
        self._on_change = on_change
        self._drop_files = drop_files

    def __contains__(self, place: tuple[Tier, Digest]) -> bool:
        return place in self._known

    def __iter__(self) -> Iterator[tuple[tuple[Tier, Digest], Digest]]:
        """Tier and our digest, then the router's."""
        return iter(self._known.items())

    def of(self, tier: Tier) -> frozenset[Digest]:
        """By our own digests."""
        return frozenset(digest for where, digest in self._known if where == tier)

    def known_as(self, reported: Collection[Digest]) -> list[tuple[Tier, Digest]]:
        """Ours, of the router's."""
        return [place for place, known in self._known.items() if known in reported]

    def remember(self, tier: Tier, digest: Digest) -> None:
        """Here before any router listened."""
        self._know(tier, digest, digest)

    def add(self, tier: Tier, digest: Digest, reported: Digest, size_bytes: int) -> None:
        self._know(tier, digest, reported)
        self._on_change(Residency(added=(Held(digest=reported, tier=tier, size_bytes=size_bytes),)))

    def remove(self, tier: Tier, digest: Digest, size_bytes: int) -> None:
        """What left the disk takes its files along."""
        reported = self._known.pop((tier, digest), None)
        if reported is None:
            return  # never came
        staying = self._forms[tier]
        staying[reported] -= 1
        if staying[reported]:
            return  # is here in another dtype too
        del staying[reported]
        self._on_change(Residency(removed=(Held(digest=reported, tier=tier, size_bytes=size_bytes),)))
        if tier == "disk":
            self._drop_files(reported, staying)

    def check_integrity(self) -> None:
        for tier, forms in self._forms.items():
            assert forms == Counter(one for (where, _), one in self._known.items() if where == tier)

    def _know(self, tier: Tier, digest: Digest, reported: Digest) -> None:
        if (tier, digest) not in self._known:
            self._forms[tier][reported] += 1
        self._known[tier, digest] = reported
