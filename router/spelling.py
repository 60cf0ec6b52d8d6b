"""Which of many names was probably meant by one that does not exist. Pure."""

from collections.abc import Collection, Iterator
from typing import TypeVar

from rapidfuzz import fuzz, process, utils

CANDIDATES = 8  # the caller may not know the first ones
LEAST_LIKENESS = 80  # of 100
Name = TypeVar("Name", bound=str)


def near(wrong: str, names: Collection[Name]) -> Iterator[Name]:
    """The likeliest first. Case and punctuation count for nothing: `flux.1-DEV` is `FLUX.1-dev`."""
    found = process.extract(
        wrong,
        list(names),
        scorer=fuzz.ratio,
        processor=utils.default_process,
        limit=CANDIDATES,
        score_cutoff=LEAST_LIKENESS,
    )
    return (name for name, _, _ in found)
