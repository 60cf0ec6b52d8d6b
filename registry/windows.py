"""Launch windows: a release's phase at `now`, which release answers a caller, when weights must be warm. Pure.

Of all releases that admit a caller, the one that opened last answers, so a rollback is simply a newer release and
a scheduled launch takes over at its second without anybody acting.
"""

import itertools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from enum import StrEnum

import msgspec

from registry.catalog import OrganizationName, Record, Release, Share, Slug, Window

LAST_YEAR = 9998  # beyond it, a time in another zone may be none that a calendar has
MOST_REPLICAS = 10_000


class Phase(StrEnum):
    """In order of time; a window may skip any."""

    EMBARGO = "embargo"
    PREVIEW = "preview"
    EXCLUSIVE = "exclusive"
    PUBLIC = "public"
    SUNSET = "sunset"
    RETIRED = "retired"


class Open(Record, frozen=True, kw_only=True):
    """A release answers the caller."""

    release: Release
    phase: Phase
    until: datetime | None  # when this answer may be another: resolve again from then on


class Gone(Record, frozen=True, kw_only=True):
    """The slug was retired."""

    since: datetime
    successor: Slug | None


class Hidden(Record, frozen=True, kw_only=True):
    """For this caller the slug does not exist (yet): an unknown slug looks the same."""

    until: datetime | None


Resolution = Open | Gone | Hidden


def phase(window: Window, now: datetime) -> Phase:
    """The latest phase whose time has come."""
    reached = Phase.EMBARGO
    for name, start in _starts(window):
        if start is not None and start <= now:
            reached = name
    return reached


def admits(window: Window, organization: OrganizationName, now: datetime) -> bool:
    match phase(window, now):
        case Phase.PUBLIC | Phase.SUNSET:
            return True
        case Phase.EXCLUSIVE:
            return organization in window.exclusive_organizations
        case Phase.PREVIEW:
            return organization in window.preview_organizations
        case Phase.EMBARGO | Phase.RETIRED:
            return False


def opened_at(window: Window, organization: OrganizationName, now: datetime) -> datetime | None:
    """Since when the caller has been admitted without a break; None when not admitted now."""
    opened = None
    for _, start in _starts(window):
        if start is None or start > now:
            continue
        if not admits(window, organization, start):
            opened = None
        elif opened is None:
            opened = start
    return opened if admits(window, organization, now) else None


def resolve(releases: Iterable[Release], organization: OrganizationName, now: datetime) -> Resolution:
    """What a caller gets at `now`. A mere retirement counts as opened when it began, so it hides what is older; the
    end of a release counts from where that opened, so it ends nothing that was released since.
    """
    latest: tuple[datetime, int] | None = None
    best: tuple[Release, Phase] | None = None
    until: datetime | None = None
    for release in releases:
        reached, since, change = _standing(release.window, organization, now)
        until = _earliest(until, change)
        if since is not None and (latest is None or (since, release.id) > latest):
            latest, best = (since, release.id), (release, reached)
    if latest is None or best is None:
        return Hidden(until=until)
    release, reached = best
    if reached is Phase.RETIRED:
        return Gone(since=release.window.retired_from or now, successor=release.window.successor)
    return Open(release=release, phase=reached, until=until)


def _standing(
    window: Window, organization: OrganizationName, now: datetime
) -> tuple[Phase, datetime | None, datetime | None]:
    """A release's phase, since when it answers this caller (None: it does not), and when that may change."""
    opens = window.public_from
    if opens is not None and opens <= now and _is_only_public(window):  # nearly every release there is
        return Phase.PUBLIC, opens, None
    reached = phase(window, now)
    if reached is Phase.RETIRED:
        since = _opened_before_its_end(window, organization) or window.retired_from
    else:
        since = opened_at(window, organization, now)
    return reached, since, next_change(window, now)


def _opened_before_its_end(window: Window, organization: OrganizationName) -> datetime | None:
    assert window.retired_from is not None, "asked of what has ended"
    return opened_at(msgspec.structs.replace(window, retired_from=None), organization, window.retired_from)


def _is_only_public(window: Window) -> bool:
    return (
        window.preview_from is None
        and window.exclusive_from is None
        and window.sunset_from is None
        and window.retired_from is None
    )


def farewell(window: Window, now: datetime) -> dict[str, str]:
    """The headers that warn a caller (RFC 9745, RFC 8594): since when it is deprecated, when it ends, what follows."""
    if phase(window, now) is not Phase.SUNSET or window.sunset_from is None:
        return {}
    headers = {"deprecation": f"@{int(window.sunset_from.timestamp())}"}
    if window.retired_from is not None:
        headers["sunset"] = format_datetime(window.retired_from.astimezone(UTC), usegmt=True)
    if window.successor is not None:
        headers["link"] = f'</v1/models?endpoint_id={window.successor}>; rel="successor-version"'
    return headers


def share_of(shares: Sequence[Share], lot: float) -> int:
    """The version that a draw from [0, 1) falls on; the same lot stays with its version while percents stay."""
    reached = 0.0
    for share in shares:
        reached += share.percent / 100
        if lot < reached:
            return share.version
    return shares[-1].version


def next_change(window: Window, now: datetime) -> datetime | None:
    """The next time at which this window's phase changes."""
    return min((start for _, start in _starts(window) if start is not None and start > now), default=None)


def opening(window: Window) -> datetime | None:
    """When the first callers are let in."""
    return min((start for name, start in _starts(window)[:3] if start is not None), default=None)


def prewarm_deadline(window: Window, now: datetime, staging_seconds: float) -> datetime | None:
    """When staging must begin at the latest for the weights to be warm at the opening; None when none is ahead.

    `prewarm_from` may ask for an earlier start, never for a later one.
    """
    opens = opening(window)
    if window.prewarm_replicas <= 0 or opens is None or opens <= now:
        return None
    latest = opens - timedelta(seconds=staging_seconds)
    asked = window.prewarm_from
    if (
        asked is None or asked.tzinfo is None
    ):  # stored before zones were asked for: which moment, nobody knows
        return latest
    return min(latest, asked)


def problems(window: Window) -> tuple[str, ...]:
    """Why a window makes no sense; empty when it does."""
    found: list[str] = []
    given = [(name, start) for name, start in _starts(window) if start is not None]
    times: list[tuple[str, datetime]] = [*given]
    if window.prewarm_from is not None:
        times.append(("prewarm_from", window.prewarm_from))
    found += [f"{name} has no time zone" for name, start in times if start.tzinfo is None]
    found += [f"{name} lies too far ahead" for name, start in times if start.year > LAST_YEAR]
    if found:
        return tuple(found)
    found += [
        f"{later} is to begin before {earlier}"
        for (earlier, first), (later, second) in itertools.pairwise(given)
        if second < first
    ]
    if window.preview_from is not None and not window.preview_organizations:
        found.append("preview names no organization")
    if window.exclusive_from is not None and not window.exclusive_organizations:
        found.append("exclusive names no organization")
    if not 0 <= window.prewarm_replicas <= MOST_REPLICAS:
        found.append(f"prewarm_replicas is from 0 to {MOST_REPLICAS}")
    return tuple(found)


def _starts(window: Window) -> tuple[tuple[Phase, datetime | None], ...]:
    return (
        (Phase.PREVIEW, window.preview_from),
        (Phase.EXCLUSIVE, window.exclusive_from),
        (Phase.PUBLIC, window.public_from),
        (Phase.SUNSET, window.sunset_from),
        (Phase.RETIRED, window.retired_from),
    )


def _earliest(first: datetime | None, second: datetime | None) -> datetime | None:
    if first is None or second is None:
        return first or second
    return min(first, second)
