"""The two kinds of things that have versions and releases: variants and adapters. Pure declarations.

Both go the same way from draft to retirement; only what a version is made of differs.
"""

from typing import Literal, NamedTuple

import sqlalchemy

from registry import tables


class Goods(NamedTuple):
    """One kind: its tables, and how the history calls what happens to it."""

    noun: Literal["variant", "adapter"]  # also the column by which versions and releases name their owner
    plural: str
    table: sqlalchemy.Table
    versions: sqlalchemy.Table
    releases: sqlalchemy.Table
    version_kind: str
    release_kind: str

    def version_is(self, slug: str, number: int) -> sqlalchemy.ColumnElement[bool]:
        return (self.versions.c[self.noun] == slug) & (self.versions.c.number == number)


VARIANTS = Goods(
    noun="variant",
    plural="variants",
    table=tables.variants,
    versions=tables.versions,
    releases=tables.releases,
    version_kind="version",
    release_kind="release",
)
ADAPTERS = Goods(
    noun="adapter",
    plural="adapters",
    table=tables.adapters,
    versions=tables.adapter_versions,
    releases=tables.adapter_releases,
    version_kind="adapter_version",
    release_kind="adapter_release",
)
