"""Calls that nobody in their right mind makes: each is refused by name, and costs nobody else anything."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from registry import keys
from registry.catalog import Share, Slug
from registry.database import Database
from registry.usage import Quantities
from router import ledger
from router.errors import AlreadyFinishedError
from router.requests import Outcome, RequestId, State
from tests.live import Live

pytestmark = pytest.mark.asyncio(loop_scope="module")
PROMPT = {"prompt": "a red circle on white"}


@pytest.mark.parametrize(
    ("more", "location"),
    [
        ({"seed": 1 << 64}, ["body", "seed"]),
        ({"loras": [{"path": "acme/toys-bent", "scale": 10**400}]}, ["body", "loras"]),
    ],
    ids=["seed", "scale"],
)
async def test_integers_that_the_link_cannot_carry_are_refused(
    live: Live, more: dict[str, Any], location: list[str]
) -> None:
    async with live.host().linked():
        answer = await live.client.post("/fal/run/acme/toys", json=PROMPT | more)
        detail = [{"loc": location, "msg": "integers have at most 64 bits", "type": "value_error"}]
        assert (answer.status_code, answer.json()) == (422, {"detail": detail})


async def test_what_cannot_be_sent_fails_and_holds_no_host(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    term = live.gateway.dispatcher.term
    async with live.host(slots=1).linked():
        with monkeypatch.context() as patch:
            patch.setattr(term.starts, "_send", None)
            answer = await live.client.post("/fal/run/acme/toys", json=PROMPT)
        assert (answer.status_code, answer.json()["error_type"]) == (500, "not_sent")
        assert (await live.client.post("/fal/run/acme/toys", json=PROMPT)).status_code == 200
        assert term.attempts == {}


@contextlib.asynccontextmanager
async def visiting(live: Live, token: str) -> AsyncIterator[httpx.AsyncClient]:
    """A browser that signed in with a key, and sends what its page's script sends."""
    origin = {"origin": live.url}
    async with httpx.AsyncClient(base_url=live.url, headers=origin, trust_env=False, timeout=20) as browser:
        await browser.post("/sign-in", data={"key": token})
        page = (await browser.get("/m/acme/toys")).text
        browser.headers["x-marquee-token"] = page.split('data-token="')[1].split('"')[0]
        yield browser


async def test_the_page_runs_nothing_for_a_key_that_may_not(live: Live) -> None:
    async with Database.open(live.gateway.db.dsn, connections=2) as db:
        reader = await keys.create(db, "customer", ["usage:read"])
    job = (await live.client.post("/fal/queue/acme/toys", json=PROMPT)).json()["request_id"]
    async with asyncio.timeout(10):
        while keys.hash_of(reader.token) not in live.gateway.house.core.catalogue.now.callers:
            await asyncio.sleep(0.02)
    async with visiting(live, reader.token) as browser:
        answers = [
            await browser.post("/page/runs/acme/toys", json=PROMPT),
            await browser.get(f"/page/requests/{job}/events"),
            await browser.post(f"/page/requests/{job}/cancel"),
        ]
    said = {"detail": "this key lacks the scope 'run'"}
    assert [(answer.status_code, answer.json()) for answer in answers] == [(403, said)] * 3
    await live.client.put(f"/fal/queue/acme/toys/requests/{job}/cancel")


async def test_the_page_says_what_is_wrong(live: Live) -> None:
    async with visiting(live, live.key) as browser:
        empty = await browser.post("/page/runs/acme/toys", json={"prompt": ""})
        unknown = await browser.post("/page/runs/acme/nothing", json=PROMPT)
        nobody = await browser.post("/page/requests/nobody/cancel")
        page = await browser.get("/", params={"page": "9" * 5000})
    assert (empty.status_code, empty.json()["detail"][0]["loc"]) == (422, ["body", "prompt"])
    assert [answer.status_code for answer in (unknown, nobody, page)] == [404, 404, 200]


@pytest.mark.parametrize("size", [[], {}, 5, "wide"])
async def test_a_size_that_is_none_is_a_bad_request(live: Live, size: Any) -> None:
    body = PROMPT | {"model": "acme/toys", "size": size}
    answer = await live.client.post("/openai/v1/images/generations", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "size")


async def test_a_body_of_many_levels_is_refused(live: Live) -> None:
    body = b'{"prompt": ' + b"[" * 700 + b"]" * 700 + b"}"
    answer = await live.client.post("/fal/queue/acme/toys", content=body, headers={"idempotency-key": "deep"})
    assert (answer.status_code, "nested too deeply" in answer.text) == (422, True)


async def test_the_name_of_a_character_is_not_the_character(live: Live) -> None:
    said = "a \\u0000 b"
    made = (await live.client.post("/fal/queue/acme/toys", json={"prompt": said})).json()
    assert (await live.client.put(made["cancel_url"])).status_code == 200


async def test_of_two_cancellations_at_once_one_ends_it(live: Live) -> None:
    made = (await live.client.post("/fal/queue/acme/toys", json=PROMPT)).json()
    core = live.gateway.house.core
    caller = core.catalogue.now.caller(live.key, "run")
    tries = (core.cancel(caller, made["request_id"]) for _ in range(3))
    answers = await asyncio.gather(*tries, return_exceptions=True)
    async with live.gateway.db.pool.connection() as connection:
        rows = await connection.execute(
            "SELECT state FROM usage_records WHERE request_id = %s", [made["request_id"]]
        )
        records = await rows.fetchall()
    assert [type(answer) for answer in answers] == [State, AlreadyFinishedError, AlreadyFinishedError]
    assert [record["state"] for record in records] == ["cancelled"]


async def test_a_range_without_bounds_of_reason_is_ignored(live: Live) -> None:
    sent = await live.client.post("/v1/files", content=b"hello", headers={"content-type": "image/png"})
    answer = await live.client.get(sent.json()["url"], headers={"range": f"bytes={'9' * 5000}-"})
    assert (answer.status_code, answer.content) == (200, b"hello")


async def test_a_prediction_that_ends_while_it_is_cancelled_stays_as_it_is(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, cancel = live.gateway.house.core, live.gateway.house.core.cancel
    made = await live.client.post("/replicate/v1/models/acme/toys/predictions", json={"input": PROMPT})

    async def too_late(caller: Any, request_id: str) -> Any:
        await cancel(caller, request_id)
        return await cancel(caller, request_id)

    monkeypatch.setattr(core, "cancel", too_late)
    answer = await live.client.post(f"/replicate/v1/predictions/{made.json()['id']}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "canceled")


async def test_an_outcome_that_cannot_be_stored_is_not_made_for_ever(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, it ran again every twenty seconds, until somebody looked."""
    measure = ledger.quantities

    def broken(outcome: Outcome) -> Quantities:
        if outcome.state is State.SUCCEEDED:
            raise OverflowError("int too large to convert to float")
        return measure(outcome)

    monkeypatch.setattr(ledger, "quantities", broken)
    hub = live.gateway.dispatcher.hub
    async with live.host("a").linked(), live.host("b").linked(), live.host("c").linked():
        job = (await live.client.post("/fal/queue/acme/toys", json=PROMPT)).json()
        async with asyncio.timeout(20):
            while (status := (await live.client.get(job["status_url"])).json())["status"] != "COMPLETED":
                await hub.reconcile(0.0)
                await asyncio.sleep(0.05)
    assert status["error_type"] == "too_many_host_faults"


async def test_what_a_term_remembers_of_requests_goes_with_them(live: Live) -> None:
    term, now = live.gateway.dispatcher.term, time.time()
    term._deadlines += [(now + 1e6 + n, RequestId(f"gone-{n}")) for n in range(5000)]
    soon = {"x-fal-request-timeout": "60"}
    job = (await live.client.post("/fal/queue/acme/toys", json=PROMPT, headers=soon)).json()
    assert [known[1] for known in term._deadlines] == [job["request_id"]]
    term.faulty[RequestId(job["request_id"])] = frozenset({"host-1"})
    await live.client.put(job["cancel_url"])
    assert term.faulty == {}


async def test_of_versions_that_share_the_traffic_the_one_that_is_asked_for_runs(live: Live) -> None:
    """Each was drawn twice: once to be compared with what was asked for, once to run."""
    catalogue = live.gateway.house.core.catalogue
    now, toys, late = catalogue.now, Slug("acme/toys"), Slug("acme/toys/late")
    second = msgspec.structs.replace(now.versions[late, 1], variant=toys, number=2)
    release = now.releases[toys][0]
    shares = (Share(version=1, percent=50), Share(version=2, percent=50))
    catalogue.now = msgspec.structs.replace(
        now,
        releases={**now.releases, toys: (msgspec.structs.replace(release, shares=shares),)},
        versions={**now.versions, (toys, 2): second},
        digests={**now.digests, (toys, 2): second.digest},
    )
    wanted = [now.digests[toys, 1], second.digest] * 6
    try:
        async with live.host().linked() as host:
            for digest in wanted:
                body = {"version": f"acme/toys:{digest.removeprefix('sha256:')}", "input": PROMPT}
                wait = {"Prefer": "wait=10"}
                made = await live.client.post("/replicate/v1/predictions", json=body, headers=wait)
                assert (made.status_code, made.json()["status"]) == (201, "succeeded")
            assert [assigned.version for assigned in host.assigned] == wanted
    finally:
        catalogue.now = now
