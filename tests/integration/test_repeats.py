"""A submit that is repeated with its Idempotency-Key is one request, at every door, whatever dies in between."""

import asyncio

import psycopg
import pytest

from registry.catalog import OrganizationName
from registry.database import Database
from router import repeats
from router.repeats import Repeats, repeat
from router.requests import RequestId
from tests.live import Live

PROMPT = {"prompt": "a red circle on white", "seed": 7}
SLUG = "acme/toys"

pytestmark = pytest.mark.asyncio(loop_scope="module")


def counted(dsn: str, table: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return int(row[0])


async def test_a_run_that_is_asked_for_again_is_made_and_billed_once(live: Live, module_dsn: str) -> None:
    before = counted(module_dsn, "usage_records")
    async with live.host().linked() as host:
        headers = {"idempotency-key": "run"}
        answers = [
            await live.client.post("/fal/run/acme/toys", json=PROMPT, headers=headers) for _ in range(3)
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert len({answer.headers["x-fal-request-id"] for answer in answers}) == 1
        assert len({answer.text for answer in answers}) == 1
        assert len(host.assigned) == 1
    assert counted(module_dsn, "usage_records") == before + 1


async def test_those_that_come_at_once_are_one_request(live: Live, module_dsn: str) -> None:
    before = counted(module_dsn, "requests")
    headers = {"idempotency-key": "at once"}
    async with live.host().linked() as host:
        calls = [live.client.post("/fal/queue/acme/toys", json=PROMPT, headers=headers) for _ in range(8)]
        found = {(await call).json()["request_id"] for call in asyncio.as_completed(calls)}
        (request_id,) = found
        await live.until(f"/fal/queue/acme/toys/requests/{request_id}/status", "COMPLETED")
        assert [key.attempt.request_id for key in host.assigned] == [request_id]
    assert counted(module_dsn, "requests") == before + 1


async def test_a_key_with_another_input_is_refused_by_name(live: Live) -> None:
    headers = {"idempotency-key": "other"}
    first = await live.client.post("/fal/queue/acme/toys", json=PROMPT, headers=headers)
    other = await live.client.post("/fal/queue/acme/toys", json=PROMPT | {"seed": 8}, headers=headers)
    assert (first.status_code, other.status_code) == (200, 422)
    assert other.json()["detail"].endswith("a new request needs a new key")
    await live.client.put(first.json()["cancel_url"])


async def test_a_refused_request_claims_nothing(live: Live) -> None:
    headers = {"idempotency-key": "refused"}
    wrong = await live.client.post("/fal/queue/acme/toys", json={"seed": "x"}, headers=headers)
    right = await live.client.post("/fal/queue/acme/toys", json=PROMPT, headers=headers)
    assert (wrong.status_code, right.status_code) == (422, 200)
    await live.client.put(right.json()["cancel_url"])


async def test_every_door_knows_it(live: Live) -> None:
    headers = {"idempotency-key": "doors"}
    async with live.host().linked() as host:
        for path, body in (
            ("/replicate/v1/models/acme/toys/predictions", {"input": PROMPT}),
            ("/openai/v1/images/generations", {"model": SLUG, "prompt": "x"}),
            ("/hf/models/acme/toys", {"inputs": "x"}),
        ):
            named = headers | {"idempotency-key": path}
            assert (
                len({(await live.client.post(path, json=body, headers=named)).status_code for _ in range(2)})
                == 1
            )
        assert len(host.assigned) == 3
    too_long = await live.client.post(
        "/fal/run/acme/toys", json=PROMPT, headers={"idempotency-key": "k" * 201}
    )
    assert too_long.status_code == 422


async def test_what_died_after_its_claim_is_submitted_under_the_claimed_id(db: Database) -> None:
    claims = Repeats(db)
    first = repeat(OrganizationName("acme"), "k", SLUG, PROMPT)
    mine, others = (RequestId(f"0190a000-0000-7000-8000-00000000000{n}") for n in (1, 2))
    assert await claims.claim(first, mine) == mine
    assert await claims.first(first) is None, "there is no request yet"
    assert await claims.claim(first, others) == mine
    rival = repeat(OrganizationName("rival"), "k", SLUG, PROMPT)
    assert await claims.claim(rival, others) == others, "keys are an organization's own"


async def test_a_key_is_free_again_after_a_day(db: Database) -> None:
    claims = Repeats(db)
    first = repeat(OrganizationName("acme"), "k", SLUG, PROMPT)
    old, new, newer = (RequestId(f"0190a000-0000-7000-8000-00000000000{n}") for n in (1, 2, 3))
    await claims.claim(first, old)
    async with db.pool.connection() as connection:
        await connection.execute("UPDATE repeats SET created_at = now() - interval '25 hours'")
        await repeats.forget_old(connection)
    assert await claims.claim(first, new) == new
    async with db.pool.connection() as connection:
        await repeats.forget_old(connection)
    assert await claims.claim(first, newer) == new
