"""Signing in through a company's identity provider: a real one on localhost, and every way it can go wrong."""

import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc.jwk import RSAKey
from litestar import Litestar, Request, get

sys.path.insert(0, str(Path(__file__).parents[1] / "acceptance"))
import chromium

from registry.catalog import Caller
from registry.settings import Settings
from registry.web import company, opening, sessions, signin
from registry.web.signin import Door
from tests.identity_provider import CLIENT, SECRET, Provider

ORIGIN = "http://127.0.0.1:8080"
START = "/sign-in/company?next=/dashboard"


@pytest.fixture(scope="module")
def served() -> Iterator[Provider]:
    provider = Provider()
    with chromium.served(provider.app) as address:
        provider.address = address
        yield provider


@pytest.fixture
def provider(served: Provider) -> Provider:
    served.claims = {"organization": "acme", "role": "lab"}
    served.knobs = {}
    return served


async def nobody(_: str) -> Caller | None:
    return None


async def knows(organization: str) -> bool:
    return organization in {"acme", "blue"}


def settings(home: Path, provider: Provider, **more: Any) -> Settings:
    given = {"oidc_issuer": provider.address, "oidc_client_id": CLIENT, "oidc_client_secret": SECRET}
    return Settings(home=home, **(given | more))


def application(door: Door) -> Litestar:
    @get("/dashboard")
    async def who(request: Request[Any, Any, Any]) -> dict[str, Any]:
        caller = (await door.visitor(request)).caller
        return (
            {} if caller is None else {"organization": caller.organization, "scopes": sorted(caller.scopes)}
        )

    handlers = [signin.router(lambda: door), company.router(lambda: door), who]
    return Litestar(handlers, openapi_config=None)


class Browser:
    """Follows the way out and back, as a browser would."""

    def __init__(self, home: Path, settings: Settings) -> None:
        self.door = opening.door(settings, verify=nobody, find=nobody, knows=knows)
        self.here = httpx.AsyncClient(
            transport=httpx.ASGITransport(application(self.door)), base_url=ORIGIN, headers={"origin": ORIGIN}
        )

    async def leave(self) -> str:
        """To the provider and back to the door; gives the address that it came back with."""
        answer = await self.here.get(START)
        assert answer.status_code == 303, answer.text
        async with httpx.AsyncClient() as out:
            return (await out.get(answer.headers["location"])).headers["location"]

    async def sign_in(self) -> httpx.Response:
        return await self.here.get(await self.leave())

    async def who(self) -> Any:
        return (await self.here.get("/dashboard")).json()


@pytest.fixture
async def browser(tmp_path: Path, provider: Provider) -> AsyncIterator[Browser]:
    browser = Browser(tmp_path, settings(tmp_path, provider))
    yield browser
    await browser.here.aclose()


async def test_a_person_of_a_lab_comes_in_and_leaves(browser: Browser, provider: Provider) -> None:
    answer = await browser.sign_in()
    assert answer.status_code == 200
    assert 'content="0; url=/dashboard"' in answer.text
    assert provider.asked["code_challenge_method"] == "S256"
    assert provider.asked["scope"] == "openid profile email"
    who = {"organization": "acme", "scopes": ["models:publish", "models:read", "run", "usage:read"]}
    assert await browser.who() == who
    cookie = browser.here.cookies["marquee_session"]
    session = sessions.read(browser.door.secret, cookie, time.time())
    assert session is not None
    assert (session.organization, session.role) == ("acme", "lab")
    assert session.key_id.startswith("oidc:")
    assert "marquee_sign_in" not in browser.here.cookies
    gone = await browser.here.post("/sign-out")
    assert (gone.status_code, gone.headers["location"]) == (303, "/sign-in/company/left")
    left = await browser.here.get("/sign-in/company/left")
    assert f"{provider.address}/end?client_id={CLIENT}" in left.text
    assert await browser.who() == {}


async def test_the_page_offers_both_ways(browser: Browser) -> None:
    page = await browser.here.get("/sign-in?next=/dashboard/models")
    assert "/sign-in/company?next=/dashboard/models" in page.text
    assert 'name="key"' in page.text


SEVERAL = {"groups": ["staff", "ml-ops", "ml-labs"], "company": {"unit": "acme-eu"}}


@pytest.mark.parametrize(
    ("claims", "more", "expected"),
    [
        pytest.param(
            SEVERAL,
            {
                "oidc_organization_claim": "company.unit",
                "oidc_organizations": "acme-eu=acme, b=blue",
                "oidc_role_claim": "groups",
                "oidc_roles": "ml-labs=lab, ml-ops=operator",
            },
            ("acme", "operate"),
            id="the widest of several mapped groups",
        ),
        pytest.param(
            {"organization": "blue"},
            {"oidc_roles": "*=customer"},
            ("blue", "usage:read"),
            id="everybody a customer",
        ),
        pytest.param(
            {"https://x.example/org": "blue", "role": ["customer"]},
            {"oidc_organization_claim": "https://x.example/org"},
            ("blue", "run"),
            id="a claim whose name is an address",
        ),
    ],
)
async def test_claims_are_mapped(
    tmp_path: Path,
    provider: Provider,
    claims: dict[str, Any],
    more: dict[str, str],
    expected: tuple[str, str],
) -> None:
    provider.claims = claims
    browser = Browser(tmp_path, settings(tmp_path, provider, **more))
    assert (await browser.sign_in()).status_code == 200
    who = await browser.who()
    assert who["organization"] == expected[0]
    assert expected[1] in who["scopes"]


STRANGER = RSAKey.generate_key(2048)


@pytest.mark.parametrize(
    ("claims", "knobs", "status", "words"),
    [
        ({"organization": "nobody", "role": "lab"}, {}, 403, "no organization &#39;nobody&#39; here"),
        ({"role": "lab"}, {}, 403, "must name one organization and says nothing"),
        ({"organization": ["acme", "blue"], "role": "lab"}, {}, 403, "says acme, blue"),
        ({"organization": "acme", "role": "king"}, {}, 403, "must give a role and says king"),
        ({}, {"error": "access_denied"}, 403, "refused: access_denied"),
        ({}, {"token": {"iss": "http://evil.example"}}, 403, "the issuer should be"),
        ({}, {"back": {"iss": "http://evil.example"}}, 403, "the issuer should be"),
        (
            {},
            {"token": {"aud": "another"}},
            403,
            "the id token does not hold: invalid_claim: Invalid claim: &#39;aud&#39;",
        ),
        ({}, {"token": {"nonce": "another"}}, 403, "the id token does not hold"),
        ({}, {"token": {"exp": 1000}}, 403, "the id token does not hold"),
        ({}, {"key": STRANGER}, 403, "the id token does not hold"),
        ({}, {"back": {"state": "another"}}, 400, "belongs to another sign-in"),
        ({}, {"back": {"code": "guessed"}}, 403, "refused: invalid_grant"),
    ],
)
async def test_whatever_does_not_hold_is_named(
    browser: Browser,
    provider: Provider,
    claims: dict[str, Any],
    knobs: dict[str, Any],
    status: int,
    words: str,
) -> None:
    provider.claims = claims or provider.claims
    provider.knobs = knobs
    answer = await browser.sign_in()
    assert answer.status_code == status
    assert words in answer.text
    assert "marquee_session" not in browser.here.cookies
    assert await browser.who() == {}


async def test_a_provider_that_is_down_is_said_so_and_keys_still_work(
    tmp_path: Path, provider: Provider
) -> None:
    browser = Browser(tmp_path, settings(tmp_path, provider, oidc_issuer="http://127.0.0.1:9"))
    answer = await browser.here.get(START)
    assert answer.status_code == 502
    assert "http://127.0.0.1:9 does not answer" in answer.text
    assert 'name="key"' in answer.text


async def test_a_provider_that_calls_itself_otherwise_is_refused(
    browser: Browser, provider: Provider
) -> None:
    provider.knobs = {"described": {"issuer": "https://elsewhere.example"}}
    answer = await browser.here.get(START)
    assert (answer.status_code, "the issuer should be" in answer.text) == (403, True)


async def test_changed_keys_are_fetched_again(browser: Browser, provider: Provider) -> None:
    assert (await browser.sign_in()).status_code == 200
    provider.rotate()
    assert (await browser.sign_in()).status_code == 200


async def test_coming_back_needs_the_browser_that_left(
    tmp_path: Path, provider: Provider, browser: Browser
) -> None:
    back = await browser.leave()
    other = Browser(tmp_path, settings(tmp_path, provider))
    answer = await other.here.get(back)
    assert (answer.status_code, "began no sign-in" in answer.text) == (400, True)
    assert (await browser.here.get(back)).status_code == 200
    assert (await browser.here.get(back)).status_code == 400  # the same answer a second time


async def test_a_session_ends_with_its_hours_and_with_the_configuration(
    browser: Browser, tmp_path: Path
) -> None:
    old = sessions.Session("oidc:x", int(time.time()) - 13 * 3600, "acme", "operator")
    browser.here.cookies.set("marquee_session", sessions.issue(browser.door.secret, old))
    assert await browser.who() == {}
    plain = Browser(tmp_path, Settings(home=tmp_path))
    fresh = sessions.Session("oidc:x", int(time.time()), "acme", "operator")
    plain.here.cookies.set("marquee_session", sessions.issue(plain.door.secret, fresh))
    assert await plain.who() == {}
    assert (await plain.here.get("/sign-in/company")).status_code == 404


async def test_where_to_go_next_is_a_path_of_ours(browser: Browser, provider: Provider) -> None:
    answer = await browser.here.get("/sign-in/company?next=//evil.example")
    assert parse_qs(urlsplit(answer.headers["location"]).query)["redirect_uri"] == [
        f"{ORIGIN}/sign-in/company/back"
    ]
    async with httpx.AsyncClient() as out:
        back = (await out.get(answer.headers["location"])).headers["location"]
    assert 'content="0; url=/"' in (await browser.here.get(back)).text
