"""The catalogue and the keys in memory, immutable; replaced whole when the registry says that something changed.

`Snapshot` is pure: `now` comes in. `Catalogue` holds the current one and is IO.
"""

import asyncio
import contextlib
from collections import ChainMap
from collections.abc import AsyncIterator, Collection, Mapping, MutableMapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import structlog

from registry import brought, defaults, feed, keys, store, windows
from registry.catalog import (
    Adapter,
    AdapterManifest,
    Caller,
    Digest,
    Manifest,
    OrganizationName,
    Partner,
    Release,
    Scope,
    Slug,
    Variant,
    Version,
)
from registry.database import Database
from registry.settings import PROVIDERS, partner_key, variable
from router import blobs, spelling
from router.errors import ForbiddenError, UnauthorizedError, UnavailableError, UnknownSlugError
from router.inputs import Checker, Checkers

log = structlog.get_logger("marquee.snapshot")


NOBODY = OrganizationName("")  # a visitor without a key
RELOAD_PAUSE_SECONDS = 1.0  # after a reload that failed
CLOCK_LOOKS = 3
CAUGHT_UP_SECONDS = 10.0  # a hundred thousand variants take half of it


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """What answers a caller's slug: a version that hosts run, or the variant's partner."""

    variant: Variant
    version: Version | None  # None: its partner
    digest: Digest  # of either, which is costly to compute for each call
    checker: Checker


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """A version's contents with what its variant adds at run time."""

    manifest: Manifest
    defaults: Mapping[str, Any]


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All that a request is resolved against."""

    variants: Mapping[Slug, Variant] = {}
    names: spelling.Names[Slug] = spelling.Names(())  # of the variants
    releases: Mapping[Slug, tuple[Release, ...]] = {}
    versions: Mapping[tuple[Slug, int], Version] = {}
    digests: Mapping[tuple[Slug, int], Digest] = {}  # of the versions
    adapters: Mapping[tuple[Slug, int], Adapter] = {}
    adapter_releases: Mapping[Slug, tuple[Release, ...]] = {}
    adapter_names: spelling.Names[Slug] = spelling.Names(())
    callers: Mapping[bytes, Caller] = {}
    described: Mapping[Digest, Described] = {}
    described_adapters: Mapping[Digest, AdapterManifest] = {}
    checkers: Checkers = Checkers({})
    partners: Mapping[Digest, Partner] = {}  # of all partner variants, configured or not
    configured: frozenset[str] = frozenset()  # providers that we have a key of
    blobs: Mapping[str, Path] = {}  # files of versions and adapters that lie in a folder, by sha256

    def caller_of(self, key_id: str) -> Caller | None:
        """By a key's public id; None once it is revoked."""
        return next((c for c in self.callers.values() if c.key_id == key_id), None)

    def caller(self, token: str | None, scope: Scope | None) -> Caller:
        """Who holds this token; with `scope`, only if the key has it. Raises `UnauthorizedError`, `ForbiddenError`."""
        caller = None if token is None else self.callers.get(keys.hash_of(token))
        if caller is None:
            raise UnauthorizedError("a valid key is needed: Authorization: Key …")
        if scope is not None and scope not in caller.scopes:
            raise ForbiddenError(scope)
        return caller

    def blob(self, sha256: str) -> Path | None:
        """A file of some version that lies in a folder here, for hosts that cannot read the folder."""
        return self.blobs.get(sha256)

    def adapter(
        self, slug: str, caller: Caller | None, now: datetime, lot: float = 0.0
    ) -> Adapter | windows.Gone | None:
        """What answers a caller's LoRA; None for one that does not exist for the caller (yet)."""
        organization = NOBODY if caller is None else caller.organization
        match windows.resolve(self.adapter_releases.get(Slug(slug), ()), organization, now):
            case windows.Open(release=release):
                return self.adapters[Slug(slug), windows.share_of(release.shares, lot)]
            case windows.Gone() as gone:
                return gone
            case _:
                return None

    def unknown(self, slug: str, caller: Caller | None, now: datetime) -> UnknownSlugError:
        """With the name that was probably meant, where the caller may know it."""
        near = (name for name in self.names.near(slug) if self.visible(name, caller, now))
        return UnknownSlugError(slug, next(near, None))

    def visible(self, slug: str, caller: Caller | None, now: datetime) -> bool:
        """Whether the caller may know that this variant exists."""
        variant = self.variants.get(Slug(slug))
        releases = self.releases.get(Slug(slug))
        if variant is None or not releases:
            return variant is not None and _is_listed(variant)
        organization = NOBODY if caller is None else caller.organization
        return isinstance(windows.resolve(releases, organization, now), windows.Open)

    def farewell(self, slug: Slug, caller: Caller, now: datetime) -> dict[str, str]:
        """Headers for a variant that will end; empty for all others."""
        match windows.resolve(self.releases.get(slug, ()), caller.organization, now):
            case windows.Open(release=release):
                return windows.farewell(release.window, now)
            case _:
                return {}

    def resolve(
        self, slug: str, caller: Caller, now: datetime, lot: float, wanted: Digest | None = None
    ) -> Resolved:
        """`lot` from [0, 1) draws among versions that share traffic, unless the `wanted` one is among them.

        Raises `UnknownSlugError`, `UnavailableError`.
        """
        variant = self.variants.get(Slug(slug))
        if variant is None:
            raise self.unknown(slug, caller, now)
        answer = windows.resolve(self.releases.get(variant.slug, ()), caller.organization, now)
        match answer:
            case windows.Open(release=release):
                shared = (share.version for share in release.shares if share.percent)
                asked = (n for n in shared if self.digests[variant.slug, n] == wanted)
                number = next(asked, None) or windows.share_of(release.shares, lot)
                return Resolved(
                    variant=variant,
                    version=self.versions[variant.slug, number],
                    digest=self.digests[variant.slug, number],
                    checker=self.checkers[variant.slug],
                )
            case windows.Gone(successor=successor):
                hint = f"; {successor} took its place" if successor else ""
                raise UnavailableError(slug, f"it was retired{hint}", is_gone=True)
            case windows.Hidden():
                if self.releases.get(variant.slug) or not _is_listed(variant):
                    raise self.unknown(slug, caller, now)
                if variant.partner is not None and self.is_served(variant):
                    digest, checker = variant.partner.digest, self.checkers[variant.slug]
                    return Resolved(variant=variant, version=None, digest=digest, checker=checker)
                raise UnavailableError(slug, _nothing_to_run(variant))

    def is_served(self, variant: Variant) -> bool:
        """Whether its partner answers for it."""
        return variant.partner is not None and variant.partner.provider in self.configured

    def is_callable(self, variant: Variant) -> bool:
        """Whether something answers: a release, or a partner that is configured."""
        return bool(self.releases.get(variant.slug)) or self.is_served(variant)


def _is_listed(variant: Variant) -> bool:
    """Without any release, what a catalogue file lists is known to all; what a lab has not released is its own."""
    return variant.source is not None or variant.partner is not None


def _nothing_to_run(variant: Variant) -> str:
    if variant.partner is not None:
        provider = variant.partner.provider
        if provider not in PROVIDERS:
            return f"no partner {provider} is known here"
        setting = variable(partner_key(provider))
        return f"its partner {provider} is not configured here; the operator has to set {setting}"
    where = f" ({variant.source.location})" if variant.source else ""
    return f"its weights{where} are not pinned yet; the operator has to run `marquee catalog pin` and `apply`"


def build(
    rows: store.CatalogRows,
    callers: Mapping[bytes, Caller],
    before: Snapshot | None = None,
    configured: frozenset[str] = frozenset(),
    brought: MutableMapping[Digest, AdapterManifest] | None = None,
) -> Snapshot:
    """`brought` is looked up after the catalogue's own, and may grow: a digest means the same for ever."""
    listed = {adapter.manifest.digest: adapter.manifest for adapter in rows.adapters}
    variants = {variant.slug: variant for variant in rows.variants}
    digests = {(version.variant, version.number): version.digest for version in rows.versions}
    return Snapshot(
        names=spelling.Names(variants),
        variants=variants,
        releases=store.by_slug(rows.releases),
        versions={(version.variant, version.number): version for version in rows.versions},
        digests=digests,
        adapters={(adapter.slug, adapter.version): adapter for adapter in rows.adapters},
        adapter_releases=store.by_slug(rows.adapter_releases),
        adapter_names=spelling.Names(dict.fromkeys(adapter.slug for adapter in rows.adapters)),
        callers=callers,
        described={
            digests[version.variant, version.number]: Described(
                manifest=version.manifest, defaults=defaults.for_hosts(variants[version.variant])
            )
            for version in rows.versions
        },
        described_adapters=ChainMap(listed, {} if brought is None else brought),
        checkers=Checkers(variants, None if before is None else before.checkers),
        partners={v.partner.digest: v.partner for v in rows.variants if v.partner is not None},
        configured=configured,
        blobs=dict(blobs.lying_here(rows)),
    )


class Catalogue:
    """The current snapshot, kept current."""

    def __init__(self, db: Database, configured: frozenset[str] = frozenset()) -> None:
        self._db = db
        self._configured = configured  # providers
        self._ahead = timedelta()  # how far the database's clock is ahead of ours
        self.now = Snapshot()
        self.brought: dict[Digest, AdapterManifest] = {}  # LoRAs that customers brought, by digest
        self._serial = 0  # the newest change that `now` has
        self.changed = asyncio.Event()  # set at the next reload, and another then

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, db: Database, configured: frozenset[str] = frozenset()) -> AsyncIterator["Catalogue"]:
        """Loaded when it is yielded; follows changes until the end."""
        catalogue = cls(db, configured)
        catalogue.brought |= await brought.manifests(db)
        await catalogue.reload()
        follower = asyncio.create_task(catalogue._follow())
        try:
            yield catalogue
        finally:
            follower.cancel()
            await asyncio.wait([follower])

    def clock(self) -> datetime:
        """The database's time, by which launch windows open."""
        return datetime.now(UTC) + self._ahead

    def variants(self, caller: Caller | None) -> tuple[Variant, ...]:
        """What a gallery may show: first what runs here, then what partners serve, then by slug."""
        snapshot, now = self.now, self.clock()
        visible = [v for v in snapshot.variants.values() if snapshot.visible(v.slug, caller, now)]
        return tuple(sorted(visible, key=self._rank))

    def _rank(self, variant: Variant) -> tuple[bool, bool, str]:
        return (not self.runs_here(variant), not self.is_served(variant), variant.slug.lower())

    def runs_here(self, variant: Variant) -> bool:
        """Whether its weights are pinned and released, so that a host of ours can run it."""
        return bool(self.now.releases.get(variant.slug))

    def is_served(self, variant: Variant) -> bool:
        """Whether its partner answers for it."""
        return self.now.is_served(variant)

    def variant(self, caller: Caller | None, slug: Slug) -> Variant | None:
        visible = self.now.visible(slug, caller, self.clock())
        return self.now.variants[slug] if visible else None

    def adapters(self, caller: Caller | None, variant: Variant) -> tuple[Adapter, ...]:
        """The LoRAs that fit what the variant's slug answers with now, as far as the caller may know them."""
        snapshot, now = self.now, self.clock()
        bases = {v.manifest.architecture for v in snapshot.versions.values() if v.variant == variant.slug}
        found = (snapshot.adapter(slug, caller, now) for slug in snapshot.adapter_releases)
        return tuple(a for a in found if isinstance(a, Adapter) and a.manifest.architecture in bases)

    async def learn(self, digests: Collection[Digest]) -> None:
        """Of LoRAs that another process fetched for a customer."""
        known = self.now.described_adapters
        if missing := {digest for digest in digests if digest not in known}:
            self.brought |= await brought.manifests(self._db, missing)

    async def reload(self) -> None:
        rows = await store.load_catalog(self._db)
        await self._compare_clocks()
        callers = await keys.active(self._db)
        self.now = build(rows, callers, self.now, self._configured, self.brought)
        self._serial = rows.serial
        before, self.changed = self.changed, asyncio.Event()
        before.set()

    async def _compare_clocks(self) -> None:
        """By the shortest of a few questions: what took long says little of when it was answered."""
        looks: list[tuple[timedelta, timedelta]] = []
        for _ in range(CLOCK_LOOKS):
            began = datetime.now(UTC)
            at = await store.now(self._db)
            took = datetime.now(UTC) - began
            looks.append((took, at - (began + took / 2)))
        self._ahead = min(looks)[1]

    async def caught_up(self) -> None:
        """Until what was committed before this call is known here: who changes something can count on it at once.

        Gives up after some seconds without an error, for the change itself is made.
        """
        newest = await store.newest_change(self._db)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CAUGHT_UP_SECONDS):
                while self._serial < newest:
                    await self.changed.wait()

    async def _follow(self) -> None:
        async for _ in feed.listen(self._db.dsn):
            while True:
                try:
                    await self.reload()
                    break
                except Exception as error:  # noqa: BLE001  an old catalogue is better than none; say so and go on
                    log.warning("the catalogue could not be read", error=repr(error))
                    await asyncio.sleep(RELOAD_PAUSE_SECONDS)
