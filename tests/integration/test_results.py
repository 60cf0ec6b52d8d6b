"""Results used again: identical requests at once run once, organizations stay apart, a failure repeats nothing."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import httpx
import pytest
import pytest_asyncio

from registry.database import Database
from tests.live import Live, furnish, serving

AGAIN = {"X-Marquee-Cache": "1"}
PUBLIC = '{"result_cache": "public", "result_cache_price": "0.002"}'

pytestmark = pytest.mark.asyncio(loop_scope="module")


def prompt(seed: int | None, **fields: Any) -> dict[str, Any]:
    return {"prompt": "a red circle on white", **({} if seed is None else {"seed": seed}), **fields}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(module_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    tokens = await furnish(module_dsn)
    async with Database.open(module_dsn, connections=2) as db, db.pool.connection() as connection:
        await connection.execute(
            "UPDATE variants SET defaults = %s::jsonb WHERE slug = 'acme/other'", [PUBLIC]
        )
    async with serving(module_dsn, tmp_path_factory.mktemp("home"), tokens) as running:
        yield running


async def run(
    client: httpx.AsyncClient,
    body: dict[str, Any],
    slug: str = "acme/toys",
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    return await client.post(f"/fal/run/{slug}", json=body, headers=AGAIN if headers is None else headers)


def is_hit(answer: httpx.Response) -> bool:
    return answer.headers.get("x-marquee-cache") == "hit"


async def test_identical_requests_at_once_are_one_run(live: Live) -> None:
    async with live.host().linked() as host:
        host.release.clear()
        calls = [asyncio.create_task(run(live.client, prompt(1))) for _ in range(5)]
        while not host.running:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        host.release.set()
        answers = await asyncio.gather(*calls)
        assert [answer.status_code for answer in answers] == [200] * 5
        assert (len(host.assigned), sum(map(is_hit, answers))) == (1, 4)
        assert len({answer.json()["images"][0]["url"] for answer in answers}) == 1
        assert len({answer.headers["x-fal-request-id"] for answer in answers}) == 5
        later = await run(live.client, {**prompt(1), "num_images": 1.0})
        assert (is_hit(later), later.json()["seed"], len(host.assigned)) == (True, 1, 1)


async def test_organizations_and_other_requests_run_for_themselves(live: Live) -> None:
    async with live.host().linked() as host, live.visit(live.stranger) as stranger:
        assert not is_hit(await run(live.client, prompt(2)))
        assert not is_hit(await run(stranger, prompt(2)))
        assert not is_hit(await run(live.client, prompt(3)))
        assert not is_hit(await run(live.client, prompt(2), "acme/toys/late"))
        assert not is_hit(await run(live.client, prompt(2), headers={}))
        assert not is_hit(await run(live.client, prompt(None)))
        assert not is_hit(await run(live.client, prompt(None)))
        lora = prompt(2, loras=[{"path": "acme/toys-bent"}])
        assert not is_hit(await run(live.client, lora))
        assert is_hit(await run(live.client, lora))
        assert len(host.assigned) == 8


async def test_a_failure_is_not_kept_and_the_next_one_runs(live: Live) -> None:
    async with live.host().linked() as host:
        host.fail_with = {"kind": "model", "error": "out_of_luck", "message": "no"}
        host.release.clear()
        first = asyncio.create_task(run(live.client, prompt(4)))
        while not host.running:
            await asyncio.sleep(0.01)
        second = asyncio.create_task(run(live.client, prompt(4)))
        third = (await live.client.post("/fal/queue/acme/toys", json=prompt(4), headers=AGAIN)).json()
        assert (await live.client.put(third["cancel_url"])).json() == {"status": "OK"}
        await asyncio.sleep(0.1)
        assert len(host.assigned) == 1
        host.release.set()
        assert (await first).status_code == 500
        while len(host.assigned) < 2:
            await asyncio.sleep(0.01)
        assert (await second).status_code == 500
        host.fail_with = None
        assert not is_hit(await run(live.client, prompt(4)))
        assert is_hit(await run(live.client, prompt(4)))


async def test_public_variants_share_and_hits_have_their_own_price(live: Live, module_dsn: str) -> None:
    async with live.host().linked() as host, live.visit(live.stranger) as stranger:
        made = await run(live.client, prompt(5), "acme/other", headers={})
        found = await run(stranger, prompt(5), "acme/other", headers={})
        assert (is_hit(made), is_hit(found)) == (False, True)
        assert not is_hit(await run(stranger, prompt(5), "acme/other", headers={"X-Marquee-Cache": "0"}))
        assert len(host.assigned) == 2
        free = [await run(live.client, prompt(6)) for _ in range(2)]
        assert list(map(is_hit, free)) == [False, True]
    ids = [answer.headers["x-fal-request-id"] for answer in (made, found, free[1])]
    async with Database.open(module_dsn, connections=2) as db, db.pool.connection() as connection:
        rows = await connection.execute(
            "SELECT reused, amount, run_seconds > 0 AS ran, images FROM usage_records"
            " WHERE request_id = ANY(%s::uuid[]) ORDER BY amount DESC",
            [ids],
        )
        charged = [tuple(row.values()) for row in await rows.fetchall()]
    assert charged == [
        (False, Decimal("0.01"), True, 1),
        (True, Decimal("0.002"), False, 1),
        (True, Decimal(0), False, 1),
    ]


async def test_a_result_whose_files_are_gone_is_made_again(live: Live) -> None:
    async with live.host().linked() as host:
        made = (await run(live.client, prompt(7))).json()
        files = live.gateway.house.files
        files.find(made["images"][0]["file_name"]).path.unlink()
        assert not is_hit(await run(live.client, prompt(7)))
        assert is_hit(await run(live.client, prompt(7)))
        assert len(host.assigned) == 2
