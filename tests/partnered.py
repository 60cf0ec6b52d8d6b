"""A gateway whose catalogue has partners' variants beside its own, for tests."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from registry.catalog import Model, Organization, OrganizationName, Partner, Price, Slug, Variant
from registry.database import Database
from tests.live import CATALOG, Live, furnish, serving

PICTURE = {
    "type": "object",
    "required": ["prompt"],
    "properties": {
        "prompt": {"type": "string"},
        "seed": {"type": "integer"},
        "num_images": {"type": "integer", "default": 1},
        "image_size": {"type": "object"},
        "loras": {"type": "array"},
        "voice": {"enum": ["a", "b"], "default": "c"},
    },
}


def partner_variant(slug: str, provider: str, endpoint: str, schema: Any = PICTURE) -> Variant:
    return Variant(
        slug=Slug(slug),
        model=slug,
        task="text-to-image",
        input_schema=schema,
        price=Price(unit="image", amount="0.04"),
        partner=Partner(provider=provider, endpoint=endpoint),
    )


VARIANTS = (
    partner_variant("far/dev", "fal", "far-ai/flux/dev"),
    partner_variant("far/rep", "replicate", "owner/name"),
    partner_variant("far/ver", "replicate", "owner/name:abc123"),
    partner_variant("far/gpt", "openai", "gpt-image-9"),
    partner_variant("far/federated", "fal", "acme/toys"),
)
PARTNERED = msgspec.structs.replace(
    CATALOG,
    organizations=(*CATALOG.organizations, Organization(name=OrganizationName("far"))),
    models=(*CATALOG.models, *(Model(name=variant.model) for variant in VARIANTS)),
    variants=(*CATALOG.variants, *VARIANTS),
)


def account(provider: str, url: str, key: str = "partner-key", **more: Any) -> dict[str, Any]:
    return {f"partner_{provider}_key": key, f"partner_{provider}_url": url, **more}


@contextlib.asynccontextmanager
async def partnered(dsn: str, home: Path, **options: Any) -> AsyncIterator[Live]:
    async with serving(dsn, home, await furnish(dsn, PARTNERED), **options) as live:
        yield live


async def ledger(dsn: str, request_id: str) -> list[tuple[Any, ...]]:
    async with Database.open(dsn, connections=2) as db, db.pool.connection() as connection:
        rows = await connection.execute(
            "SELECT state, host_id, attempt, images, amount::text, error FROM usage_records WHERE request_id = %s",
            [request_id],
        )
        return [tuple(row.values()) for row in await rows.fetchall()]
