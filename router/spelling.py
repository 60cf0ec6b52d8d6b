"""Which of many names was probably meant by one that does not exist. Pure."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from rapidfuzz import fuzz, process, utils

CANDIDATES = 8  # the caller may not know the first ones
LEAST_LIKENESS = 80  # of 100
LEAST_LIKENESS_OF_WORDS = 70  # a short word with two letters swapped
EDGE = 6  # letters
Name = TypeVar("Name", bound=str)
Lengths = Mapping[int, Sequence[str]]


class Names(Generic[Name]):
    """Names that can be guessed at, by their first and their last letters: a slip leaves one of the two as it was.

    Case and punctuation count for nothing: `flux.1-DEV` is `FLUX.1-dev`. Reading all of them waits for the first guess,
    where nobody did it before.
    """

    def __init__(self, names: Collection[Name]) -> None:
        self._names = names
        self._read: Read[Name] | None = None

    def read(self) -> "Read[Name]":
        """Takes a fifth of a second for 100,000."""
        if self._read is None:
            self._read = Read(self._names)
        return self._read

    def near(self, wrong: str) -> Iterator[Name]:
        """The likeliest first."""
        known = self.read()
        names, plain = known.names, known.plain
        meant = utils.default_process(wrong)
        found = process.extract(
            meant,
            {at: plain[at] for at in known.sharing_an_edge(meant)},
            scorer=fuzz.ratio,
            limit=CANDIDATES,
            score_cutoff=LEAST_LIKENESS,
        )
        return (names[at] for _, _, at in found)


class Read(Generic[Name]):
    """Names, how they are compared, and which positions have which first and last letters."""

    def __init__(self, names: Iterable[Name]) -> None:
        self.names = tuple(names)
        self.plain = [utils.default_process(name) for name in self.names]
        self._firsts: dict[str, list[int]] = defaultdict(list)
        self._lasts: dict[str, list[int]] = defaultdict(list)
        for at, plain in enumerate(self.plain):
            self._firsts[plain[:EDGE]].append(at)
            self._lasts[plain[-EDGE:]].append(at)

    def sharing_an_edge(self, plain: str) -> Iterable[int]:
        return dict.fromkeys([*self._firsts.get(plain[:EDGE], ()), *self._lasts.get(plain[-EDGE:], ())])


def by_length(words: Iterable[str]) -> Lengths:
    found: dict[int, list[str]] = defaultdict(list)
    for word in sorted(words):
        found[len(word)].append(word)
    return dict(found)


def nearest(wrong: str, words: Lengths) -> str | None:
    """The likeliest of them; of those as likely the first in the alphabet. Only words of about its length are asked."""
    best: tuple[float, str] | None = None
    for length in sorted(range(len(wrong) - 2, len(wrong) + 3), key=lambda length: abs(length - len(wrong))):
        found = process.extractOne(
            wrong, words.get(length, ()), scorer=fuzz.ratio, score_cutoff=LEAST_LIKENESS_OF_WORDS
        )
        if found is not None and (best is None or found[1] > best[0]):
            best = (found[1], found[0])
    return None if best is None else best[1]
