"""Where files are named in a partner's answer, and the answer with our own addresses there. Pure.

A file is named by an http(s) address or a data URI under a key `url`, `…_url` or `…_urls`, or in a bare list of
addresses. Whatever else looks like an address is somebody's text and stays as it is.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from router.requests import Place, Record

Path = tuple[str | int, ...]

# No two parts of it can match the same letters: whoever writes long texts must not make us read them squared.
ADDRESS = re.compile(r"(?:https?://[^\s/]\S*|data:[\w.+-]+/[\w.+-]+(?:;[^\s,]*)?,\S*)", re.IGNORECASE)
KEYS = re.compile(r"url|\w*_urls?", re.IGNORECASE)


class Named(Record, frozen=True, kw_only=True):
    """One address, everywhere it stands, and what is said beside it."""

    address: str
    paths: tuple[Path, ...]
    beside: Mapping[str, Any]


def is_address(value: Any) -> bool:
    return isinstance(value, str) and ADDRESS.fullmatch(value) is not None


def named(result: Any) -> list[Named]:
    """In the order in which they appear."""
    found: dict[str, list[tuple[Path, Mapping[str, Any]]]] = {}
    for path, address, beside in _walk(result, (), {}, is_named=isinstance(result, list)):
        found.setdefault(address, []).append((path, beside))
    return [
        Named(address=address, paths=tuple(path for path, _ in at), beside=at[0][1])
        for address, at in found.items()
    ]


def _walk(
    value: Any, path: Path, beside: Mapping[str, Any], *, is_named: bool
) -> Iterator[tuple[Path, str, Mapping[str, Any]]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _walk(item, (*path, key), value, is_named=KEYS.fullmatch(key) is not None)
    elif isinstance(value, list):
        are_all = bool(value) and all(is_address(item) for item in value)
        for index, item in enumerate(value):
            yield from _walk(item, (*path, index), beside, is_named=is_named or are_all)
    elif is_named and is_address(value):
        yield path, value, beside


def replaced(result: Any, at: Mapping[Path, str]) -> Any:
    """A copy with other strings at these paths, and without NULs, which Postgres does not store."""
    return _copy(result, (), at)


def _copy(value: Any, path: Path, at: Mapping[Path, str]) -> Any:
    if isinstance(value, Mapping):
        return {key.replace("\0", ""): _copy(item, (*path, key), at) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_copy(item, (*path, index), at) for index, item in enumerate(value)]
    if path in at:
        return at[path]
    return value.replace("\0", "") if isinstance(value, str) else value


def filled(
    result: Mapping[str, Any], places: Sequence[Place], address: Callable[[int], str]
) -> dict[str, Any]:
    """A stored result as its caller gets it. `address`: of the file with this number."""
    whole = replaced(result, {place.path: address(place.file) for place in places})
    assert isinstance(whole, dict), "a result is an object"
    return whole
