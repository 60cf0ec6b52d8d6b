"""The catalogue and the keys in memory, immutable. Pure: `now` comes in. `catalogue` holds the current one."""

from collections import ChainMap
from collections.abc import Iterable, Mapping, MutableMapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from registry import defaults, keys, store, windows
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
from registry.settings import PROVIDERS, partner_key, variable
from router import blobs, spelling
from router.errors import ForbiddenError, UnauthorizedError, UnavailableError, UnknownSlugError
from router.inputs import Checker, Checkers

NOBODY = OrganizationName("")  # a visitor without a key


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
    flat: Mapping[str, tuple[Slug, ...]] = {}  # deep slugs, by their names in two pieces
    slugs_of: Mapping[Digest, tuple[Slug, ...]] = {}  # of versions and partners: several may be the same
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


def _slugs_of(
    digests: Mapping[tuple[Slug, int], Digest], variants: Iterable[Variant]
) -> Mapping[Digest, tuple[Slug, ...]]:
    found: dict[Digest, tuple[Slug, ...]] = {}
    partners = ((v.partner.digest, v.slug) for v in variants if v.partner is not None)
    for digest, slug in (*((digest, slug) for (slug, _), digest in digests.items()), *partners):
        found[digest] = (*found.get(digest, ()), slug)
    return found


def flat_of(slug: Slug) -> str:
    """`fal-ai/flux/dev` → `fal-ai/flux-dev`: where names hold no further slash."""
    owner, _, rest = slug.partition("/")
    return f"{owner}/{rest.replace('/', '-')}"


def _flat(slugs: Iterable[Slug]) -> dict[str, tuple[Slug, ...]]:
    found: dict[str, tuple[Slug, ...]] = {}
    for slug in slugs:
        if (flat := flat_of(slug)) != slug:
            found[flat] = (*found.get(flat, ()), slug)
    return found


def build(
    rows: store.CatalogRows,
    callers: Mapping[bytes, Caller],
    before: Snapshot | None = None,
    configured: frozenset[str] = frozenset(),
    brought: MutableMapping[Digest, AdapterManifest] | None = None,
) -> Snapshot:
    """`brought` is looked up after the catalogue's own, and may grow: a digest means the same for ever.

    Takes long for large catalogues, and may run in a thread: callers go on with `before` meanwhile.
    """
    listed = {adapter.manifest.digest: adapter.manifest for adapter in rows.adapters}
    variants = {variant.slug: variant for variant in rows.variants}
    digests = {(version.variant, version.number): version.digest for version in rows.versions}
    names = spelling.Names(variants)
    adapter_names = spelling.Names(dict.fromkeys(adapter.slug for adapter in rows.adapters))
    names.read()
    adapter_names.read()
    return Snapshot(
        names=names,
        variants=variants,
        flat=_flat(variants),
        slugs_of=_slugs_of(digests, rows.variants),
        releases=store.by_slug(rows.releases),
        versions={(version.variant, version.number): version for version in rows.versions},
        digests=digests,
        adapters={(adapter.slug, adapter.version): adapter for adapter in rows.adapters},
        adapter_releases=store.by_slug(rows.adapter_releases),
        adapter_names=adapter_names,
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
