"""Two catalogues → the changes that lead from one to the other, and how a person reads them. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from registry.catalog import AdapterManifest, Catalog, Manifest, Record

Kind = Literal["organization", "model", "variant", "version", "adapter", "adapter_version"]
Action = Literal["add", "change", "remove"]
MARKS: Mapping[Action, str] = {"add": "+", "change": "~", "remove": "-"}
SHOWN_CHARACTERS = 60


class Change(Record, frozen=True, kw_only=True):
    """One subject's way from `before` to `after`; None where it does not exist."""

    kind: Kind
    subject: str
    before: Any = None
    after: Any = None

    @property
    def action(self) -> Action:
        if self.before is None:
            return "add"
        return "remove" if self.after is None else "change"


def between(before: Catalog, after: Catalog) -> tuple[Change, ...]:
    """In the order in which they can be made: owners before what they own, removals last and in reverse.

    Contents that `after` does not know (weights that nobody pinned) are left as they are. Organizations are never
    removed: their usage and history name them.
    """
    steps = [
        *_titled(_compare("organization", _by_name(before.organizations), _by_name(after.organizations))),
        *_compare("model", _by_name(before.models), _by_name(after.models)),
        *_compare("variant", _by_slug(before.variants), _by_slug(after.variants)),
        *_kept(_compare("version", before.contents, after.contents)),
        *_compare("adapter", _by_slug(before.adapters), _by_slug(after.adapters)),
        *_kept(_compare("adapter_version", before.adapter_contents, after.adapter_contents)),
    ]
    removals = [step for step in steps if step.action == "remove"]
    return (*(step for step in steps if step.action != "remove"), *reversed(removals))


def _compare(kind: Kind, before: Mapping[Any, Any], after: Mapping[Any, Any]) -> Iterator[Change]:
    for subject, value in after.items():
        if (old := before.get(subject)) != value:
            yield Change(kind=kind, subject=subject, before=old, after=value)
    for subject, value in before.items():
        if subject not in after:
            yield Change(kind=kind, subject=subject, before=value)


def _kept(changes: Iterable[Change]) -> Iterator[Change]:
    return (change for change in changes if change.action != "remove")


def _titled(changes: Iterable[Change]) -> Iterator[Change]:
    """A file that only names an organization says nothing of its title."""
    return (change for change in _kept(changes) if change.before is None or change.after.title is not None)


def _by_name(records: Iterable[Any]) -> dict[str, Any]:
    return {record.name: record for record in records}


def _by_slug(records: Iterable[Any]) -> dict[str, Any]:
    return {record.slug: record for record in records}


def describe(changes: Iterable[Change]) -> Iterator[str]:
    """Lines like a diff's; the last counts."""
    counts: dict[str, int] = {"add": 0, "change": 0, "remove": 0}
    for change in changes:
        counts[change.action] += 1
        yield f"{MARKS[change.action]} {change.kind} {change.subject}{_summary(change)}"
        if change.action == "change":
            yield from _fields(change.before, change.after)
    yield f"{counts['add']} to add, {counts['change']} to change, {counts['remove']} to remove"


def _summary(change: Change) -> str:
    match change.after:
        case Manifest() as manifest:
            return f"  {manifest.digest[:19]}  {len(manifest.components)} components, {manifest.size_bytes:,} bytes"
        case AdapterManifest() as manifest:
            return f"  {manifest.digest[:19]}  rank {manifest.rank}, {manifest.size_bytes:,} bytes"
        case _:
            return ""


def _fields(before: Any, after: Any) -> Iterator[str]:
    old, new = msgspec.to_builtins(before), msgspec.to_builtins(after)
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            yield f"    {name}: {_short(old.get(name))} → {_short(new.get(name))}"


def _short(value: Any) -> str:
    text = (
        "(none)"
        if value is None
        else value
        if isinstance(value, str)
        else msgspec.json.encode(value).decode()
    )
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"
