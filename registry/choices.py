"""What may stand at a place of a record, for refusals that say what there is. Pure."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

UNKNOWN = re.compile(r"Object contains unknown field `(.+?)`")
INVALID = re.compile("Invalid enum value ")
PARTS = re.compile(r"[.\[\]]+")


def told(error: msgspec.ValidationError, kind: type) -> tuple[tuple[str, ...], str]:
    """Where it is wrong and what is; of a field or word that nobody knows also which there are."""
    reason, _, place = str(error).partition(" - at `$")
    below = tuple([part for part in PARTS.split(place.rstrip("`")) if part and part != "..."])
    if UNKNOWN.match(reason) or INVALID.match(reason):
        known = _known(msgspec.inspect.type_info(kind), below)
        reason = f"{reason}; there are {', '.join(known)}" if known else reason
    return below, reason


def _known(kind: Any, place: Sequence[str]) -> Sequence[str]:
    """The fields or words of the type at a place; none where it has no list of them."""
    inner: list[Any] = []
    match kind:
        case msgspec.inspect.LiteralType(values=values):
            return [str(value) for value in values]
        case msgspec.inspect.StructType(fields=fields) if not place:
            return [field.encode_name for field in fields]
        case msgspec.inspect.UnionType(types=types):
            return next(filter(None, (_known(one, place) for one in types)), ())
        case msgspec.inspect.StructType(fields=fields):
            inner = [field.type for field in fields if field.encode_name == place[0]]
        case msgspec.inspect.CollectionType(item_type=item) | msgspec.inspect.DictType(value_type=item):
            inner = [item]
    return next((_known(one, place[1:]) for one in inner if place), ())
