"""`GET /v1/requests`: filters, pages, what each caller may see, and what a page costs among a hundred thousand."""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from registry import keys, partitions
from registry.catalog import Caller, OrganizationName, Scope
from registry.database import Database
from registry.errors import InvalidRequestError
from router import logbook
from router.errors import ForbiddenError
from router.logbook import Logbook
from tests.live import furnish, serving

TODAY = dt.datetime.now(dt.UTC).replace(hour=12, minute=0, second=0, microsecond=0)
FILL = """
INSERT INTO requests (id, organization, key_id, slug, version, adapters, input, pool, priority, door, origin,
    state, created_at)
SELECT uuidv7(at - clock_timestamp()), organization, 'k', 'acme/m' || n %% 3, 'sha256:v', '[]', '{}', 'local', 'normal', 'fal', 'o',
    CASE WHEN n %% 1000 = 0 THEN 'failed' ELSE 'succeeded' END, at
FROM generate_series(1, %(count)s) AS n,
    LATERAL (SELECT %(until)s::timestamptz - n * interval '10 s' AS at, CASE WHEN n %% 20 = 0 THEN 'blue' ELSE 'green' END AS organization) AS r
"""


def caller(organization: str, *scopes: Scope) -> Caller:
    return Caller(organization=OrganizationName(organization), key_id="k", scopes=frozenset(scopes))


async def everything(book: Logbook, who: Caller, **given: str) -> list[list[logbook.Line]]:
    """All pages."""
    found, cursor = [], ""
    while True:
        page = await book.page(logbook.wishes(who, given | ({"cursor": cursor} if cursor else {})))
        found.append(list(page.requests))
        if page.next_cursor is None:
            return found
        cursor = page.next_cursor


def flat(pages: Sequence[Sequence[logbook.Line]]) -> list[str]:
    return [line.id for page in pages for line in page]


@pytest.fixture
async def book(db: Database) -> Logbook:
    """Ten thousand requests over a bit more than a day, one in twenty blue's, one in a thousand failed."""
    async with db.pool.connection() as connection:
        await partitions.prepare(connection, ["requests"], TODAY.date() - dt.timedelta(days=2), 2)
        await connection.execute(FILL, {"count": 10_000, "until": TODAY})
        await connection.execute("VACUUM ANALYZE requests")
    return Logbook(db=db, catalogue=None)  # type: ignore[arg-type]  no key is looked up here


async def stored(db: Database, where: str) -> list[str]:
    async with db.pool.connection() as connection:
        rows = await connection.execute(
            f"SELECT id::text FROM requests WHERE {where} ORDER BY id DESC".encode()
        )
        return [row["id"] for row in await rows.fetchall()]


@pytest.mark.parametrize(
    ("who", "given", "where"),
    [
        (caller("blue", "run"), {"limit": "500"}, "organization = 'blue'"),
        (caller("blue", "run"), {"slug": "acme/m1", "limit": "99"}, "organization = 'blue' AND slug = 'acme/m1'"),
        (caller("blue", "run"), {"status": "failed"}, "organization = 'blue' AND state = 'failed'"),
        (caller("ops", "operate"), {"status": "failed,queued", "limit": "3"}, "state = 'failed'"),
        (caller("ops", "operate"), {"organization": "green", "limit": "500"}, "organization = 'green'"),
        (
            caller("green", "usage:read"),
            {"since": f"{TODAY - dt.timedelta(hours=2):%Y-%m-%dT%H:%M}", "until": f"{TODAY - dt.timedelta(hours=1):%Y-%m-%dT%H:%M}"},
            "organization = 'green' AND id >= '{}' AND id < '{}'".format(
                *(partitions.uuid7(int((TODAY.timestamp() - ago) * 1000), 0) for ago in (7200, 3600))
            ),
        ),
        (caller("nobody", "run"), {}, "false"),
    ],
)  # fmt: skip
async def test_pages_hold_what_was_wished_for_once_and_in_order(
    db: Database, book: Logbook, who: Caller, given: dict[str, str], where: str
) -> None:
    pages = await everything(book, who, **given)
    expected = await stored(db, where)
    assert (flat(pages), where == "false") == (expected, not expected)
    assert max(map(len, pages)) <= int(given.get("limit", logbook.PAGE))


async def test_a_rare_wish_is_answered_in_bounded_steps(
    book: Logbook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logbook, "LOOKS", 70)
    pages = await everything(book, caller("blue", "run"), status="failed")
    assert (len(pages), len(flat(pages))) == (8, 10)  # 500 of blue's, 70 at a time


async def test_a_page_is_read_from_the_index(db: Database, book: Logbook) -> None:
    wishes = logbook.wishes(caller("blue", "run"), {"slug": "acme/m1", "since": f"{TODAY:%Y-%m-%d}"})
    parameters = {name: getattr(wishes, name) for name in wishes.__struct_fields__} | {"looks": 100}
    async with db.pool.connection() as connection:
        plan = await connection.execute(
            b"EXPLAIN " + logbook.QUERIES["page"].encode(), parameters, prepare=False
        )
        text = "\n".join(row["QUERY PLAN"] for row in await plan.fetchall())
    assert f"Index Only Scan Backward using requests_{TODAY:%Y%m%d}_organization_id" in text, text
    assert "Seq Scan" not in text


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"state": "failed"}, "state"),
        ({"status": "broken"}, "status"),
        ({"since": "yesterday"}, "since"),
        ({"until": "99999-01-01"}, "until"),
        ({"limit": "0"}, "limit"),
        ({"limit": "501"}, "limit"),
        ({"limit": "9" * 5000}, "limit"),
        ({"cursor": "x"}, "cursor"),
    ],
)
def test_a_filter_that_says_nothing_is_refused(given: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        logbook.wishes(caller("blue", "run"), given)
    assert refused.value.field == field


def test_only_operators_ask_for_others() -> None:
    with pytest.raises(ForbiddenError):
        logbook.wishes(caller("blue", "run"), {"organization": "green"})


async def test_callers_see_their_own_with_what_they_cost(dsn: str, tmp_path: Path) -> None:
    tokens = await furnish(dsn)
    async with Database.open(dsn, connections=2) as db:
        operator = (await keys.create(db, "operator", ["operate"])).token
        publisher = (await keys.create(db, "customer", ["models:publish"])).token
    async with serving(dsn, tmp_path, tokens) as live, live.host().linked():
        answer = await live.client.post("/fal/run/acme/toys", json={"prompt": "a"})
        mine = answer.headers["x-fal-request-id"]
        async with live.visit(live.stranger) as stranger:
            await stranger.post("/fal/run/acme/other", json={"prompt": "b"})
            theirs = (await stranger.get("/v1/requests")).json()["requests"]
        (line,) = (await live.client.get("/v1/requests", params={"status": "succeeded"})).json()["requests"]
        told = ("id", "slug", "organization", "status", "unit", "units", "amount", "currency")
        assert [line.get(name) for name in told] == [
            mine, "acme/toys", "customer", "succeeded", "image", "1", "0.01", "USD",
        ]  # fmt: skip
        assert [one["organization"] for one in theirs] == ["stranger"]
        async with live.visit(operator) as ops:
            everybody: dict[str, Any] = (await ops.get("/v1/requests")).json()
        assert ([one["organization"] for one in everybody["requests"]], everybody["next_cursor"]) == (
            ["stranger", "customer"],
            None,
        )
        for key, status in ((publisher, 403), ("mq_nobody", 401), (None, 401)):
            async with live.visit(key) as client:
                assert (await client.get("/v1/requests")).status_code == status
        refused = await live.client.get("/v1/requests", params={"state": "failed"})
        assert (refused.status_code, refused.json()["detail"][:6]) == (422, "state:")
