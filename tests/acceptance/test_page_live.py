"""The page over the real product: the printed address just opens, a run draws, a LoRA and a variant change the picture."""

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

sys.path.insert(0, str(Path(__file__).parent))
import chromium
from chromium import Visits

from tests.product import ROOT, Marquee

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium.EXECUTABLE is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(
        not (ROOT / "starter" / "loras").exists(), reason="no starter models in this checkout"
    ),
]
RUN_WITHIN_MS = 120_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.launched() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser, marquee: Marquee) -> Iterator[Visits]:
    visits = Visits(browser, marquee.ready["url"])
    yield visits
    visits.close()
    assert visits.complaints == []


def draw(page: Page) -> bytes:
    """Runs with seed 7 and gives the picture's bytes."""
    page.locator("#f-prompt").fill("a red circle on white")
    page.locator("#f-seed").fill("7")
    page.locator("#run").click()
    page.wait_for_selector("#screen[aria-busy=true]")
    page.wait_for_selector("#screen[data-state=succeeded][aria-busy=false]", timeout=RUN_WITHIN_MS)
    expect(page.locator("#t-seed")).to_have_text("7")
    address = page.locator("#pictures img").evaluate("picture => picture.src")
    return httpx.get(address, trust_env=False).raise_for_status().content


@pytest.mark.timeout(600)
def test_the_printed_address_opens_and_draws_without_a_key(visit: Visits) -> None:
    page = visit("/")
    assert page.locator(".card").count() == 24
    page.get_by_label("Search models").fill("shapes dusk")
    page.locator(".card a[href='/m/marquee/shapes/dusk']").click()
    dusk = draw(page)
    page = visit("/m/marquee/shapes")
    plain = draw(page)
    page.get_by_label("Outline").first.check()
    outlined = draw(page)
    page.get_by_label("Outline").first.uncheck()
    assert draw(page) == plain, "the same input gives the same bytes"
    assert len({dusk, plain, outlined}) == 3


def test_the_curl_of_the_page_is_the_same_call(visit: Visits, marquee: Marquee) -> None:
    page = visit("/m/marquee/shapes")
    page.locator("#f-prompt").fill("a red circle on white")
    code = str(page.locator("#code-curl").text_content())
    body = code.split("-d '")[1].rsplit("'", 1)[0]
    with marquee.client() as client:
        address = code.split()[2]
        answer = client.post(address, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text


def test_figures_follow_what_was_run(visit: Visits) -> None:
    page = visit("/dashboard")
    expect(page.locator(".tile dt").first).to_have_text("Requests")
