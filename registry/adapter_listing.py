"""The LoRAs that there are, for everybody: `GET /v1/adapters`, as far as the reader may know of them. Process edge."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from litestar import Response, Router, get
from litestar.params import FromQuery

from registry.catalog import Adapter, Caller
from registry.listing import MAX_PAGE, AnyRequest


class Offering(Protocol):
    """What a gateway offers: adapters for a reader, of one base where it is named, and who the reader is."""

    def adapters(self, caller: Caller | None, base: str | None) -> Iterable[Adapter]: ...

    def reader(self, request: AnyRequest) -> Caller | None: ...


def router(home: Callable[[], Offering]) -> Router:
    @get("/adapters")
    async def adapters(
        request: AnyRequest,
        base: FromQuery[str | None] = None,
        q: FromQuery[str | None] = None,
        after: FromQuery[str | None] = None,
        limit: FromQuery[int] = 100,
    ) -> Response[dict[str, Any]]:
        """By slug; `after` pages on. With `base` those that fit what that slug answers with now."""
        words = (q or "").casefold().split()
        found = sorted(
            (one for one in home().adapters(home().reader(request), base) if _matches(one, words, after)),
            key=lambda adapter: adapter.slug,
        )
        page = found[: max(1, min(limit, MAX_PAGE))]
        return Response({"adapters": [describe(one) for one in page], "has_more": len(found) > len(page)})

    return Router("/v1", route_handlers=[adapters], include_in_schema=False)


def _matches(adapter: Adapter, words: Iterable[str], after: str | None) -> bool:
    text = " ".join(
        (adapter.slug, adapter.name or "", adapter.description or "", *adapter.manifest.trigger_words)
    ).casefold()
    return (after is None or adapter.slug > after) and all(word in text for word in words)


def describe(adapter: Adapter) -> dict[str, Any]:
    """What a caller writes into `loras[].path`, and what is known of it; what is not known is absent."""
    manifest = adapter.manifest
    facts = {
        "name": adapter.name,
        "description": adapter.description,
        "license": adapter.licence,
        "rank": manifest.rank,
        "target_modules": list(manifest.target_modules),
        "trigger_words": list(manifest.trigger_words),
    }
    return {
        "path": adapter.slug,
        "base": manifest.base,
        "version": adapter.version,
        "recommended_scale": manifest.recommended_scale,
        "size_bytes": manifest.size_bytes,
        **{name: value for name, value in facts.items() if value},
    }
