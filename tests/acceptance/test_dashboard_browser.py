"""Every page of the dashboard in a real browser: drawn, without complaints, usable by all, figures as SQL says."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from playwright.sync_api import Browser, Route, expect

sys.path.insert(0, str(Path(__file__).parent))
import chromium
import dashboard_set
from chromium import Visits

from tests import identity_provider
from tests.cluster import _fresh

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium.EXECUTABLE is None, reason="no Chromium on this machine"),
]
PATHS = {
    "overview": "/dashboard?days=90",
    "models": "/dashboard/models?days=90",
    "model": "/dashboard/models/MOST-CALLED?days=90",
    "customers": "/dashboard/customers?days=90",
    "launches": "/dashboard/launches?days=90",
    "fleet": "/dashboard/fleet",
    "request": "/dashboard/requests/one",
}


@pytest.fixture(scope="module")
def market(cluster: Path) -> Iterator[str]:
    """One database with a made-up market for all tests here."""
    yield from _fresh(cluster, "template_marquee")


@pytest.fixture(scope="module")
def address(market: str) -> Iterator[str]:
    with chromium.served(dashboard_set.create_app(market)) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.launched() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visits]:
    visits = Visits(browser, address)
    yield visits
    visits.close()
    assert visits.complaints == []


def most_called(market: str) -> str:
    with psycopg.connect(market) as connection:
        query = "SELECT slug FROM usage_records GROUP BY slug ORDER BY count(*) DESC LIMIT 1"
        row = connection.execute(query).fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.parametrize("name", PATHS)
def test_pages_are_drawn_and_everybody_can_use_them(
    visit: Visits, market: str, name: str, tmp_path: Path
) -> None:
    path = PATHS[name].replace("MOST-CALLED", most_called(market))
    for look, wide in (("light", 1280), ("dark", 1280), ("light", 390)):
        page = visit(path, wide=wide, scheme=look)
        page.wait_for_selector("html[data-drawn=yes]")
        drawn = page.locator(".chart .uplot")
        assert drawn.count() == page.locator(".chart").count()
        page.screenshot(path=tmp_path / f"{name}-{look}-{wide}.png", full_page=True)
        if wide == 390:
            assert page.evaluate("document.documentElement.scrollWidth") == wide
        else:
            assert chromium.serious_findings(page) == []


def test_the_page_says_what_sql_says(visit: Visits, market: str) -> None:
    with psycopg.connect(market) as connection:
        row = connection.execute("SELECT count(*), sum(amount) FROM usage_records").fetchone()
    assert row is not None
    page = visit(PATHS["overview"])
    tiles = dict(
        zip(
            page.locator(".tile dt").all_text_contents(),
            page.locator(".tile dd:first-of-type").all_text_contents(),
            strict=True,
        )
    )
    assert tiles["Requests"] == f"{row[0]:,}"
    assert tiles["Spend, USD"] == f"{row[1]:,.2f}"


def test_links_keep_the_period_and_tables_open_by_keyboard(visit: Visits) -> None:
    page = visit("/dashboard?days=90")
    page.get_by_role("navigation", name="Dashboard").get_by_role("link", name="Models").click()
    expect(page.get_by_role("link", name="90 d")).to_have_attribute("aria-current", "true")
    summary = page.locator("#ranks summary")
    summary.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#ranks details table")).to_be_visible()
    link = page.locator("#halflife tbody a").first
    assert re.search(r"/dashboard/models/lab/\d+\?days=90", str(link.get_attribute("href")))


def test_the_fleet_is_live(visit: Visits) -> None:
    page = visit("/dashboard/fleet")
    page.locator("#live").evaluate("live => { live.innerHTML = ''; }")
    page.reload()
    page.wait_for_function("document.querySelectorAll('#warmth tbody tr').length === 2")
    expect(page.locator("[data-heat=device]").first).to_be_visible()
    page.wait_for_timeout(2500)  # the next look at the fleet, in which nothing changed
    expect(page.locator("[data-heat=device]").first).to_be_visible()


def test_the_companys_sign_in_brings_a_browser_back_signed_in(
    browser: Browser, address: str, market: str, tmp_path: Path
) -> None:
    """The provider is another site to the browser, so our strict cookie must survive the way back."""
    provider = identity_provider.Provider()
    provider.claims = {"organization": "lab", "role": "lab"}
    with chromium.served(provider.app) as there:
        provider.address = there.replace("127.0.0.1", "localhost")
        port = chromium.free_port()
        with chromium.served(
            dashboard_set.create_company_app(market, tmp_path, provider, port), port
        ) as here:
            visits = Visits(browser, here)
            page = visits("/sign-in?next=/dashboard/models")
            page.get_by_role("link", name="Sign in with your").click()
            page.wait_for_url("**/dashboard/models")
            expect(page.get_by_role("heading", level=1)).to_have_text("Models")
            expect(page.locator(".chip")).to_have_text("lab\N{RIGHT SINGLE QUOTATION MARK}s models")
            page.get_by_role("button", name="Sign out").click()
            page.wait_for_url("**/end?**")
            assert provider.asked["redirect_uri"].endswith("/sign-in/company/back")
            page.goto(here + "/dashboard")
            expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
            assert visits.complaints == []
            visits.close()


def test_the_fleet_page_asks_who_is_there_once_its_session_has_ended(browser: Browser, address: str) -> None:
    """Its stream ends with the session, and is refused when the browser opens it again."""
    context = browser.new_context()
    page = context.new_page()
    answers = iter([(200, "retry: 50\ndata: <p>still here</p>\n\n"), (404, "")])

    def events(route: Route) -> None:
        status, body = next(answers, (404, ""))
        route.fulfill(status=status, body=body, headers={"content-type": "text/event-stream"})

    page.route("**/dashboard/fleet/events", events)
    page.goto(f"{address}/dashboard/fleet")
    with page.expect_request(lambda request: request.is_navigation_request()):
        expect(page.locator("#live")).to_have_text("still here")
    context.close()
