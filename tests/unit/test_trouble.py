"""A page that cannot be made is a page all the same; whoever asks for data gets problem details."""

import asyncio
import time
from typing import Any

import httpx
import psycopg
import pytest
from litestar import Litestar

from registry import edge
from registry.catalog import Caller, OrganizationName
from registry.dashboard import pages
from registry.web import sessions
from registry.web.signin import Door

OPERATOR = Caller(organization=OrganizationName("ops"), key_id="k", scopes=frozenset({"operate"}))
SECRET = bytes(32)
BROWSER = {"accept": "text/html,*/*;q=0.8"}


async def _find(_: str) -> Caller | None:
    return OPERATOR


@pytest.fixture
async def visit(monkeypatch: pytest.MonkeyPatch):
    """Asks for the overview, whose figures `make` cannot give."""

    async def visit(make: Any, headers: dict[str, str], query: str = "") -> httpx.Response:
        monkeypatch.setattr(pages.overview, "page", make)
        door = Door(secret=SECRET, verify=_find, find=_find)
        dashboard = pages.Dashboard(db=None, door=door)  # type: ignore[arg-type]
        app = Litestar(
            [pages.router(lambda: dashboard)],
            openapi_config=None,
            middleware=[edge.RequestContext()],
            exception_handlers=edge.problem_handlers(),
        )
        cookie = sessions.issue(SECRET, sessions.Session("k", int(time.time()), "", ""))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://g") as client:
            return await client.get(
                f"/dashboard{query}", headers={**headers, "cookie": f"{sessions.COOKIE}={cookie}"}
            )

    return visit


async def _lost(_: Any) -> Any:
    raise psycopg.OperationalError("the connection is lost")


async def _broken(_: Any) -> Any:
    raise ZeroDivisionError


async def _hanging(_: Any) -> Any:
    await asyncio.sleep(60)


async def test_without_the_database_a_page_says_so_and_loads_again(visit: Any) -> None:
    answer = await visit(_lost, BROWSER)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, edge.RETRY_SECONDS)
    assert answer.headers["content-type"].startswith("text/html")
    for said in ("Database unavailable", 'http-equiv="refresh" content="5"', "tries again every 5 seconds"):
        assert said in answer.text


async def test_a_database_that_hangs_does_not_hold_a_page(
    visit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "LONGEST_SECONDS", 0.05)
    answer = await visit(_hanging, BROWSER)
    assert (answer.status_code, "did not answer within" in answer.text) == (503, True)


async def test_our_own_fault_names_its_log_entry_and_is_not_repeated(visit: Any) -> None:
    answer = await visit(_broken, {**BROWSER, "x-request-id": "entry-7"})
    assert (answer.status_code, "entry-7" in answer.text, "refresh" in answer.text) == (500, True, False)


@pytest.mark.parametrize(
    ("headers", "query"),
    [({"accept": "*/*"}, ""), (BROWSER, "?csv=requests")],
    ids=["a program", "an export"],
)
async def test_whoever_asks_for_data_gets_problem_details(
    visit: Any, headers: dict[str, str], query: str
) -> None:
    answer = await visit(_lost, headers, query)
    assert (answer.status_code, answer.json()["title"]) == (503, "Database unavailable")
