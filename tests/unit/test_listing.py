"""Search, paging and the launches feed over a shelf: words anywhere, facets exactly, and nobody's secrets."""

from datetime import UTC, datetime, timedelta

import pytest

from registry import listing
from registry.catalog import OrganizationName, Release, Share, Slug, Variant, Window
from registry.listing import Query, Shelf, Texts, needles_of

NOW = datetime(2026, 12, 1, tzinfo=UTC)
ACME, BLUE, NOBODY = OrganizationName("acme"), OrganizationName("blue"), OrganizationName("")


def _variant(slug: str, **facts: object) -> Variant:
    return Variant(
        slug=Slug(slug), model=slug, input_schema={"type": "object"}, **({"task": "text-to-image"} | facts)
    )


VARIANTS = [
    _variant("acme/toys", name="Tiny Toys", tags=("starter",), licence="mit"),
    _variant("acme/toys/fast", task="image-to-image", description="Toys, but quick"),
    _variant("blue/film", task="text-to-video", licence="mit"),
    _variant("blue/secret"),
    _variant("red/liar", description="x\x1fowner=acme\x1flicense=mit\x1f", tags=("a\x1fmodel=blue/clip",)),
]
OLD = Release(
    id=1,
    variant=Slug("acme/toys"),
    shares=(Share(version=1, percent=100),),
    window=Window(public_from=NOW, sunset_from=NOW),
)
AHEAD = Release(
    id=2,
    variant=Slug("blue/secret"),
    shares=(Share(version=1, percent=100),),
    window=Window(
        preview_from=NOW + timedelta(days=1),
        preview_organizations=(ACME,),
        public_from=NOW + timedelta(days=2),
    ),
)
SHELF = Shelf(
    texts=Texts(reversed(VARIANTS)),
    releases={Slug("acme/toys"): (OLD,), Slug("blue/secret"): (AHEAD,)},
    visible=lambda variant: variant.slug != "blue/secret",
    callable=lambda variant: variant.slug == "acme/toys",
    now=NOW,
    address="https://m.example",
)


@pytest.mark.parametrize(
    ("query", "slugs"),
    [
        (Query(), ["acme/toys", "acme/toys/fast", "blue/film", "red/liar"]),
        (Query(needles=needles_of(None, owner="acme")), ["acme/toys", "acme/toys/fast"]),
        (Query(needles=needles_of(None, model="blue/clip")), []),
        (Query(needles=needles_of("toys")), ["acme/toys", "acme/toys/fast"]),
        (Query(needles=needles_of("TOYS quick")), ["acme/toys/fast"]),
        (Query(needles=needles_of("quick film")), []),
        (Query(needles=needles_of("video")), ["blue/film"]),
        (Query(needles=needles_of(None, category="text-to-image")), ["acme/toys", "red/liar"]),
        (Query(needles=needles_of(None, category="image")), []),
        (Query(needles=needles_of("toys", owner="acme", license="mit")), ["acme/toys"]),
        (Query(needles=needles_of(None, tag="starter")), ["acme/toys"]),
        (Query(status="deprecated"), ["acme/toys"]),
        (Query(endpoints=frozenset({"blue/film", "no/such"})), ["blue/film"]),
        (Query(after=Slug("acme/toys")), ["acme/toys/fast", "blue/film", "red/liar"]),
        (Query(needles=needles_of("secret")), []),
    ],
)
def test_search(query: Query, slugs: list[str]) -> None:
    found, more = listing.search(SHELF, query, BLUE)
    assert ([variant.slug for variant in found], more) == (slugs, False)


def test_pages_join_without_gap_or_repetition() -> None:
    seen: list[str] = []
    after = None
    while True:
        found, more = listing.search(SHELF, Query(after=after, limit=1), NOBODY)
        seen += [variant.slug for variant in found]
        if not more:
            break
        after = found[-1].slug
    assert seen == ["acme/toys", "acme/toys/fast", "blue/film", "red/liar"]


def test_an_entry_is_shaped_as_platform_clients_read_it() -> None:
    entry = listing.describe(SHELF, VARIANTS[0], Query(expand=frozenset({"openapi-3.0"})), NOBODY)
    document = entry.pop("openapi")
    assert entry == {
        "endpoint_id": "acme/toys",
        "metadata": {
            "display_name": "Tiny Toys",
            "category": "text-to-image",
            "description": "",
            "status": "deprecated",
            "tags": ["starter"],
            "callable": True,
            "model_url": "https://m.example/fal/run/acme/toys",
            "license": "mit",
        },
    }
    assert document["components"]["schemas"]["Input"] == {"type": "object"}
    assert set(document["paths"]) == {"/fal/run/acme/toys", "/fal/queue/acme/toys"}


@pytest.mark.parametrize(
    ("who", "opens"),
    [
        (NOBODY, []),
        (OrganizationName("red"), []),
        (ACME, [NOW + timedelta(days=1)]),
        (BLUE, [NOW + timedelta(days=2)]),
    ],
    ids=["a visitor", "a stranger", "who is named", "whose it is"],
)
def test_a_launch_is_known_to_whom_it_concerns(who: OrganizationName, opens: list[datetime]) -> None:
    assert [launch["opens"] for launch in listing.launches(SHELF, who)] == opens


def test_the_feed_is_well_formed() -> None:
    from xml.etree import ElementTree as ET

    feed = ET.fromstring(listing.atom(SHELF, listing.launches(SHELF, ACME)))
    titles = [title.text for title in feed.iter("{http://www.w3.org/2005/Atom}title")]
    assert titles == ["Upcoming launches", "blue/secret opens"]
