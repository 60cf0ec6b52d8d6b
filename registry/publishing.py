"""A version's states and its legal moves, what a lab's requests must hold, and what was live when. Pure.

Stored is only what somebody did (draft, validating, validated, rejected); scheduled, live, sunset and retired follow
from the releases and the time, so a launch needs nobody to write anything at its second.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from registry import prices, windows
from registry.catalog import OrganizationName, Price, Record, Release, Share, VersionState, Window
from registry.errors import IllegalMoveError, InvalidRequestError
from registry.manifest import ORGANIZATION, RESERVED_OWNERS, RESERVED_SEGMENTS, SLUG, SLUG_CHARACTERS
from registry.windows import Gone, Open, Phase

MOVES: Mapping[VersionState, frozenset[VersionState]] = {
    "draft": frozenset({"validating"}),
    "validating": frozenset({"validated", "rejected", "draft"}),  # draft: the validating process died
    "rejected": frozenset({"validating"}),
    "validated": frozenset({"scheduled", "live"}),
    "scheduled": frozenset({"scheduled", "live", "validated"}),
    "live": frozenset({"live", "scheduled", "sunset", "retired", "validated"}),
    "sunset": frozenset({"live", "sunset", "retired"}),
    "retired": frozenset({"live"}),  # a retirement can be taken back
}
PUBLIC = OrganizationName("")  # stands for a caller whom no window names


class Recorded(Record, frozen=True, kw_only=True):
    """A release with the times at which it was made and withdrawn."""

    release: Release
    created_by: str
    created_at: datetime
    withdrawn_at: datetime | None = None


def move(before: VersionState, after: VersionState) -> VersionState:
    """Raises `IllegalMoveError`."""
    if after not in MOVES[before]:
        raise IllegalMoveError(before, after)
    return after


def state_at(stored: VersionState, number: int, releases: Sequence[Release], now: datetime) -> VersionState:
    """What a version is at `now`, seen by the public; whoever was live and was replaced is validated again."""
    if stored in {"draft", "validating", "rejected"}:
        return stored
    mine = [release for release in releases if any(share.version == number for share in release.shares)]
    match windows.resolve(releases, PUBLIC, now):
        case Open(release=release, phase=phase) if release in mine:
            return "sunset" if phase is Phase.SUNSET else "live"
        case Gone() if any(windows.phase(release.window, now) is Phase.RETIRED for release in mine):
            return "retired"
    ahead = (Phase.EMBARGO, Phase.PREVIEW, Phase.EXCLUSIVE)
    return (
        "scheduled" if any(windows.phase(release.window, now) in ahead for release in mine) else "validated"
    )


def live_at(
    recorded: Iterable[Recorded], organization: OrganizationName, when: datetime
) -> windows.Resolution:
    """What answered a caller at `when`, by the releases that existed then."""
    known = [
        entry.release
        for entry in recorded
        if entry.created_at <= when and (entry.withdrawn_at is None or when < entry.withdrawn_at)
    ]
    return windows.resolve(known, organization, when)


def before(releases: Iterable[Release], current: Release, now: datetime) -> Release | None:
    """What was public before `current` with other shares: where a rollback leads."""
    opened = [
        (since, release.id, release)
        for release in releases
        if release.shares != current.shares
        and (since := windows.opened_at(release.window, PUBLIC, now)) is not None
    ]
    return max(opened, key=lambda entry: entry[:2])[2] if opened else None


def ended(releases: Sequence[Release], now: datetime) -> Release | None:
    """Of a slug that is retired: the release that ended it, whose shares answered last."""
    match windows.resolve(releases, PUBLIC, now):
        case Gone(since=since):
            ends = [release for release in releases if release.window.retired_from == since]
            return max(ends, key=lambda release: release.id)
        case _:
            return None


def check_window(window: Window, now: datetime) -> Window:
    """Raises `InvalidRequestError` for a window that makes no sense or would rewrite the past."""
    for problem in windows.problems(window):
        raise InvalidRequestError("window", problem)
    times = ("preview_from", "exclusive_from", "public_from", "sunset_from", "retired_from")
    given = [name for name in times if getattr(window, name) is not None]
    if not given:
        raise InvalidRequestError(
            "window", "it never opens; give a time, or leave the window out to release now"
        )
    for name in given:
        if getattr(window, name) < now:
            raise InvalidRequestError(
                f"window.{name}", "lies in the past; leave the window out to release now"
            )
    return window


def check_shares(shares: Sequence[Share], known: Iterable[int]) -> tuple[Share, ...]:
    """Raises `InvalidRequestError`."""
    numbers = [share.version for share in shares]
    if not 1 <= len(shares) <= 2 or len(set(numbers)) < len(numbers):
        raise InvalidRequestError("shares", "one version, or two different ones")
    if sum(share.percent for share in shares) != 100 or any(
        not 0 <= share.percent <= 100 for share in shares
    ):
        raise InvalidRequestError("shares", "percents are from 0 to 100 and add up to 100")
    if missing := set(numbers) - set(known):
        raise InvalidRequestError("shares", f"version {min(missing)} does not exist or is not validated")
    return tuple(shares)


def check_slug(slug: str, owner: str) -> str:
    """Raises `InvalidRequestError`; whether the owner may use it is another question."""
    segments = slug.split("/")
    if not SLUG.fullmatch(slug) or len(slug) > SLUG_CHARACTERS:
        raise InvalidRequestError("slug", "owner/name, of letters, digits, . _ - and /")
    if segments[0] != owner:
        raise InvalidRequestError("slug", f"it must begin with {owner}/")
    if segments[0] in RESERVED_OWNERS or RESERVED_SEGMENTS & set(segments):
        raise InvalidRequestError("slug", "it uses a reserved word")
    return slug


def check_organization(name: str) -> OrganizationName:
    if not ORGANIZATION.fullmatch(name) or name in RESERVED_OWNERS:
        raise InvalidRequestError("name", "letters, digits, . _ and -, at most 64, and no reserved word")
    return OrganizationName(name)


def check_price(price: Price | None, defaults: Mapping[str, object]) -> None:
    """Raises `InvalidRequestError`."""
    if (reason := prices.problem(price, defaults)) is not None:
        raise InvalidRequestError("price", reason)


def check_schema(schema: Mapping[str, object]) -> Mapping[str, object]:
    """A JSON Schema of an object, whose own examples it accepts. Raises `InvalidRequestError`.

    Whole in itself: a `$ref` to an address or a file would be read by us, wherever it leads.
    """
    import jsonschema_rs

    if schema.get("type") != "object":
        raise InvalidRequestError("input_schema", "it must describe an object")
    try:
        validator = jsonschema_rs.Draft202012Validator(msgspec.to_builtins(schema), offline=True)
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise InvalidRequestError("input_schema", str(error).splitlines()[0]) from error
    examples = schema.get("examples", [])
    for example in examples if isinstance(examples, list) else []:
        if not validator.is_valid(example):
            raise InvalidRequestError("input_schema.examples", "the schema refuses its own example")
    return schema
