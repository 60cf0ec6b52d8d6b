"""Releases: schedule, open now, split, roll back, deprecate, retire, withdraw; and what was live when. IO.

A release is never edited. Whatever changes is a newer one, so the answer to "what was live then" cannot be lost.
"""

import datetime as dt
from collections.abc import Sequence

import msgspec
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession

from registry import desk, publishing, store, versions, windows
from registry.catalog import Caller, OrganizationName, Record, Release, Share, Slug, Window
from registry.errors import IllegalMoveError, InvalidRequestError, UnknownSubjectError
from registry.goods import VARIANTS, Goods
from registry.publishing import PUBLIC, Recorded
from registry.windows import Gone, Open


class ReleaseBody(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Without a window it opens now, to everybody."""

    shares: tuple[Share, ...]
    window: Window | None = None


class Deprecation(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Without times: deprecated now, retired never."""

    successor: str | None = None
    sunset_from: dt.datetime | None = None
    retired_from: dt.datetime | None = None


class Retirement(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    successor: str | None = None


class LiveAt(Record, frozen=True, kw_only=True):
    """What answered at one moment: nothing, a release in a phase, or a notice of retirement."""

    at: dt.datetime
    phase: str
    shares: tuple[Share, ...] = ()
    release: int | None = None
    successor: Slug | None = None


async def create(
    session: AsyncSession,
    caller: Caller,
    slug: str,
    body: ReleaseBody,
    expected: int | None = None,
    goods: Goods = VARIANTS,
) -> Recorded:
    """Raises `InvalidRequestError`, `IllegalMoveError`, `StaleError`."""
    row = await desk.row_of(session, caller, goods.table, slug, lock=True)
    desk.check_revision(row, expected)
    now = await _now(session)
    window = Window(public_from=now) if body.window is None else publishing.check_window(body.window, now)
    views = await versions.views(session, caller, slug, [share.version for share in body.shares], goods)
    ready = [view.number for view in views if view.digest is not None]
    for view in views:
        opens_now = windows.opening(window) == now
        if view.digest is None or view.state == "rejected":
            raise IllegalMoveError(view.state, "live" if opens_now else "scheduled")
    shares = publishing.check_shares(body.shares, ready)
    if window.successor is not None:
        await _check_successor(session, window.successor, goods)
    return await _add(session, caller, slug, shares, window, goods)


async def roll_back(session: AsyncSession, caller: Caller, slug: str, goods: Goods = VARIANTS) -> Recorded:
    """What was public before becomes public again, now; of what is retired, what answered last."""
    await desk.row_of(session, caller, goods.table, slug, lock=True)
    now = await _now(session)
    releases = await store.read_releases(session, slug, goods)
    previous = publishing.ended(releases, now)
    if previous is None:
        previous = publishing.before(releases, _public(slug, releases, now, goods), now)
    if previous is None:
        raise InvalidRequestError("release", "nothing else was public before")
    return await _add(session, caller, slug, previous.shares, Window(public_from=now), goods)


async def deprecate(
    session: AsyncSession, caller: Caller, slug: str, body: Deprecation, goods: Goods = VARIANTS
) -> Recorded:
    """Answers go on, with a warning, the date of the end, and the successor."""
    await desk.row_of(session, caller, goods.table, slug, lock=True)
    now = await _now(session)
    current = _public(slug, await store.read_releases(session, slug, goods), now, goods)
    successor = await _check_successor(session, body.successor, goods) if body.successor else None
    window = Window(
        public_from=now,
        sunset_from=body.sunset_from or now,
        retired_from=body.retired_from,
        successor=successor,
    )
    return await _add(session, caller, slug, current.shares, publishing.check_window(window, now), goods)


async def retire(
    session: AsyncSession, caller: Caller, slug: str, body: Retirement, goods: Goods = VARIANTS
) -> Recorded:
    """From now on: 410, with the successor's name."""
    await desk.row_of(session, caller, goods.table, slug, lock=True)
    now = await _now(session)
    current = _public(slug, await store.read_releases(session, slug, goods), now, goods)
    successor = await _check_successor(session, body.successor, goods) if body.successor else None
    return await _add(
        session, caller, slug, current.shares, Window(retired_from=now, successor=successor), goods
    )


async def withdraw(
    session: AsyncSession, caller: Caller, slug: str, release_id: int, goods: Goods = VARIANTS
) -> None:
    """Takes back a release that did not open yet; what was open is history and stays."""
    await desk.row_of(session, caller, goods.table, slug, lock=True)
    now = await _now(session)
    for entry in await recorded(session, slug, goods):
        if entry.release.id != release_id or entry.withdrawn_at is not None:
            continue
        opens = windows.opening(entry.release.window)
        if opens is not None and opens <= now:
            raise InvalidRequestError("release", "it opened already; roll back or retire instead")
        releases = goods.releases
        statement = sqlalchemy.update(releases).where(releases.c.id == release_id).values(withdrawn_at=now)
        await session.execute(statement)
        await desk.bump(session, goods.table, slug, {})
        await desk.note(session, caller, goods.release_kind, slug, entry.release, None)
        return
    raise UnknownSubjectError("release", f"{release_id} of {slug}")


async def recorded(session: AsyncSession, slug: str, goods: Goods = VARIANTS) -> tuple[Recorded, ...]:
    """Every release there ever was, oldest first, the withdrawn ones too."""
    releases = goods.releases
    query = sqlalchemy.select(releases).where(releases.c[goods.noun] == slug).order_by(releases.c.id)
    return tuple(
        [
            Recorded(
                release=store.release_of(row, goods),
                created_by=row["created_by"],
                created_at=row["created_at"],
                withdrawn_at=row["withdrawn_at"],
            )
            for row in (await session.execute(query)).mappings()
        ]
    )


async def live_at(
    session: AsyncSession,
    slug: str,
    organization: OrganizationName,
    when: dt.datetime | None,
    goods: Goods = VARIANTS,
) -> LiveAt:
    """None: now."""
    when = when or await _now(session)
    match publishing.live_at(await recorded(session, slug, goods), organization, when):
        case Open(release=release, phase=phase):
            return LiveAt(
                at=when,
                phase=phase,
                shares=release.shares,
                release=release.id,
                successor=release.window.successor,
            )
        case Gone(successor=successor):
            return LiveAt(at=when, phase="retired", successor=successor)
        case _:
            return LiveAt(at=when, phase="embargo")


def _public(slug: str, releases: Sequence[Release], now: dt.datetime, goods: Goods) -> Release:
    answer = windows.resolve(releases, PUBLIC, now)
    if not isinstance(answer, Open):
        raise InvalidRequestError(goods.noun, f"{slug} is not public now")
    return answer.release


async def _check_successor(session: AsyncSession, slug: str, goods: Goods) -> Slug:
    """It must be a slug that the public may know. Raises `InvalidRequestError`."""
    releases = await store.read_releases(session, slug, goods)
    now = await _now(session)
    if not any(windows.admits(release.window, PUBLIC, now) for release in releases):
        raise InvalidRequestError("successor", f"{slug} is not public")
    return Slug(slug)


async def _add(
    session: AsyncSession,
    caller: Caller,
    slug: str,
    shares: tuple[Share, ...],
    window: Window,
    goods: Goods,
) -> Recorded:
    values = {
        goods.noun: slug,
        "shares": msgspec.to_builtins(shares),
        "window": msgspec.to_builtins(window),
        "created_by": caller.key_id,
        "created_at": sqlalchemy.func.clock_timestamp(),
    }
    releases = goods.releases
    statement = sqlalchemy.insert(releases).values(**values).returning(releases)
    row = (await session.execute(statement)).mappings().one()
    release = store.release_of(row, goods)
    await desk.bump(session, goods.table, slug, {})
    await desk.note(session, caller, goods.release_kind, slug, None, release)
    return Recorded(release=release, created_by=row["created_by"], created_at=row["created_at"])


async def _now(session: AsyncSession) -> dt.datetime:
    clock: dt.datetime = (await session.execute(store.CLOCK)).scalar_one()
    return clock
