"""The storefront in a real browser, over a made-up catalogue and a core that draws by itself."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

sys.path.insert(0, str(Path(__file__).parent))
import chromium
import stage_set
from chromium import Visits

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium.EXECUTABLE is None, reason="no Chromium on this machine"),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with chromium.served(stage_set.create_app()) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.launched() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visits]:
    """Opens a page; whatever the browser complains about fails the test."""
    visits = Visits(browser, address)
    yield visits
    visits.close()
    assert visits.complaints == []


def test_the_gallery_shows_pictures_and_search_narrows_it(visit: Visits) -> None:
    page = visit("/")
    assert page.locator(".card").count() == 24
    assert page.locator(".card img").first.evaluate("img => img.complete && img.naturalWidth > 0")
    page.get_by_label("Search models").fill("halcyon turbo")
    expect(page.locator(".card")).to_have_count(8)
    assert "q=halcyon+turbo" in page.url


def test_a_mistyped_search_finds_what_was_meant(visit: Visits) -> None:
    page = visit("/?q=hlacyon+turbo")
    expect(page.locator(".meant")).to_have_text(
        "Nothing here is called “hlacyon turbo”; these are for “halcyon turbo”."
    )
    expect(page.locator(".card")).to_have_count(8)


def test_a_task_and_the_next_page_are_links(visit: Visits) -> None:
    page = visit("/")
    page.get_by_role("link", name="text to video").click()
    expect(page.locator(".card .chip").first).to_have_text("text to video")
    page.get_by_role("link", name="Next").click()
    expect(page.get_by_text("Page 2 of")).to_be_visible()
    assert "task=text-to-video" in page.url


def run(page: Page, prompt: str) -> str:
    page.get_by_label("Prompt", exact=False).first.fill(prompt)
    page.get_by_role("button", name="Run").click()
    page.wait_for_selector("#screen[data-state=succeeded][aria-busy=false]")
    shown = page.locator("#pictures img")
    expect(shown).to_have_count(1)
    return str(shown.get_attribute("src"))


def test_a_run_draws_a_picture_and_a_lora_changes_it(visit: Visits) -> None:
    page = visit("/m/marquee/shapes")
    expect(page.locator(".go .price")).to_have_text("0.002 USD per image")
    plain = run(page, "a red circle on white")
    expect(page.locator("#status")).to_have_text("Done.")
    expect(page.locator("#t-seed")).to_have_text("7")
    expect(page.locator("#t-cost")).to_have_text("0.002 USD")
    page.get_by_label("Outline").first.check()
    outlined = run(page, "a red circle on white")
    assert plain != outlined
    expect(page.locator("#history img")).to_have_count(2)


WATCHED = """() => {
    window.seen = new Set();
    new MutationObserver(() => {
        const shown = document.querySelector("#pictures img.glimpse");
        if (shown) window.seen.add(shown.src.slice(0, 16));
    }).observe(document.querySelector("#pictures"), { childList: true });
}"""


def test_a_run_shows_what_it_seems_to_become(visit: Visits) -> None:
    page = visit("/m/marquee/shapes")
    page.evaluate(WATCHED)
    assert run(page, "a red circle on white").startswith("/files/")
    assert page.evaluate("[...window.seen]") == ["data:image/webp;"]


def test_the_snippets_follow_the_form(visit: Visits) -> None:
    page = visit("/m/marquee/shapes")
    page.get_by_label("Prompt", exact=False).first.fill("a 'red' circle")
    page.get_by_label("Stripes").first.check()
    assert (
        r"""-d '{"prompt":"a '\''red'\'' circle","loras":[{"path":"marquee/shapes-stripes","scale":1}]}'"""
        in str(page.locator("#code-curl").text_content())
    )
    page.get_by_role("tab", name="fal_client").click()
    assert '"path": "marquee/shapes-stripes"' in str(page.locator("#code-fal").text_content())


TYPED_AT_ONCE = """new MutationObserver((_, seen) => {
    const seed = document.querySelector("#f-seed");
    if (seed) { seen.disconnect(); seed.value = "41"; }
}).observe(document, { childList: true, subtree: true })"""


def test_what_was_typed_before_the_script_ran_is_sent(visit: Visits) -> None:
    page = visit("/")
    page.add_init_script(TYPED_AT_ONCE)
    page.goto(page.url.rstrip("/") + "/m/marquee/shapes")
    page.get_by_label("Prompt", exact=False).first.fill("a red circle on white")
    with page.expect_request("**/page/runs/**") as sent:
        page.get_by_role("button", name="Run").click()
    assert sent.value.post_data_json == {"prompt": "a red circle on white", "seed": 41}


def test_an_empty_prompt_is_not_sent(visit: Visits) -> None:
    page = visit("/m/marquee/shapes")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_label("Prompt", exact=False).first).to_be_focused()
    expect(page.locator("#status")).to_have_text("Nothing has run yet.")


@pytest.mark.parametrize("wide", [360, 320])  # 320: a page at 400 %
@pytest.mark.parametrize("path", ["/", "/m/marquee/shapes", "/sign-in"])
def test_nothing_sticks_out_on_a_phone(visit: Visits, path: str, wide: int) -> None:
    page = visit(path, wide=wide, high=740)
    assert page.evaluate("document.documentElement.scrollWidth") == wide


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/m/marquee/shapes", "/sign-in", "/m/no/such"])
def test_everybody_can_use_the_pages(visit: Visits, path: str, scheme: str) -> None:
    page = visit(path, scheme=scheme)
    assert chromium.serious_findings(page) == []
    visit.complaints = [text for text in visit.complaints if "404" not in text]


def test_a_run_that_is_cancelled_before_it_has_a_name_is_cancelled(visit: Visits) -> None:
    """Not the run before it, whose name the page still knew."""
    page = visit("/m/marquee/shapes")
    run(page, "a red circle on white")
    held: list[Route] = []
    page.route("**/page/runs/**", lambda route: held.append(route))  # noqa: PLW0108  no builtin may be one
    page.get_by_role("button", name="Run").click()
    page.get_by_role("button", name="Cancel").click()
    held[0].continue_()
    expect(page.locator("#status")).to_have_text("Cancelled.")


def test_a_run_that_cannot_be_followed_is_told_and_another_may_begin(visit: Visits) -> None:
    """A session that ended meanwhile, a gateway that forgot: the page waited for ever."""
    page = visit("/m/marquee/shapes")
    page.route("**/events", lambda route: route.fulfill(status=404, json={"detail": "no such request"}))
    page.get_by_label("Prompt", exact=False).first.fill("a red circle on white")
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#status")).to_have_text("This run cannot be followed any more.")
    expect(page.locator("#problem")).to_contain_text("signed out")
    expect(page.get_by_role("button", name="Run")).to_be_enabled()
    visit.complaints = [text for text in visit.complaints if "404" not in text]


def test_a_film_is_played_where_it_is(visit: Visits) -> None:
    """Inside a link, each click on its controls would lead away."""
    page = visit("/m/marquee/shapes")
    film = {"url": "/files/none.mp4", "content_type": "video/mp4", "width": 64, "height": 32}
    done = json.dumps({"id": "r", "state": "succeeded", "line": "Done", "pictures": [film]})
    page.route("**/files/none.mp4", lambda route: route.fulfill(body=b"", content_type="video/mp4"))
    page.route(
        "**/events", lambda route: route.fulfill(body=f"data: {done}\n\n", content_type="text/event-stream")
    )
    page.get_by_label("Prompt", exact=False).first.fill("a red circle on white")
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#pictures video[controls]")).to_have_count(1)
    expect(page.locator("#pictures a video")).to_have_count(0)
    expect(page.get_by_role("link", name="Download video/mp4")).to_be_visible()


def test_what_the_browser_brings_back_is_shown_as_it_is(visit: Visits) -> None:
    page = visit("/m/marquee/shapes")
    page.evaluate("""() => {
        document.querySelector("[data-kind=size] select").value = "custom";
        document.querySelector(".lora input[type=checkbox]").checked = true;
        dispatchEvent(new PageTransitionEvent("pageshow"));
    }""")
    expect(page.get_by_label("Width, pixels")).to_be_visible()
    expect(page.get_by_label("Scale of Outline")).to_be_enabled()


def test_snippets_are_copied_without_a_clipboard_of_the_browsers(visit: Visits) -> None:
    """As on plain http, where a gateway inside a company often is."""
    page = visit("/m/marquee/shapes")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.get_by_role("button", name="Copy the slug").click()
    expect(page.locator("button.copied")).to_have_count(1)
    assert page.evaluate("getSelection().toString()") == "marquee/shapes"
