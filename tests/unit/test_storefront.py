import ast
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

import pytest

from registry.catalog import Caller, OrganizationName, Slug, Variant
from router.storefront import art, browse, forms, gallery, pages, snippets


def variant(
    slug: str, task: str = "text-to-image", description: str = "", tags: tuple[str, ...] = ()
) -> Variant:
    return Variant(
        slug=Slug(slug), model="lab/x", task=task, input_schema={}, description=description, tags=tags
    )


SHELF = (
    variant("lab/alpha", description="draws dragons"),
    variant("lab/dragon", task="text-to-video"),
    variant("lab/beta", tags=("dragon",)),
    variant("lab/gamma"),
)


def slugs(found: browse.Shelf) -> list[str]:
    return [one.slug for one in found.variants]


def test_names_come_before_tags_before_descriptions() -> None:
    assert slugs(browse.Index(SHELF).shelf(query="Dragon")) == ["lab/dragon", "lab/beta", "lab/alpha"]


def test_every_word_must_be_found() -> None:
    assert slugs(browse.Index(SHELF).shelf(query="dragon video")) == ["lab/dragon"]
    assert slugs(browse.Index(SHELF).shelf(query="dragon unicorn")) == []


@pytest.mark.parametrize(
    ("query", "meant", "found"),
    [
        ("dragn", "dragon", ["lab/dragon", "lab/beta", "lab/alpha"]),
        ("dragon vidoe", "dragon video", ["lab/dragon"]),
        ("alhpa draws", "alpha draws", ["lab/alpha"]),
        ("xyzzy", "", []),
        ("dragn xyzzy", "", []),
        ("draws video", "", []),  # each is known, but of no variant both
    ],
)
def test_a_slip_of_the_pen_finds_what_was_meant(query: str, meant: str, found: list[str]) -> None:
    shelf = browse.Index(SHELF).shelf(query=query)
    assert (shelf.meant, slugs(shelf)) == (meant, found)


class Moved:
    """A catalogue whose snapshot and clock a test moves; counts how often it is read."""

    def __init__(self, count: int) -> None:
        self.now: object = object()
        self.at = datetime(2026, 11, 27, tzinfo=UTC)
        self.read = 0
        self._variants = [variant(f"lab/v{n}") for n in range(count)]

    def clock(self) -> datetime:
        return self.at

    def variants(self, caller: Caller | None) -> list[Variant]:
        self.read += 1
        return self._variants if caller is None else self._variants[:1]


async def test_a_large_gallery_is_read_again_when_it_changed_or_time_passed() -> None:
    catalogue = Moved(gallery.LARGE)
    shown = gallery.Gallery(catalogue)

    async def look(caller: Caller | None = None) -> tuple[int, int]:
        _, total = await shown.shelf(caller, "", "", 1)
        return total, catalogue.read

    stranger = Caller(organization=OrganizationName("stranger"), key_id="k", scopes=frozenset())
    assert [await look(), await look()] == [(gallery.LARGE, 1), (gallery.LARGE, 1)]
    assert [await look(stranger), await look(stranger)] == [(1, 2), (1, 3)]  # small: read at every look
    catalogue.at += gallery.FRESH
    assert await look() == (gallery.LARGE, 4)
    catalogue.now = object()
    assert await look() == (gallery.LARGE, 5)


def test_task_counts_are_those_of_the_search() -> None:
    found = browse.Index(SHELF).shelf(query="dragon", task="text-to-video")
    assert slugs(found) == ["lab/dragon"]
    assert found.tasks == (browse.Task("text-to-image", 2), browse.Task("text-to-video", 1))


@pytest.mark.parametrize(("asked", "given", "shown"), [(1, 1, 24), (3, 3, 2), (99, 3, 2), (-5, 1, 24)])
def test_pages_hold_two_dozen_and_stay_in_range(asked: int, given: int, shown: int) -> None:
    found = browse.Index(variant(f"lab/v{n}") for n in range(50)).shelf(number=asked)
    assert (found.number, found.pages, len(found.variants), found.total) == (given, 3, shown, 50)


@pytest.mark.parametrize("task", ["text-to-image", "image-to-video", "text-to-speech", ""])
def test_a_placeholder_is_wellformed_and_always_the_same(task: str) -> None:
    one = variant("lab/alpha", task=task)
    assert art.picture(one) == art.picture(one)
    assert ET.fromstring(art.picture(one)).tag.endswith("svg")


def test_siblings_share_a_hue_but_not_a_picture() -> None:
    assert art.picture(variant("lab/alpha")) != art.picture(variant("lab/beta"))


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8080", "https://models.example"])
def test_the_python_snippets_are_python(origin: str) -> None:
    for snippet in snippets.snippets(origin, Slug("marquee/shapes")):
        assert "marquee/shapes" in snippet.text
        if snippet.hole == "python":
            ast.parse(snippet.text.replace("«python»", '{"prompt": "a"}'))


def test_a_film_is_not_looked_for_among_pictures() -> None:
    for snippet in snippets.snippets("http://h", Slug("lab/film"), has_pictures=False):
        assert "images" not in snippet.text


def test_names_in_a_labs_schema_are_no_markup() -> None:
    """Anybody who publishes writes them; the page's token stands on the same page."""
    name = 'x"><meta http-equiv="refresh" content="0;url=//evil">'
    macros = pages.Pages(pages.HERE)._environment.get_template("field.html").module
    for shape in ({"type": kind} for kind in ("boolean", "string", "integer", "object", "array")):
        (field,) = forms.fields({"properties": {name: {**shape, "description": "about <it>"}}})
        assert "<meta" not in macros.control(field)  # type: ignore[attr-defined]
